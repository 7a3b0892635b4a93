"""On-policy distillation: a whole run, and the learner's part over ranks and ZeRO stages with a checkpoint in between."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from posttrain.algorithms.distill_onpolicy import DistillOnpolicyConfig
from posttrain.cluster import Cluster
from posttrain.config import ClusterConfig, TrainConfig
from posttrain.fleet import Learners, Teachers
from posttrain.judge_service import JudgeService
from posttrain.learner_spec import Distillation, LearnerSpec, TeacherSpec
from posttrain.metrics import read_rows
from posttrain.model import num_output_rows
from posttrain.packing import pack
from posttrain.served_teacher import ServedTeacher
from posttrain.teacher import Teacher
from posttrain.teacher_inputs import TeacherInputs
from posttrain.vision import Piece

BFLOAT16 = 0.06
"""Nats: the server computes in it, and two roundings of a logit between 4 and 8 differ by 0.03 each; another token's differ by 1."""


def test_the_divergence_falls_and_agrees_with_what_was_sampled(start, teacher_path):
    running = start("run", "algo=distill_onpolicy", f"algo.teacher={teacher_path}", "train.prompts_per_step=4", "train.steps=16")
    assert running.finish().code == 0, running.err.read_text()
    rows = read_rows(running.folder / "metrics.jsonl")
    divergences = [row["distill/kl_mean"] for row in rows]
    assert divergences[-1] < 0.5 * divergences[0]
    # The engine sampled and the teacher read its own template: the mean over samples is what was computed exactly.
    gaps = [row["distill/logprob_gap_mean"] for row in rows]
    assert abs(np.mean(gaps) - np.mean(divergences)) < 0.15 * np.mean(divergences)
    assert all(row["time/teacher_s"] > 0 and row["loss/without_gradient_fraction"] == 0 for row in rows)


@pytest.fixture(scope="module")
def answers(launch, tmp_path_factory):
    """The tiny model's answers with the tokens that it held likely."""
    folder = tmp_path_factory.mktemp("answers")
    keys = ["algo.teacher=builtin:tiny", "algo.group_size=4", "algo.min_reward=0.3", "algo.keep_per_prompt=1", "algo.top_k=4"]
    keys += ["algo=distill_offpolicy", "train.prompts_per_step=50", "rollout.max_completion_tokens=40"]
    running = launch(folder / "run", keys, folder / "log")
    assert running.finish().code == 0, running.err.read_text()
    return running


def test_a_teachers_answers_become_rows(answers):
    rows = [json.loads(line) for line in (answers.folder / "dataset.jsonl").read_text().splitlines()]
    episodes = [row for step in (1, 2) for row in pq.read_table(answers.folder / f"episodes/step_00000{step}.parquet").to_pylist()]
    assert len(episodes) == 88 * 4
    good = {row["prompt_id"] for row in episodes if row["status"] == "complete" and row["outcome"] >= 0.3 and row["turn_texts"][0].strip()}
    assert {row["id"].partition("#")[0] for row in rows} == good and len(rows) == len(good) > 0
    assert all([message["role"] for message in row["messages"]] == ["user", "assistant"] and row["reward"] >= 0.3 for row in rows)
    metrics = read_rows(answers.folder / "metrics.jsonl")
    assert sum(row["distill/rows"] for row in metrics) == len(rows)
    assert all(sum(value for name, value in row.items() if name.startswith("distill/")) == row["rollout/episodes"] for row in metrics)


@pytest.mark.slow
def test_what_the_engine_said_of_each_token_is_what_the_learner_finds_there(answers, launch, tmp_path):
    """The teacher's own weights as the student."""
    base = ("algo=sft", "model=tiny", "task=conversations", f"task.path={answers.folder}/dataset.jsonl", "task.heldout_fraction=0.3")
    student = launch(tmp_path / "student", ["algo.soft_targets=0.5", "train.steps=2", "train.warmup_steps=0"], tmp_path / "log", base)
    assert student.finish().code == 0, student.err.read_text()
    first, second = read_rows(student.folder / "metrics.jsonl")
    assert abs(first["distill/kl_mean"]) < 1e-5 and abs(first["distill/logprob_gap_mean"]) < 1e-4
    assert second["distill/kl_mean"] > 1e-5 and first["eval/conversations/kl"] < 1e-5


