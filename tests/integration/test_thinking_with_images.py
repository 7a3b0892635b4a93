"""The example's pipeline in small: imitation, SAPO with tools and pictures, the same questions without the tool, and its table."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from posttrain.metrics import read_rows

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/thinking_with_images"
STAGES = ("imitate", "improve", "forbidden")
FEW = ["task.num_examples=60", "mixture.compare.num_examples=60", "eval.num_prompts=6"]


def test_stage_1_in_small(launch, tmp_path):
    rows = tmp_path / "rows.jsonl"
    subprocess.run([sys.executable, EXAMPLE / "make_rows.py", rows, "--rows", "16"], check=True)
    pipeline = yaml.safe_load((EXAMPLE / "pipeline/stage_1.yaml").read_text())
    pipeline["stages"] = [stage for stage in pipeline["stages"] if stage["name"] in STAGES]
    (tmp_path / "small.yaml").write_text(yaml.dump(pipeline))
    example = shutil.copytree(EXAMPLE, tmp_path / "example")
    folder = tmp_path / "seed_0"
    few = [f"{stage}.{override}" for stage in STAGES[1:] for override in FEW]
    short = [f"improve.{override}" for override in ("train.steps=2", "train.prompts_per_step=4", "algo.group_size=4")]
    overrides = [
        *("pipeline=small.yaml", f"--config-dir={example}", f"model.path={ROOT / 'examples/tiny_vlm/model'}"),
        *(f"imitate.task.path={rows}", *few, *short),
    ]
    finished = launch(folder, overrides, tmp_path / "run", base=()).finish(timeout=800)  # three stages
    assert finished.code == 0, finished.err

    improved = read_rows(folder / "02-improve/metrics.jsonl")
    assert len(improved) == 2
    for row in improved:
        assert 0.2 < row["tools/rate"] < 1 and row["tools/invalid_fraction"] < 0.2 and row["rewards/scored"] == 16
        assert 0 < row["reward/looked_at"] < 1 and 0 < row["reward/tool_calling"] < 1
    [forbidden] = read_rows(folder / "03-forbidden/metrics.jsonl")
    assert forbidden.get("tools/calls_mean", 0) == 0

    subprocess.run([sys.executable, example / "plot.py", "small", folder], check=True, stdout=subprocess.DEVNULL)
    measured = list(csv.DictReader((example / "small.csv").open()))
    assert {(row["stage"], row["task"], row["calls"]) for row in measured} == {("forbidden", "find", "0"), ("forbidden", "compare", "0")}
    curves = list(csv.DictReader((example / "small_curves.csv").open()))
    assert [(row["step"], row["stage"]) for row in curves] == [("1", "improve")] * 2 + [("2", "improve")] * 2
    calls = [float(row["calls"]) for row in curves]  # means over eight episodes: a task may have none
    assert max(calls) < 3 and sum(calls) > 1
