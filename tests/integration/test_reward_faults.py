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

TIMEOUT_S = 3.0
OUTAGE_S = 4.0


@pytest.fixture
def judge(monkeypatch, tmp_path):
    """A judge that says that answers are right, but for four seconds from its twentieth question on, in which it is out of order."""
    helpers = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "judge_server.py"))
    server = helpers["JudgeServer"]()
    asked: list[float] = []

    def respond(body):
        asked.append(time.monotonic())
        out_of_order = len(asked) >= 20 and asked[-1] - asked[19] < OUTAGE_S
        return helpers["Reply"](status=503) if out_of_order else helpers["says"]({"reason": "", "correct": True})

    server.respond = respond
    settings = {"URL": server.url, "MODEL": "m", "CACHE": str(tmp_path / "cache"), "DEADLINE": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"POSTTRAIN_JUDGE_{name}", value)
    yield server
    server.close()


def test_a_run_with_faulty_rewards(start, judge):
    fault = runpy.run_path(str(Path(os.environ["PYTHONPATH"]) / "vowel_rewards.py"))["fault"]
    rewards = ("+task.rewards.faulty=1.0", "+task.rewards.judge_reference=0.5")
    running = start("faulty", *rewards, f"rewards.timeout_s={TIMEOUT_S}", "rewards.max_failure_fraction=1", "train.steps=6")
    assert running.finish().code == 0, running.err.read_text()
    rows = read_rows(running.folder / "metrics.jsonl")
    seen: Counter[str] = Counter()
    for step in range(1, 7):
        for episode in pq.read_table(running.folder / "episodes" / f"step_{step:06d}.parquet").to_pylist():
            kind = fault(episode["turn_texts"][-1])
            expected = {"hang": "reward faulty: no answer within 3 s", "crash": "reward faulty: its process died with SIGSEGV"}.get(kind)
            if kind is None and episode["status"] == "failed":
                kind, expected = "outage", episode["failure"]
                assert expected.startswith("reward judge_reference: JudgeFailure: ")
            assert episode["failure"] == expected
            assert set(json.loads(episode["scores"])) == (set() if expected else {"numeric", "vowels", "faulty", "judge_reference"})
            seen[kind or "scored"] += 1
    assert sum(seen.values()) == 6 * 64 and seen["hang"] and seen["crash"] and seen["outage"]
    for name, kind in (("scored", "scored"), ("timeout", "hang"), ("crash", "crash"), ("error", "outage")):
        assert sum(row[f"rewards/{name}"] for row in rows) == seen[kind]
    # Those that hang keep the cores busy, so that on two of them others may begin only when the first are killed.
    for row in rows:
        assert row["time/reward_s"] < TIMEOUT_S * (2 + row["rewards/timeout"])
