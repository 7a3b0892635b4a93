"""A run whose rewards hang, die and lose their judge for a while: it finishes, counts what happened, and no failure is a 0."""

import json
import os
import runpy
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from posttrain.metrics import read_rows


@pytest.fixture
def judge(monkeypatch, tmp_path):
    """judge(outage_s, deadline_s): says that answers are right, but is out of order for a while from its twentieth question on."""
    helpers = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "judge_server.py"))
    server = helpers["JudgeServer"]()
    asked: list[float] = []

    def begin(outage_s, deadline_s):
        def respond(body):
            asked.append(time.monotonic())
            out_of_order = len(asked) >= 20 and asked[-1] - asked[19] < outage_s
            return helpers["Reply"](status=503) if out_of_order else helpers["says"]({"reason": "", "correct": True})

        server.respond = respond
        settings = {"URL": server.url, "MODEL": "m", "CACHE": str(tmp_path / "cache"), "DEADLINE": str(deadline_s)}
        for name, value in settings.items():
            monkeypatch.setenv(f"POSTTRAIN_JUDGE_{name}", value)

    yield begin
    server.close()


def check(running, num_steps, timeout_s):
    """Every episode has all scores or a failure that is the injected one, and the metrics count them; the rows, and the failures seen."""
    fault = runpy.run_path(str(Path(os.environ["PYTHONPATH"]) / "vowel_rewards.py"))["fault"]
    rows = read_rows(running.folder / "metrics.jsonl")
    assert len(rows) == num_steps
    seen: Counter[str] = Counter()
    for step in range(1, num_steps + 1):
        for episode in pq.read_table(running.folder / "episodes" / f"step_{step:06d}.parquet").to_pylist():
            weights = set(json.loads(episode["weights"]))
            kind = fault(episode["turn_texts"][-1]) if episode["task"] == "arithmetic" else None
            expected = {
                "hang": f"reward faulty: no answer within {timeout_s:g} s",
                "crash": "reward faulty: its process died with SIGSEGV",
            }.get(kind)
            if kind is None and episode["status"] == "failed":
                kind, expected = "outage", episode["failure"]
                assert expected.startswith("reward judge_reference: JudgeFailure: ")
            assert episode["failure"] == expected
            assert set(json.loads(episode["scores"])) == weights and bool(weights) == (expected is None)
            seen[kind or "scored"] += 1
    assert sum(seen.values()) == num_steps * 64 and seen["hang"] and seen["crash"] and seen["outage"]
    for name, kind in (("scored", "scored"), ("timeout", "hang"), ("crash", "crash"), ("error", "outage")):
        assert sum(row[f"rewards/{name}"] for row in rows) == seen[kind]
    return rows, seen


def test_a_run_with_faulty_rewards(start, judge):
    judge(outage_s=4, deadline_s=1)
    rewards = ("+task.rewards.faulty=1.0", "+task.rewards.judge_reference=0.5")
    running = start("faulty", *rewards, "rewards.timeout_s=3", "rewards.max_failure_fraction=1", "train.steps=6")
    assert running.finish().code == 0, running.err.read_text()
    rows, _ = check(running, 6, 3)
    # Waiting for rewards begins when everything is sampled: one time-out for all that hang, not one each; they share a core with the rest.
    assert max(row["time/reward_s"] for row in rows) < 3 * 3


@pytest.mark.slow
def test_a_minute_without_a_judge(start, judge):
    """Half of the tasks lose their judge for a minute while the others' rewards hang and crash: no step takes more than 1.2 time-outs."""
    judge(outage_s=60, deadline_s=8)
    mixed = ("task=[arithmetic,letters]", "+task.rewards.faulty=1.0", "+mixture.letters.rewards.judge_reference=0.5")
    running = start("outage", *mixed, "rewards.timeout_s=10", "rewards.max_failure_fraction=1", "train.steps=14")
    assert running.finish().code == 0, running.err.read_text()
    rows, seen = check(running, 14, 10)
    print(seen, [round(row["time/step_s"], 1) for row in rows])
    assert not rows[-1]["rewards/error"], "the outage was not over"
    assert max(row["time/step_s"] for row in rows) < 12
