"""A teacher's distributions in rows: written, read, aligned with the tokens they are about, and learned from exactly."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.algorithms.distill_offpolicy import DistillOffpolicyConfig
from posttrain.algorithms.divergences import Divergence
from posttrain.algorithms.losses import LossTokens
from posttrain.algorithms.sft import SftConfig
from posttrain.algorithms.sft_recipe import SftRecipe
from posttrain.algorithms.teacher_answers import keep
from posttrain.config import Config, ModelConfig, RunConfig, TaskConfig, TrainConfig, validate
from posttrain.data.soft_targets import from_field, to_field
from posttrain.errors import UserError
from posttrain.model import TokenScorer, load_model, load_tokenizer, stream_tensors
from posttrain.rollout.engine import most_likely
from posttrain.rollout.transcript import Transcriber
from posttrain.types import Conversation, Episode, Group, Prompt, Turn

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tiny_path):
    return load_tokenizer(tiny_path)


def teacher_logprobs(text, num, vocabulary):
    """A teacher's whole distributions at `num` places, float64, from the text alone."""
    rng = np.random.default_rng(list(text.encode()))
    return torch.tensor(rng.normal(size=(num, vocabulary)) * 2).log_softmax(-1)


def turn_of(tokenizer, text, k):
    """What an engine that samples this teacher gives back, tokens that are not the text's usual ones included."""
    ids = [token for letter in text for token in tokenizer.encode(letter)] + [tokenizer.eos_token_id]
    log_p = teacher_logprobs(text, len(ids), len(tokenizer))
    top, top_ids = log_p.topk(k)
    return Turn(
        token_ids=np.array(ids),
        logprobs=log_p[np.arange(len(ids)), ids].numpy().astype(np.float32),
        text=text,
        stop_reason="stop",
        policy_version=0,
        top_ids=top_ids.numpy(),
        top_logprobs=top.numpy().astype(np.float32),
    )


def row_of(tokenizer, number, words, k):
    text = f"so it is {number} " + "and more " * words
    prompt = Prompt(id=f"t/{number}", task="t", messages=[{"role": "user", "content": f"{number}?"}], reference=number)
    episode = Episode(prompt_id=prompt.id, turns=[turn_of(tokenizer, text.strip(), k)], status="complete", outcome=1.0)
    group = Group(prompt=prompt, prompt_token_ids=np.ones(1, np.int64), episodes=[episode])
    ([row], _) = keep([group], DistillOffpolicyConfig(), {}, Path("there are no images to write"))
    return row


@pytest.fixture
def prepare(tmp_path, monkeypatch, tiny_path):
    """prepare(rows, **keys of algo): the recipe."""
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))

    def make(rows, budget=2048, context_tokens=512, **keys):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = Config(
            run=RunConfig(dir="x"),
            model=ModelConfig(path=tiny_path, dtype="float32", context_tokens=context_tokens),
            task=TaskConfig(name="chat", source="file", path=str(path), heldout_fraction=0.3),
            algo=SftConfig(**keys),
            train=TrainConfig(microbatch_tokens=budget),
        )
        validate(config)
        return SftRecipe.prepare(config, config.algo)

    return make


