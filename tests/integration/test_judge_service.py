"""A judge of the run's own: a second model that vLLM serves as long as the run lasts."""

import json

import psutil
import pyarrow.parquet as pq
import pytest

from posttrain.metrics import read_rows


@pytest.mark.slow
def test_a_local_judge_scores_the_answers_and_ends_with_the_run(start, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_JUDGE_DEADLINE", "140")  # a judge of 135 million parameters on two cores that others use too
    small = ("train.steps=1", "train.prompts_per_step=2", "algo.group_size=2", "eval.num_prompts=1", "eval.samples_per_prompt=1")
    running = start(
        "judged",
        "rewards.judge_model=builtin:smollm2",
        "+task.rewards.judge_rubric=1.0",
        "rewards.timeout_s=150",
        "rewards.max_failure_fraction=1",
        *small,
    )
    assert running.finish().code == 0, running.err.read_text()
    (row,) = read_rows(running.folder / "metrics.jsonl")
    # On two cores a small judge's constrained verdict takes half a minute, and now and then longer than the deadline.
    assert row["rewards/scored"] + row["rewards/abstained"] + row["rewards/error"] == 4 and row["rewards/scored"] >= 1
    episodes = pq.read_table(running.folder / "episodes" / "step_000001.parquet").to_pylist()
    grades = [json.loads(json.loads(episode["score_details"])["judge_rubric"]) for episode in episodes if episode["failure"] is None]
    assert grades and all(set(grade) == {"helpful", "correct", "clear"} for grade in grades)
    assert not servers()


@pytest.mark.slow
def test_the_judge_does_not_outlive_a_killed_driver(start):
    running = start("killed", "rewards.judge_model=builtin:smollm2", "+task.rewards.judge_rubric=1.0", "train.steps=50")
    assert running.wait_for(lambda: (running.folder / "episodes").exists())
    assert servers()
    running.kill()
    assert not servers()


@pytest.mark.slow
def test_a_teachers_answers_are_judged_too(start):
    running = start("answers", "algo=distill_offpolicy", "rewards.judge_model=/no/such/judge")
    result = running.finish()
    assert result.code == 1 and "the judge /no/such/judge ended with exit code" in result.err


def servers():
    """Processes of a judge's server."""
    return [process for process in psutil.process_iter(["cmdline"]) if "api_server" in " ".join(process.info["cmdline"] or [])]
