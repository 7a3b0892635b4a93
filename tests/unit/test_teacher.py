"""The teacher in this process: what it says under its own template, who scores what, and a step's gradient however it is cut."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.algorithms.distill_onpolicy import DistillOnpolicyConfig
from posttrain.algorithms.divergences import DistillationLoss, Divergence
from posttrain.algorithms.losses import LossTokens
from posttrain.config import Config, ModelConfig, RolloutConfig
from posttrain.errors import UserError
from posttrain.fleet import Teachers
from posttrain.learner_spec import Distillation, TeacherSpec
from posttrain.model import TokenScorer, check_freeze, freeze, load_model, stream_tensors
from posttrain.packing import pack
from posttrain.rollout.render import Renderer
from posttrain.teacher import Teacher
from posttrain.teacher_head import TeacherHead
from posttrain.teacher_inputs import TeacherInputs, prepare_teachers, vocabulary_difference
from posttrain.types import Prompt
from posttrain.vision import Piece

CPU = torch.device("cpu")
BATCH = {"normalization": "token_mean", "microbatch_tokens": 10_000}


@pytest.fixture(scope="module")
def student(tiny_path):
    return load_model(tiny_path, "float32").train()


@pytest.fixture(scope="module")
def rows(student):
    return student.config.vocab_size


class Here:
    """A cluster whose workers are in this process."""

    teachers = SimpleNamespace(cpus=2)

    def spawn(self, name, target, spec, placement, index):
        worker = Teacher(spec)
        worker.start()
        return SimpleNamespace(name=name, worker=worker)

    def call_pair(self, member, method, *args):
        return getattr(member.worker, method)(*args)

    def wait(self, calls):
        return calls


def spec_of(path, rows, support, temperature=1.0):
    chosen = Distillation(support=support, top_k=8)
    return TeacherSpec(
        model_path=path, dtype="float32", attention="auto", output_rows=rows, head_chunk_mb=1.0,
        temperature=temperature, distillation=chosen, threads=2,
    )  # fmt: skip


def teachers_of(rows, support, prompts_by_path, temperature=1.0):
    """One teacher a path, for the prompts given with it."""
    inputs = [
        TeacherInputs(name=f"teacher_{index}", path=path, output_rows=rows, prompts=prompts)
        for index, (path, prompts) in enumerate(prompts_by_path.items())
    ]
    return Teachers(Here(), inputs, lambda teacher, threads: spec_of(teacher.path, rows, support, temperature))


def own_prompts(groups):
    return {group.prompt.id: Piece(token_ids=group.prompt_token_ids) for group in groups}


def score(student, teachers, batch, divergence, temperature=1.0):
    """What the learner's step gets from the model and a scored batch."""
    worker = next(member.worker for member in teachers.members if member.name == batch.teacher)
    head = TeacherHead(*(item.tensor() for item in worker.export_head()[1]))
    teaching = batch.teacher_scores.teaching(divergence, head, CPU)
    return TokenScorer(student, 0.1)(stream_tensors(batch, CPU, "blocks"), temperature, teaching)


