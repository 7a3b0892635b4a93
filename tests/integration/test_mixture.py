"""Runs of several tasks: shares, metrics a task, the same prompts after a resume, and the mixtures that have a name."""

import json
import runpy
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from posttrain.metrics import read_rows

MIX = ("task=[arithmetic,differences]", "mixture.differences.share=3", "+mixture.differences.rewards.vowels=0.5")


def prompts(folder, step):
    rows = pq.read_table(folder / "episodes" / f"step_{step:06d}.parquet").to_pylist()
    return [(row["task"], row["prompt_id"]) for row in rows], rows


def test_two_tasks_in_one_run(start):
    whole = start("whole", *MIX, "train.steps=2")
    assert whole.finish().code == 0, whole.err.read_text()
    for step in (1, 2):
        sampled, episodes = prompts(whole.folder, step)
        assert Counter(task for task, _ in sampled) == {"arithmetic": 16, "differences": 48}
    by_task = {row["task"]: row for row in episodes}
    assert json.loads(by_task["arithmetic"]["weights"]) == {"numeric": 1.0, "vowels": 1.0}
    assert json.loads(by_task["differences"]["weights"]) == {"numeric": 1.0, "vowels": 0.5}
    first, last = read_rows(whole.folder / "metrics.jsonl")
    for row in (first, last):
        assert {f"eval/{task}/reward_mean" for task in by_task} | {f"reward/task/{task}" for task in by_task} <= row.keys()
        assert row["reward/mean"] == pytest.approx(0.25 * row["reward/task/arithmetic"] + 0.75 * row["reward/task/differences"])
        assert row["rewards/scored"] == 64
        assert row["rewards/error"] == row["rewards/timeout"] == row["rewards/crash"] == 0


@pytest.mark.slow
def test_a_resumed_mixture_goes_on_with_the_same_prompts(start):
    whole = start("whole", *MIX, "train.steps=2")
    assert whole.finish().code == 0, whole.err.read_text()
    halved = start("halved", *MIX, "train.steps=1")
    assert halved.finish().code == 0, halved.err.read_text()
    resumed = start("halved", *MIX, "train.steps=2", "run.resume=true")
    assert resumed.finish().code == 0, resumed.err.read_text()
    assert prompts(halved.folder, 2)[0] == prompts(whole.folder, 2)[0]


@pytest.fixture
def judge(monkeypatch, tmp_path):
    """A judge's server that grades every aspect 7."""
    helpers = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "judge_server.py"))
    server = helpers["JudgeServer"]()
    aspects = ("complete", "correct", "fitting", "useful", "careful", "balanced", "coherent", "original")
    server.respond = lambda body: helpers["says"]({"reason": "", **dict.fromkeys(aspects, 7)})
    for name, value in {"URL": server.url, "MODEL": "m", "CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(f"POSTTRAIN_JUDGE_{name}", value)
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "double"), [("reasoning", "code_problems"), ("general", "instructions")])
def test_a_named_mixture_runs(name, double, start, judge):
    room = ("model.context_tokens=1024", "rollout.max_completion_tokens=24")
    few = ("train.steps=2", "algo.group_size=2", "eval.num_prompts=1", "eval.samples_per_prompt=1")
    running = start(name, f"mixture={name}", *room, *few)
    assert running.finish().code == 0, running.err.read_text()
    for step in (1, 2):
        sampled, episodes = prompts(running.folder, step)
        assert sorted(Counter(task for task, _ in sampled).values()) == [2] * 6 + [4]
        assert Counter(task for task, _ in sampled)[double] == 4
        assert all(json.loads(row["scores"]).keys() == json.loads(row["weights"]).keys() != set() for row in episodes)
    first, _ = read_rows(running.folder / "metrics.jsonl")
    assert first["rewards/scored"] == 16
    assert bool(judge.bodies) == (name == "general")
