"""Prints the table of a pipeline's seeds and draws their curves: `python examples/thinking_with_images/plot.py stage_1 FOLDER ...`.

Writes beside it stage_1.csv (held-out accuracy and calls of every seed, stage and task), stage_1_curves.csv (accuracy and calls of every
training step's episodes) and stage_1.png.
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq

matplotlib.use("Agg")
from matplotlib import pyplot

from posttrain.seeds import interval, plot, write_csv

TASKS = {"find": 1, "compare": 2}
"""And the calls that their prompts are estimated to need."""
MEASURED = {
    "imitated": "after imitation",
    "improved": "after SAPO",
    "forbidden": "after SAPO, without the tool",
    "untargeted_measured": "after SAPO without `tool_calling`",
}
TRAINED = {"improve": "with tool_calling", "untargeted": "without tool_calling"}
COLOURS = dict(zip(TRAINED.values(), ("tab:blue", "tab:orange"), strict=True))
WINDOW = 5
"""Steps that a point of a curve is the mean of."""
Point = tuple[float, float]
"""Share of right answers, calls an episode."""


def main(pipeline: str, folders: list[Path]) -> None:
    """Reads the stages that there are."""
    here = Path(__file__).parent
    results = [
        (folder.name, stage, task, *point)
        for folder in folders
        for stage in MEASURED
        for path in folder.glob(f"[0-9][0-9]-{stage}/episodes/*.parquet")
        for task, point in points_of(path).items()
    ]
    write_csv(here / f"{pipeline}.csv", ("seed", "stage", "task", "accuracy", "calls"), results)
    print_table(results)
    curves = [
        (folder.name, stage, number + 1, task, *point)
        for folder in folders
        for stage in TRAINED
        for number, path in enumerate(sorted(folder.glob(f"[0-9][0-9]-{stage}/episodes/*.parquet")))
        for task, point in points_of(path).items()
    ]
    write_csv(here / f"{pipeline}_curves.csv", ("seed", "stage", "step", "task", "accuracy", "calls"), curves)
    draw(here / f"{pipeline}.png", curves)


def points_of(path: Path) -> dict[str, Point]:
    """What the episodes of a file come to, task by task. Only the answer counts, not how it was come by."""
    found: dict[str, list[Point]] = {}
    for row in pq.read_table(path, columns=["task", "scores", "turn_tool_calls"]).to_pylist():
        calls = sum(len(json.loads(calls)) for calls in row["turn_tool_calls"])
        found.setdefault(row["task"], []).append((json.loads(row["scores"]).get("exact", 0.0), calls))
    return {task: tuple(map(float, np.mean(points, axis=0))) for task, points in found.items()}


def print_table(results: list[tuple]) -> None:
    """Means over seeds, as Markdown."""
    columns = [(task, name, place) for task in TASKS for place, name in ((3, "accuracy"), (4, "calls"))]
    print(f"| held out | {' | '.join(f'{task}, {name}' for task, name, _ in columns)} |\n|---|{'---|' * len(columns)}")
    for stage, words in MEASURED.items():
        if not any(row[1] == stage for row in results):
            continue
        cells = [interval([row[place] for row in results if row[1:3] == (stage, task)], digits=2) for task, _, place in columns]
        print(f"| {words} | {' | '.join(cells)} |")


def draw(path: Path, curves: list[tuple]) -> None:
    """Accuracy and calls of each task, a line a seed and run."""
    figure, axes = pyplot.subplots(2, len(TASKS), figsize=(10, 7), sharex=True)
    for column, (task, target) in enumerate(TASKS.items()):
        for row, name in enumerate(("accuracy", "calls")):
            axis = axes[row, column]
            lines = {}
            for seed, stage in dict.fromkeys(one[:2] for one in curves):
                values = [one[4 + row] for one in curves if one[:2] == (seed, stage) and one[3] == task]
                means = np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")
                lines[seed, TRAINED[stage]] = [*enumerate(means, start=WINDOW)]
            plot(axis, lines, COLOURS)
            axis.set_title(f"{task}: {name}")
        axes[0, column].set_ylim(0, 1)
        axes[1, column].axhline(target, color="grey", linestyle=":")
        axes[1, column].set_xlabel(f"step (means of {WINDOW})")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(sys.argv[1], [Path(name) for name in sys.argv[2:]])