@pytest.mark.parametrize("support", ["full", "topk", "sampled"])
def test_the_teacher_reads_its_own_prompt_and_the_students_tokens(random_groups, student, teacher_path, rows, support):
    groups = random_groups(5, num_groups=2, group_size=2)
    prompts = {group.prompt.id: Piece(token_ids=np.arange(10, 25 + index)) for index, group in enumerate(groups)}
    teachers = teachers_of(rows, support, {teacher_path: prompts}, temperature=0.8)
    (batch,) = (part for batch in pack(groups, **BATCH) for part in teachers.part(batch))
    teachers.score([batch])
    with torch.no_grad():
        *_, divergences, teacher_logprobs = score(student, teachers, batch, Divergence("forward"), temperature=0.8)
    whole = AutoModelForCausalLM.from_pretrained(teacher_path, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(student.config._name_or_path, dtype=torch.float32)
    expected, expected_divergences = [], []
    for t in np.flatnonzero(batch.loss_weights):
        own = np.flatnonzero((batch.segment_ids == batch.segment_ids[t]) & (np.arange(batch.num_tokens) < t))
        prompt = np.flatnonzero(batch.segment_ids == batch.prefix_ids[t])
        name = next(group.prompt.id for group in groups if group.prompt_token_ids.tolist() == batch.token_ids[prompt].tolist())
        log_p = log_softmax(whole, [*prompts[name].token_ids, *batch.token_ids[own]], rows)
        log_q = log_softmax(plain, [*batch.token_ids[prompt], *batch.token_ids[own]], rows)
        expected.append(log_p[batch.token_ids[t]].item())
        expected_divergences.append((log_p.exp() * (log_p - log_q)).sum().item())
    assert teacher_logprobs.numpy() == pytest.approx(expected, abs=2e-5)
    if support == "full":
        assert divergences.numpy() == pytest.approx(expected_divergences, abs=1e-5)
    if support == "topk":
        assert (divergences.numpy() <= np.array(expected_divergences) + 1e-6).all() and divergences.min() > 0


def log_softmax(model, token_ids, rows):
    """Of what follows these tokens, at temperature 0.8, over the first rows of the head."""
    with torch.no_grad():
        return (model(input_ids=torch.tensor([token_ids])).logits[0, -1, :rows] / 0.8).log_softmax(-1)


def gradients(student, teachers, batches, divergence):
    student.zero_grad()
    total = 0.0
    parts = [part for batch in batches for part in teachers.part(batch)]
    teachers.score(parts)
    for batch in parts:
        trained = batch.loss_weights != 0
        logprobs, _, divergences, _ = score(student, teachers, batch, divergence)
        zeros = torch.zeros(int(trained.sum()))
        tokens = LossTokens(
            policy_logprobs_N=logprobs,
            old_logprobs_N=zeros,
            behavior_logprobs_N=zeros,
            advantages_N=torch.tensor(batch.advantages[trained]),
            segments_N=torch.tensor(batch.segment_ids[trained]),
            divergences_N=divergences,
        )
        objective = DistillationLoss(task=lambda t: -t.advantages_N * t.policy_logprobs_N, task_weight=0.1)
        loss = (torch.tensor(batch.loss_weights[trained]) * objective(tokens)).sum()
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in student.parameters()])


@pytest.mark.parametrize("support", ["full", "topk", "sampled"])
@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_gradients_do_not_depend_on_how_the_step_is_cut(random_groups, student, teacher_path, rows, support, kind):
    groups = random_groups(1, num_groups=3, group_size=3)
    teachers = teachers_of(rows, support, {teacher_path: own_prompts(groups)})
    loss, reference = gradients(student, teachers, pack(groups, **BATCH), Divergence(kind))
    assert loss != 0
    for change in ({"microbatch_tokens": 30}, {"microbatch_tokens": 1, "shared_prefix": False}):
        changed_loss, changed = gradients(student, teachers, pack(groups, **{**BATCH, **change}), Divergence(kind))
        assert changed_loss == pytest.approx(loss, rel=1e-5)
        assert (changed - reference).norm() < 1e-5 * reference.norm()


def test_a_student_that_is_its_own_teacher_learns_nothing(random_groups, student, tiny_path, rows):
    groups = random_groups(2, num_groups=2, group_size=3)
    for group in groups:
        for episode in group.episodes:
            episode.advantage = 0.0
    teachers = teachers_of(rows, "full", {tiny_path: own_prompts(groups)})
    for kind in ("forward", "reverse", "jsd"):
        loss, gradient = gradients(student, teachers, pack(groups, **BATCH), Divergence(kind))
        assert abs(loss) < 1e-6 and gradient.abs().max() < 1e-6


def test_each_task_has_its_own_teacher(random_groups, student, tiny_path, teacher_path, rows):
    groups = random_groups(3, num_groups=4, group_size=2)
    prompts = own_prompts(groups)
    teachers = teachers_of(rows, "full", {teacher_path: {n: prompts[n] for n in "03"}, tiny_path: {n: prompts[n] for n in "12"}})
    (batch,) = pack(groups, **BATCH)
    first, second = teachers.part(batch)
    assert (first.teacher, second.teacher) == ("teacher_0", "teacher_1")
    assert set(first.prompt_ids) == {"0", "3"} and set(second.prompt_ids) == {"1", "2"}
    teachers.score([first, second])
    with torch.no_grad():
        assert score(student, teachers, second, Divergence())[2].abs().max() < 1e-6 < score(student, teachers, first, Divergence())[2].min()


def test_values_at_positions_that_are_not_trained_never_reach_a_gradient(random_groups, student, teacher_path, rows):
    groups = random_groups(4, num_groups=1, group_size=2, turns=2)
    teachers = teachers_of(rows, "full", {teacher_path: own_prompts(groups)})
    _, clean = gradients(student, teachers, pack(groups, **BATCH), Divergence())
    batches = pack(groups, **BATCH)
    for batch in batches:
        batch.behavior_logprobs[batch.loss_weights == 0] = np.inf
        batch.advantages[batch.loss_weights == 0] = np.nan
    _, poisoned = gradients(student, teachers, batches, Divergence())
    assert torch.equal(clean, poisoned)