@pytest.mark.slow
def test_vllms_server_says_what_the_model_says(random_groups, teacher_path, tmp_path):
    groups = random_groups(0, num_groups=2, group_size=2)
    (batch,) = pack(groups, normalization="token_mean", microbatch_tokens=10_000)
    rows = num_output_rows(teacher_path)
    with JudgeService(teacher_path, deadline_s=200) as service:
        service.start(tmp_path)
        scores = []
        for worker, path in ((ServedTeacher, f"http://127.0.0.1:{service.port}/v1"), (Teacher, teacher_path)):
            spec = TeacherSpec(
                model_path=path, dtype="float32", attention="auto", output_rows=rows, head_chunk_mb=1.0,
                temperature=1.0, distillation=Distillation(support="topk", top_k=8), threads=2,
            )  # fmt: skip
            teacher = worker(spec)
            teacher.start()
            scores.append(teacher.score(batch)[1])
    served, own = scores
    torch.testing.assert_close(served.logprobs.tensor(), own.logprobs.tensor(), rtol=0, atol=BFLOAT16)
    torch.testing.assert_close(served.top_logprobs.tensor(), own.top_logprobs.tensor(), rtol=0, atol=BFLOAT16)


def specs(tiny_path, teacher, stage, threads):
    train = TrainConfig(zero_stage=stage, warmup_steps=0, lr=1e-3)
    common = {"dtype": "float32", "attention": "auto", "temperature": 1.0, "distillation": Distillation(), "threads": threads}
    learner = LearnerSpec(model_path=tiny_path, train=train, seed=0, freeze=("*embed_tokens*", "*.layers.1.*"), **common)
    return learner, TeacherSpec(model_path=teacher.path, output_rows=teacher.output_rows, head_chunk_mb=1.0, **common)


def distill(tiny_path, teacher, groups, folder, ranks, stage):
    """Loss and weights after two steps of a micro-batch each, the second of them from a saved and loaded checkpoint."""
    config = ClusterConfig(num_learners=ranks, num_engines=0, engine_cpus=1, learner_cpus=1)
    with Cluster(config, folder / "logs", num_teachers=1) as cluster:
        learners = Learners(cluster, lambda n: specs(tiny_path, teacher, stage, n)[0])
        teachers = Teachers(cluster, [teacher], lambda given, n: specs(tiny_path, given, stage, n)[1])
        cluster.wait([*learners.begin_start(), *teachers.begin_start()])
        teachers.give_heads(learners)
        objective, losses = DistillOnpolicyConfig(teacher=teacher.path).objective(), []
        for step in range(3):
            batches = [
                part for batch in pack(groups, normalization="token_mean", microbatch_tokens=10_000) for part in teachers.part(batch)
            ]
            teachers.score(batches)
            losses.append(learners.step(batches, objective).sums["loss"])
            if step == 0:
                learners.save(str(folder / "checkpoint"))
            if step == 1:
                onward = exported(learners)
                learners.load(str(folder / "checkpoint"))
        again = exported(learners)
    assert all(torch.equal(onward[name], again[name]) for name in onward), "a loaded checkpoint does not continue exactly"
    assert losses[1] == losses[2] < losses[0]
    return losses, onward


def exported(learners):
    ref, _ = learners.export()
    return {item.name: item.tensor().clone() for item in ray.get(ref)}


def test_ranks_and_stages_make_the_same_update_and_leave_frozen_parameters_alone(random_groups, tiny_path, teacher_path, tmp_path):
    before = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).state_dict()
    rows = before["lm_head.weight"].shape[0]
    groups = random_groups(0, num_groups=2, group_size=2)
    prompts = {group.prompt.id: Piece(token_ids=np.arange(10, 20)) for group in groups}
    teacher = TeacherInputs(name="teacher_0", path=teacher_path, output_rows=rows, prompts=prompts)
    losses, weights = distill(tiny_path, teacher, groups, tmp_path / "one", ranks=1, stage=1)
    # A single micro-batch: the second rank has nothing to do but takes part.
    others, spread_weights = distill(tiny_path, teacher, groups, tmp_path / "two", ranks=2, stage=3)
    assert others == pytest.approx(losses, rel=1e-5)
    for name in weights:
        assert (weights[name] - spread_weights[name]).norm() <= 1e-5 * weights[name].norm()
    frozen = {name for name in before if "embed_tokens" in name or ".layers.1." in name or name == "lm_head.weight"}
    assert {name for name in before if torch.equal(before[name], weights[name])} == frozen
    assert {name for name in before if torch.equal(before[name], spread_weights[name])} == frozen
