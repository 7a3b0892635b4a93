"""A pipeline with the real engine and learner, killed in its second stage: it ends in the bits of the stage run by itself."""

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
