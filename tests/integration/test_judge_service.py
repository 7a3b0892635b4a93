"""A judge of the run's own: a second model that vLLM serves as long as the run lasts."""

import json
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from posttrain.metrics import read_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_answers_of_earlier_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_JUDGE_CACHE", str(tmp_path / "judge"))


def test_a_judge_that_sees_ends_its_verdicts(launch, tmp_path):
    # Such a small judge knows no JSON: held to the schema alone it wrote white space until each question's deadline.
    model = ROOT / "examples/tiny_vlm/model"
    settings = [
        *(f"model.path={model}", "model.dtype=float32", "task=find", f"--config-dir={ROOT / 'examples/thinking_with_images'}"),
        *("rollout.max_turns=3", "rollout.max_completion_tokens=64", "eval.num_prompts=4", "eval.samples_per_prompt=2"),
        *(f"rewards.judge_model={model}", "+task.rewards.judge_reasoning=1.0"),
    ]
    running = launch(tmp_path / "seen", settings, tmp_path / "log", base=["algo=evaluate"])
    assert running.finish().code == 0, running.err.read_text()
    [measured] = (running.folder / "episodes").glob("*.parquet")
    episodes = pq.read_table(measured).to_pylist()
    assert len(episodes) == 8 and all(episode["failure"] is None for episode in episodes)
    grades = [json.loads(json.loads(episode["score_details"])["judge_reasoning"]) for episode in episodes]
    assert all({"reason", "reading", "coherence"} == set(grade) for grade in grades)
    assert not servers()


@pytest.mark.slow
def test_a_local_judge_scores_the_answers_and_ends_with_the_run(start):
    small = ("train.steps=1", "train.prompts_per_step=2", "algo.group_size=2", "eval.num_prompts=1", "eval.samples_per_prompt=1")
    running = start("judged", "rewards.judge_model=builtin:smollm2", "+task.rewards.judge_rubric=1.0", *small)
    assert running.finish().code == 0, running.err.read_text()
    (row,) = read_rows(running.folder / "metrics.jsonl")
    assert row["rewards/scored"] == 4, {name: value for name, value in row.items() if "rewards" in name}
    episodes = pq.read_table(running.folder / "episodes" / "step_000001.parquet").to_pylist()
    grades = [json.loads(json.loads(episode["score_details"])["judge_rubric"]) for episode in episodes]
    assert all(set(grade) == {"helpful", "correct", "clear"} for grade in grades)
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
