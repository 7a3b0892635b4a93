"""Draws the study and prints its table: `python plot.py [FOLDER]`; writes curves.png and curves.csv beside it."""

import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot
from study import CELLS, MINIBATCHES, OBJECTIVES, ROLLOUT_BATCHES, SEEDS, Cell

from posttrain.metrics import read_rows
from posttrain.seeds import half_width, interval, write_csv

HELDOUT = "eval/arithmetic/reward_mean"
WINDOW = 5
DRAWN = ("batch", "reward", "entropy", "ratio_max", "grad_norm_max", "heldout")


def main(root: Path) -> None:
    """Reads the runs that there are."""
    here = Path(__file__).parent
    runs = {cell: batches(read_rows(cell.folder(root) / "metrics.jsonl"), cell) for cell in CELLS if not has_failed(cell, root)}
    records = [
        (cell.objective, cell.minibatches, cell.seed, *(record[name] for name in DRAWN)) for cell, run in runs.items() for record in run
    ]
    write_csv(here / "curves.csv", ("objective", "minibatches", "seed", *DRAWN), records)
    draw(here / "curves.png", runs)
    print("| objective | mini-batches | held out before | held out after | dip | largest ratio, median of batches | collapsed |")
    print("|---|---|---|---|---|---|---|")
    for objective in OBJECTIVES:
        for minibatches in MINIBATCHES:
            cells = [Cell(objective, minibatches, seed) for seed in SEEDS]
            print(table_row(objective, minibatches, [runs[cell] for cell in cells if cell in runs], len(cells)))


def has_failed(cell: Cell, root: Path) -> bool:
    """Whether the run ended with an error: the first kind of collapse."""
    return (cell.folder(root) / "failed").exists()


def batches(rows: list[dict], cell: Cell) -> list[dict]:
    """One record a rollout batch; ratio: the largest of its optimizer steps."""
    parts = [rows[start : start + cell.minibatches] for start in range(0, len(rows), cell.minibatches)]
    return [
        {
            "batch": number,
            "reward": part[-1]["reward/mean"],
            "entropy": part[-1]["rollout/entropy"],
            "ratio_max": max(row["loss/ratio_max"] for row in part),
            "grad_norm_max": max(row["loss/grad_norm"] for row in part),
            "heldout": next((row[HELDOUT] for row in part if HELDOUT in row), None),
        }
        for number, part in enumerate(parts, start=1)
    ]


def table_row(objective: str, minibatches: int, runs: list[list[dict]], num_runs: int) -> str:
    """Means over seeds, with 95 % intervals for what is compared."""
    before, after = ([run[index]["heldout"] for run in runs] for index in (0, -1))
    dips = [dip(rewards(run)) for run in runs]
    ratio = np.median([record["ratio_max"] for run in runs for record in run])
    collapsed = num_runs - len(runs) + sum(has_collapsed(run) for run in runs)
    cells = [objective, minibatches, interval(before), interval(after), interval(dips), f"{ratio:.2f}", f"{collapsed} of {num_runs}"]
    return f"| {' | '.join(map(str, cells))} |"


def rewards(run: list[dict]) -> NDArray[np.float64]:
    """The curve of a run."""
    return np.array([record["reward"] for record in run])


def dip(curve: NDArray[np.float64]) -> float:
    """How far the last five batches lie below the best five in a row, as a share of those."""
    means = np.convolve(curve, np.ones(WINDOW) / WINDOW, "valid")
    return float(1 - means[-1] / means.max())


def has_collapsed(run: list[dict]) -> bool:
    """The second and third kind of collapse of the README."""
    return dip(rewards(run)) > 0.5 or run[-1]["heldout"] <= run[0]["heldout"]


def draw(path: Path, runs: dict[Cell, list[dict]]) -> None:
    """Reward and entropy against rollout batches, a column for each number of mini-batches; bands are 95 % intervals over seeds."""
    figure, axes = pyplot.subplots(2, len(MINIBATCHES), figsize=(11, 7), sharex=True, sharey="row")
    curves: dict[tuple[str, int, str], list[list[float]]] = defaultdict(list)
    for cell, records in runs.items():
        for quantity in ("reward", "entropy"):
            curves[cell.objective, cell.minibatches, quantity].append([record[quantity] for record in records])
    for (objective, minibatches, quantity), values in curves.items():
        axis = axes[("reward", "entropy").index(quantity)][MINIBATCHES.index(minibatches)]
        mean, spread = np.mean(values, axis=0), half_width(values)
        (line,) = axis.plot(range(1, ROLLOUT_BATCHES + 1), mean, label=objective)
        axis.fill_between(range(1, ROLLOUT_BATCHES + 1), mean - spread, mean + spread, alpha=0.12, color=line.get_color())
        axis.set_title(f"{quantity}, {minibatches} mini-batch{'es' if minibatches > 1 else ''}")
        axis.set_ylim(0, 1 if quantity == "reward" else 6.5)
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.supxlabel("rollout batch")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
