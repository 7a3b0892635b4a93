"""A pipeline with the real engine and learner, killed in its second stage: it ends in the bits of the stage run by itself."""

import json
import shlex

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from posttrain.metrics import read_rows

PIPELINE = """
common: [model=tiny, "+task.rewards.vowels=1.0", rollout.max_completion_tokens=12, eval.num_prompts=4, eval.samples_per_prompt=4]
stages:
  - name: first
    run: [algo=sapo, train.lr=1e-3, train.steps=1]
  - name: second
    run: [algo=grpo, train.lr=1e-3, train.steps=3, run.checkpoint_every=1, "model.path=${stage.first.checkpoint}"]
  - name: check
    run: [algo=evaluate, algo.solved_at=0.3, "model.path=${stage.second.checkpoint}"]
"""


@pytest.mark.slow
def test_a_pipeline_killed_in_a_stage_ends_as_if_it_had_not_been(launch, tmp_path):
    (tmp_path / "mine.yaml").write_text(PIPELINE)
    folder = tmp_path / "chain"
    running = launch(folder, ["pipeline=mine.yaml"], tmp_path / "killed", base=())
    metrics = folder / "02-second/metrics.jsonl"
    reached = running.wait_for((folder / "02-second/checkpoints/step_1").exists)
    running.kill()
    assert reached, running.out.read_text() + running.err.read_text()
    assert 1 <= len(read_rows(metrics)) < 3, "killed too late to mean anything"
    first = (folder / "01-first/metrics.jsonl").read_bytes()

    resumed = launch(folder, ["pipeline=mine.yaml", "run.resume=true"], tmp_path / "resumed", base=()).finish()
    assert resumed.code == 0, resumed.err
    for words in ("first: skipped", "second: resumes", "resumed from", "check: starts", "report.md"):
        assert words in resumed.out
    assert (folder / "01-first/metrics.jsonl").read_bytes() == first

    command = shlex.split(next(line for line in resumed.out.splitlines() if "second: resumes" in line).partition("resumes: ")[2])
    alone = launch(tmp_path / "alone", command[3:-1], tmp_path / "second", base=()).finish()
    assert alone.code == 0, alone.err
    end = "checkpoints/step_3/hf/model.safetensors"
    assert (folder / "02-second" / end).read_bytes() == (tmp_path / "alone" / end).read_bytes()
    begun, ended = load_file(folder / "01-first/checkpoints/step_1/hf/model.safetensors"), load_file(folder / "02-second" / end)
    assert any((begun[name] != ended[name]).any() for name in ended)

    [row] = read_rows(folder / "03-check/metrics.jsonl")
    episodes = pq.read_table(folder / "03-check/episodes/step_000000.parquet").to_pylist()
    assert len(episodes) == 16 and len({episode["prompt_id"] for episode in episodes}) == 4
    solved = [episode["outcome"] >= 0.3 for episode in episodes]
    assert 0 < sum(solved) < 16
    assert row["eval/arithmetic/pass@1"] == pytest.approx(sum(solved) / 16)
    assert row["eval/arithmetic/pass@4"] == pytest.approx(sum(any(solved[i : i + 4]) for i in range(0, 16, 4)) / 4)
    assert row["rewards/scored"] == 16
    report = (folder / "report.md").read_text()
    assert "02-second/checkpoints/step_3/hf" in report and "arithmetic pass@4" in report


SEAMS = """
common: [model=tiny, "+task.rewards.vowels=1.0", rollout.max_completion_tokens=40, eval.num_prompts=4, eval.samples_per_prompt=2]
stages:
  - name: answers
    run: [algo=distill_offpolicy, algo.teacher=builtin:tiny, algo.group_size=8, algo.min_reward=0.2, train.prompts_per_step=50]
  - name: clean
    curate: [recipe=recipe.yaml, "input=${stage.answers.dataset}"]
  - name: imitate
    run: [algo=sft, task=conversations, "task.path=${stage.clean.dataset}", task.heldout_fraction=0.5, train.steps=2, algo.rows_per_step=4]
  - name: follow
    run: [algo=distill_onpolicy, algo.teacher=builtin:tiny, "model.path=${stage.imitate.checkpoint}", train.steps=1]
  - name: check
    run: [algo=evaluate, "model.path=${stage.follow.checkpoint}"]
"""
RECIPE = """
steps:
  - exact_duplicates: {by: question}
  - response_rules: {rules: [malformed, repetition, guess], min_words: 2}
  - final_answer: {reward: vowels, minimum: 0.25}
"""


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("last", ["imitate", pytest.param("check", marks=pytest.mark.slow)])
def test_a_teachers_answers_are_curated_learned_and_followed(launch, tmp_path, last):
    """Each stage takes what the one before it made, and nothing else."""
    end = SEAMS.index("\n", SEAMS.index("run:", SEAMS.index(f"name: {last}")))
    (tmp_path / "mine.yaml").write_text(SEAMS[: end + 1])
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    result = launch(tmp_path / "chain", ["pipeline=mine.yaml"], tmp_path / "log", base=()).finish()
    assert result.code == 0, result.out + result.err
    folder = tmp_path / "chain"
    answers, clean = lines(folder / "01-answers/dataset.jsonl"), lines(folder / "02-clean/rows.jsonl")
    assert 1 < len(clean) < len(answers)
    by_id = {row["id"]: row for row in answers}
    assert all(by_id[row["id"]]["messages"] == row["messages"] and row["scores"]["vowels"] >= 0.25 for row in clean)
    dropped = lines(folder / "02-clean/dropped.jsonl")
    assert "wrong answer" in {one["reason"] for one in dropped} and len(dropped) + len(clean) == len(answers)

    learned = read_rows(folder / "03-imitate/metrics.jsonl")
    assert [row["step"] for row in learned] == [1, 2]
    assert learned[0]["loss/trained_tokens"] > 0
    report = (folder / "report.md").read_text()
    assert "02-clean/rows.jsonl" in report
    if last == "check":
        [followed] = read_rows(folder / "04-follow/metrics.jsonl")
        assert followed["distill/kl_mean"] > 0, "two steps of imitation moved the student away from its teacher"
        [row] = read_rows(folder / "05-check/metrics.jsonl")
        assert row["rewards/scored"] == 8 and "eval/arithmetic/pass@2" in row
