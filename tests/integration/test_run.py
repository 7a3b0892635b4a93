"""A whole tiny run with killed and resumed copies: what it leaves behind, that its numbers hold, and that a kill changes nothing."""

import json
import math
import random
import time

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.metrics import read_rows

STEPS = 6
OVERRIDES = [f"train.steps={STEPS}", "run.checkpoint_every=1", "eval.every=3", "train.prompts_per_step=4", "algo.group_size=4"]

NAMES = [
    "step",
    "policy_version",
    "reward/mean",
    "reward/std",
    "reward/numeric",
    "reward/vowels",
    "rollout/completion_tokens_mean",
    "rollout/truncated_fraction",
    "rollout/tokens_per_s",
    "rollout/groups_without_signal_fraction",
    "rollout/entropy",
    "loss/total",
    "loss/grad_norm",
    "loss/ratio_max",
    "mismatch/logprob_abs_mean",
    "mismatch/logprob_abs_max",
    "mismatch/k3",
    "sync/canary_abs_max",
    "time/step_s",
    "time/rollout_s",
    "time/reward_s",
    "time/learn_s",
    "time/publish_s",
]


def comparable(row):
    """A row without what depends on the clock."""
    return {name: value for name, value in row.items() if not name.startswith("time/") and name != "rollout/tokens_per_s"}


def final_weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder / f"checkpoints/step_{STEPS}/hf", dtype=torch.float32).state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, launch):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    running = launch(folder / "run", OVERRIDES, folder / "log")
    running.wait_for(lambda: "engine_0.log" in running.out.read_text() or len(running.descendants()) > 5)
    family = running.descendants()
    result = running.finish()
    assert result.code == 0, result.err
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    return folder / "run", result


def test_metrics_have_a_row_a_step_with_every_name(whole):
    folder, result = whole
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert not set(NAMES) - row.keys()
        assert all(math.isfinite(value) for value in row.values())
    evaluated = {row["step"]: row["eval/policy_version"] for row in rows if "eval/arithmetic/reward_mean" in row}
    assert evaluated == {1: 0, 3: 3, STEPS: STEPS}
    assert "held out, after step 0" in result.out and "checkpoints/step_6/hf" in result.out


def test_engine_and_learner_agree_on_every_sampled_token(whole):
    for row in read_rows(whole[0] / "metrics.jsonl"):
        assert 0 < row["mismatch/logprob_abs_max"] <= 1e-3
        assert 0 < row["sync/canary_abs_max"] <= 1e-3


def test_recorded_episodes_are_scored_alike_by_the_exported_model(whole):
    """The last step's episodes were written by the weights before it; the learner of plain transformers agrees."""
    folder, _ = whole
    table = pq.read_table(folder / f"episodes/step_{STEPS:06d}.parquet").to_pylist()
    assert len(table) == 16 and {row["policy_version"] for row in table} == {STEPS - 1}
    model = AutoModelForCausalLM.from_pretrained(folder / f"checkpoints/step_{STEPS - 1}/hf", dtype=torch.float32)
    for row in table[:4]:
        prompt, written = row["prompt_token_ids"], row["turn_token_ids"][0]
        with torch.no_grad():
            logprobs = torch.log_softmax(model(input_ids=torch.tensor([prompt + written])).logits[0].float(), -1)
        scored = logprobs[len(prompt) - 1 : -1].gather(1, torch.tensor(written)[:, None])[:, 0]
        np.testing.assert_allclose(scored.numpy(), row["turn_logprobs"][0], atol=1e-3)


def test_the_run_folder_says_how_it_was_made(whole):
    folder, _ = whole
    assert "tau_neg: 1.05" in (folder / "config.yaml").read_text()
    assert json.loads((folder / "versions.json").read_text())["deepspeed"]
    assert list((folder / "tensorboard").iterdir())
    exported = folder / f"checkpoints/step_{STEPS}/hf"
    assert AutoTokenizer.from_pretrained(exported).chat_template
    assert not torch.equal(
        next(iter(final_weights(folder).values())), next(iter(AutoModelForCausalLM.from_pretrained(_tiny()).state_dict().values()))
    )


def _tiny():
    from posttrain.builtin_models import resolve

    return resolve("builtin:tiny")


def test_a_run_killed_at_several_moments_ends_as_if_it_had_not_been(whole, start):
    """kill -9 at random moments, once while a checkpoint is being written; then resumed to the end."""
    moments = random.Random(0)
    running = start("killed", *OVERRIDES)
    metrics, checkpoints = running.folder / "metrics.jsonl", running.folder / "checkpoints"
    assert running.wait_for(lambda: len(read_rows(metrics)) >= 1)
    time.sleep(moments.uniform(0, 1))
    running.kill()
    reached = [len(read_rows(metrics))]
    assert reached[0] < STEPS, "killed too late to mean anything"

    running = start("killed", *OVERRIDES, "run.resume=true")
    drafts = lambda: [p for p in checkpoints.glob(".draft_*") if (p / "deepspeed").exists()]  # noqa: E731
    assert running.wait_for(lambda: bool(drafts()) and len(read_rows(metrics)) > reached[0])
    running.kill()
    assert drafts(), "the checkpoint was finished before the kill"

    result = start("killed", *OVERRIDES, "run.resume=true").finish()
    assert result.code == 0, result.err
    assert "resumed from" in result.out
    folder, _ = whole
    assert list(map(comparable, read_rows(metrics))) == list(map(comparable, read_rows(folder / "metrics.jsonl")))
    expected, got = final_weights(folder), final_weights(running.folder)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_resuming_a_finished_run_says_so_and_changes_nothing(whole, start, tmp_path):
    import shutil

    shutil.copytree(whole[0], tmp_path / "copy")
    before = (tmp_path / "copy/metrics.jsonl").read_text()
    result = start("copy", *OVERRIDES, "run.resume=true").finish()
    assert result.code == 0 and "raise train.steps to go on" in result.out
    assert (tmp_path / "copy/metrics.jsonl").read_text() == before


def test_the_exported_model_trains_on_and_several_minibatches_are_off_policy(whole, start):
    """The exported folder is a model for vLLM and transformers; two optimizer steps a rollout batch, two engines."""
    path = whole[0] / f"checkpoints/step_{STEPS}/hf"
    overrides = [f"model.path={path}", "train.steps=4", "train.minibatches=2", "train.prompts_per_step=4", "algo.group_size=4"]
    running = start("onward", *overrides, "cluster.num_engines=2", "train.lr=1e-2")
    result = running.finish()
    assert result.code == 0, result.err
    rows = read_rows(running.folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[1]["loss/ratio_max"] > 1.01 and rows[1]["loss/log_ratio_0.1_0.2"] >= 0
    assert rows[0]["loss/ratio_max"] == pytest.approx(1.0, abs=1e-3)
