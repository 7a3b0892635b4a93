"""Draws the learning curves of finished runs: `python plot.py curve.png RUN_DIR...`, and writes each as a small CSV beside it.

Reward is the mean over a step's rollout batch (its policy is the one before the step); stars are held-out evaluations.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from posttrain.metrics import read_rows
from posttrain.seeds import write_csv

EVALUATION = "eval/arithmetic/reward_mean"
COLUMNS = ("step", "reward/mean", EVALUATION, "eval/policy_version", "rollout/completion_tokens_mean", "rollout/entropy", "time/step_s")


def main(picture: Path, folders: list[Path]) -> None:
    """One line a run; minutes are the sum of its steps."""
    for folder in folders:
        rows = read_rows(folder / "metrics.jsonl")
        write_csv(picture.with_name(f"{folder.name}.csv"), COLUMNS, ([row.get(name) for name in COLUMNS] for row in rows))
        (line,) = pyplot.plot([row["step"] for row in rows], [row["reward/mean"] for row in rows], alpha=0.5, label=folder.name)
        evaluated = [row for row in rows if EVALUATION in row]
        versions, rewards = [row["eval/policy_version"] for row in evaluated], [row[EVALUATION] for row in evaluated]
        pyplot.plot(versions, rewards, "*-", color=line.get_color())
    pyplot.xlabel("step")
    pyplot.ylabel("reward; stars: held out")
    pyplot.ylim(0, 1)
    pyplot.legend()
    pyplot.grid(alpha=0.3)
    pyplot.savefig(picture, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