def prepared(tiny_path, teacher, max_completion_tokens=24):
    """`prepare_teachers` for one task of one prompt."""
    prompt = Prompt(id="t/0", task="t", messages=[{"role": "user", "content": "2 + 3 ="}], reference="5")
    inputs = SimpleNamespace(model_path=tiny_path, geometry=None, tasks={"t": SimpleNamespace(train=[(prompt, None)])})
    config = Config(model=ModelConfig(path="builtin:tiny"), rollout=RolloutConfig(max_completion_tokens=max_completion_tokens))
    return prepare_teachers(config, inputs, {"t": teacher})


def test_the_teachers_template_renders_its_prompts(tiny_path, teacher_path):
    (teacher,) = prepared(tiny_path, teacher_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_path)
    text = tokenizer.decode(teacher.prompts["t/0"].token_ids)
    assert text.startswith("<|im_start|>system") and text.endswith("<|im_start|>assistant\n") and "2 + 3 =" in text
    own = Renderer(tokenizer).prompt([{"role": "user", "content": "2 + 3 ="}])
    assert teacher.prompts["t/0"].token_ids[-len(own) :].tolist() == own.tolist()


def test_another_vocabulary_is_refused_with_the_reason(tiny_path, teacher_path):
    with pytest.raises(UserError, match=r"algo\.teacher=builtin:smollm2: expected the vocabulary .* it has 49152 tokens, the student "):
        prepared(tiny_path, "builtin:smollm2")
    with pytest.raises(UserError, match=r"its output layer has \d+ rows, the student's "):
        prepared(teacher_path, tiny_path)
    with pytest.raises(UserError, match=r"prompt t/0 has \d+ tokens in its template, expected at most 14"):
        prepared(tiny_path, teacher_path, max_completion_tokens=1010)
    assert vocabulary_difference({"a": 0, "b": 1}, {"a": 0, "c": 1}) == "token 'c' is 1 to the student and unknown to it"
    assert vocabulary_difference({"a": 1, "b": 0}, {"a": 0, "b": 1}) == "token 'a' is 0 to the student and 1 to it"


def test_tasks_and_their_teachers():
    algo = DistillOnpolicyConfig(teacher="a", teachers={"y": "b"})
    assert algo.teacher_paths(["x", "y"]) == {"x": "a", "y": "b"}
    with pytest.raises(UserError, match=r"algo\.teachers\.y: the run has no such task; known: x"):
        algo.teacher_paths(["x"])
    with pytest.raises(UserError, match=r"algo\.teacher=null"):
        DistillOnpolicyConfig(teachers={"y": "b"}).teacher_paths(["x", "y"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "algo.teacher=None: expected a folder"),
        ({"divergence": "kl"}, "algo.divergence=kl: expected one of forward, reverse, jsd"),
        ({"support": "all"}, "algo.support=all: expected one of full, topk, sampled"),
        ({"beta": 0.0}, "algo.beta=0.0: expected a number between 0 and 1"),
        ({"top_k": 0}, "algo.top_k=0: expected at least 1"),
        ({"kl_coefficient": 0.1}, "algo.kl_coefficient=0.1: expected 0.0 where algo.task_weight is 0"),
        ({"task_weight": -1.0}, "algo.task_weight=-1.0: expected 0 or more"),
    ],
)
def test_mistakes_are_one_line(keys, said):
    with pytest.raises(UserError) as error:
        DistillOnpolicyConfig(**{"teacher": "a", **keys} if keys else {}).validate()
    assert str(error.value).startswith(said)


def test_frozen_parameters(tiny_path, student):
    check_freeze(tiny_path, ["*embed_tokens*"])
    with pytest.raises(UserError, match=r"model\.freeze: \*visual\* fits no parameter of .*; it has model\.embed_tokens\.weight"):
        check_freeze(tiny_path, ["*visual*"])
    with pytest.raises(UserError, match=r"model\.freeze=\['\*'\] leaves no parameter"):
        check_freeze(tiny_path, ["*"])
    model = load_model(tiny_path, "float32")
    freeze(model, ["*embed_tokens*", "*layers.0.*"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "embed_tokens" in name or "layers.0." in name}