def loss_and_gradient(model, recipe, batches):
    """As the learner's step has them."""
    model.zero_grad()
    chosen, total = recipe.distillation(), 0.0
    for batch in batches:
        teaching = batch.teacher_scores.teaching(Divergence(chosen.kind, chosen.beta), None, CPU)
        logprobs, _, divergences, _ = TokenScorer(model, 0.05)(stream_tensors(batch, CPU, "blocks"), 1.0, teaching)
        zeros = torch.zeros_like(logprobs)
        tokens = LossTokens(
            policy_logprobs_N=logprobs,
            old_logprobs_N=zeros,
            behavior_logprobs_N=zeros,
            advantages_N=zeros,
            segments_N=zeros.long(),
            divergences_N=divergences,
        )
        loss = (torch.tensor(batch.loss_weights[batch.loss_weights != 0]) * recipe.objective()(tokens)).sum()
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def dense(path, tokenizer, rows, weight, k):
    """The mean over the answers' tokens from whole distributions in float64, by autograd alone."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation="sdpa")
    losses = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        before, answer = tokenizer.encode(prompt, add_special_tokens=False), row["soft_targets"]["token_ids"]
        logits = model(input_ids=torch.tensor([before + answer])).logits[0, len(before) - 1 : -1]
        log_q = logits.log_softmax(-1)
        log_p = teacher_logprobs(row["messages"][-1]["content"], len(answer), len(tokenizer))
        top, ids = log_p.topk(k)
        named = log_q.gather(1, ids)
        rest_p, rest_q = 1 - top.exp().sum(-1), 1 - named.exp().sum(-1)
        kl = (top.exp() * (top - named)).sum(-1) + rest_p * (rest_p / rest_q).log()
        losses.append(weight * kl - (1 - weight) * log_q.gather(1, torch.tensor(answer)[:, None])[:, 0])
    loss = torch.cat(losses).mean()
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_loss_and_gradient_are_those_of_whole_distributions(prepare, tiny_path, tokenizer, weight):
    """Rows of other lengths and of other numbers of named tokens, packed or not, cut or not."""
    rows = [row_of(tokenizer, i, i % 4, k=5 + i % 3) for i in range(8)]
    model = load_model(tiny_path, "float32").train()
    for budget, context in ((10_000, 512), (1, 512), (64, 24)):
        recipe = prepare(rows, budget, context, soft_targets=weight, epochs=1.0, rows_per_step=100, overlong="split")
        task = recipe.tasks["chat"]
        loss, gradient = loss_and_gradient(model, recipe, recipe.pack([("chat", row) for row in task.train], context))
        expected, expected_gradient = dense(tiny_path, tokenizer, [rows[i] for i in task.train], weight, k=5)
        if context == 512:  # a piece of a document sees less of it
            assert loss == pytest.approx(expected, rel=1e-5)
            assert (gradient - expected_gradient).norm() < 1e-5 * expected_gradient.norm()
        batches = recipe.pack([("chat", 3)], context)
        assert sum(len(batch.prompt_ids) for batch in batches) == (1 if context == 512 else 3)
        named = np.concatenate([batch.teacher_scores.top_ids.tensor() for batch in batches])
        assert named.tolist() == [ids[:5] for ids in rows[3]["soft_targets"]["top_ids"]]


def test_a_student_that_is_the_teacher_has_no_divergence(prepare, tiny_path, tokenizer):
    rows = [row_of(tokenizer, i, i % 4, k=5) for i in range(8)]
    model = load_model(tiny_path, "float32")
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        before, answer = tokenizer.encode(prompt, add_special_tokens=False), row["soft_targets"]["token_ids"]
        plain = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
        with torch.no_grad():
            log_p = plain(input_ids=torch.tensor([before + answer])).logits[0, len(before) - 1 : -1].log_softmax(-1)
        top, ids = log_p.topk(5)
        row["soft_targets"] |= {"top_ids": ids.tolist(), "top_logprobs": top.tolist()}
    recipe = prepare(rows, soft_targets=1.0, epochs=1.0)
    loss, gradient = loss_and_gradient(model, recipe, recipe.heldout()["chat"])
    assert abs(loss) < 1e-6 and gradient.abs().max() < 1e-4


def test_soft_targets_are_ignored_where_they_are_not_learned_from(prepare, tokenizer):
    rows = [row_of(tokenizer, i, 1, k=5) for i in range(8)]
    plain = prepare(rows, epochs=1.0)
    assert plain.distillation() is None and plain.batches(0)[0][0].teacher_scores is None
    without = [{name: value for name, value in row.items() if name != "soft_targets"} for row in rows]
    assert prepare(without, epochs=1.0).data_key == plain.data_key
    softer = prepare(rows, epochs=1.0, soft_targets=0.5)
    rows[0]["soft_targets"]["top_logprobs"][0][-1] -= 0.001
    assert len({plain.data_key, softer.data_key, prepare(rows, epochs=1.0, soft_targets=0.5).data_key}) == 3
    with pytest.raises(UserError, match=r"algo\.soft_targets=1\.5: expected a weight from 0 to 1"):
        SftConfig(soft_targets=1.5).validate()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.pop("soft_targets"), "no `soft_targets` to learn from; algo=distill_offpolicy writes them"),
        (lambda row: row["soft_targets"].pop("logprobs"), "expected token_ids, logprobs, top_ids and top_logprobs"),
        (lambda row: row["soft_targets"]["top_ids"].pop(), "expected a row of at least 1 for each token"),
        (lambda row: row["soft_targets"]["top_ids"][0].pop(), "expected token_ids, logprobs, top_ids and top_logprobs of equal length"),
        (lambda row: row["soft_targets"]["top_logprobs"][0].reverse(), "expected the most likely tokens first"),
        (lambda row: row["soft_targets"]["top_logprobs"][0].__setitem__(0, 0.5), "exponentials add up to more than 1"),
        (lambda row: row["soft_targets"]["top_ids"][1].__setitem__(0, 9999), "`soft_targets` name token 9999, and the model's tokenizer"),
        (lambda row: row["messages"][-1].update(content="Another answer."), "another vocabulary, or the message was changed"),
        (lambda row: row["messages"].append({"role": "user", "content": "?"}), "are the last message's, which has role user"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(prepare, tokenizer, change, said):
    rows = [row_of(tokenizer, i, 1, k=5) for i in range(12)]
    change(rows[3])
    with pytest.raises(UserError, match=r"rows\.jsonl line 4: ") as error:
        prepare(rows, soft_targets=0.5, epochs=1.0)
    assert said in str(error.value)
    assert prepare(rows, soft_targets=0.5, epochs=1.0, bad_rows="skip").counts["data/bad_rows"] == 1


def test_the_field_holds_what_the_engine_said(tokenizer):
    turn = turn_of(tokenizer, "a b", 7)
    targets = from_field("here", json.loads(json.dumps(to_field(turn))))
    assert (targets.token_ids.tolist(), targets.top_ids.tolist()) == (turn.token_ids.tolist(), turn.top_ids.tolist())
    np.testing.assert_allclose(targets.top_logprobs, turn.top_logprobs, atol=1e-6)
    np.testing.assert_allclose(targets.logprobs, turn.logprobs, atol=1e-6)


def test_only_the_last_turn_is_trained_after_its_own_context(tokenizer):
    said = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1."}, {"role": "user", "content": "2?"}]
    turn = turn_of(tokenizer, "two", 5)
    targets = from_field("here", to_field(turn))
    conversation = Conversation(where="here", digest=b"", messages=[*said, {"role": "assistant", "content": "two"}], soft_targets=targets)
    [document] = Transcriber(tokenizer, last_turn_only=False, may_cut=True).documents(conversation)
    assert document.token_ids[document.is_trained].tolist() == turn.token_ids.tolist()
    assert tokenizer.decode(document.token_ids[~document.is_trained]).count("<|im_start|>") == 4


def test_the_most_likely_tokens_are_told_best_first():
    def entry(logprob):
        return SimpleNamespace(logprob=logprob)

    rows = [
        {7: entry(-9.0), 3: entry(-0.5), 4: entry(-1.0)},
        {5: entry(-0.1), 2: entry(-3.0)},
    ]  # the first place's sample is none of its best
    ids, logprobs = most_likely(rows, 2)
    assert ids.tolist() == [[3, 4], [5, 2]]
    np.testing.assert_allclose(logprobs, [[-0.5, -1.0], [-0.1, -3.0]])
    assert most_likely(rows, 0) == (None, None)
