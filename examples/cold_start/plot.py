"""Prints the table of several seeds and draws their curves: `python examples/cold_start/plot.py FOLDER ...`, finished pipelines' folders.

Writes results.csv (pass@k of every seed and stage), curves.csv (the reward of every step of SAPO) and curves.png beside it.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from posttrain.metrics import read_rows
from posttrain.seeds import interval, plot, write_csv

MEASURED = {
    "before": "as it is",
    "imitated": "after imitation",
    "improved": "after imitation and SAPO",
    "alone_improved": "after SAPO alone",
}
METRICS = ("pass@1", "pass@16")
TRAINED = {"improve": "SAPO after imitation", "alone": "SAPO alone"}
COLOURS = dict(zip(TRAINED.values(), ("tab:blue", "tab:orange"), strict=True))


def main(folders: list[Path]) -> None:
    """One row a measured stage: the mean over seeds and half the width of its 95 % interval."""
    here = Path(__file__).parent
    results = [
        (folder.name, stage, metric, float(row[f"eval/chains/{metric}"]))
        for folder in folders
        for stage in MEASURED
        for row in rows_of(folder, stage)
        for metric in METRICS
    ]
    write_csv(here / "results.csv", ("seed", "stage", "metric", "value"), results)
    print(f"| model | {' | '.join(METRICS)} |\n|---|{'---|' * len(METRICS)}")
    for stage, name in MEASURED.items():
        cells = [interval([value for _, *key, value in results if key == [stage, metric]]) for metric in METRICS]
        print(f"| {name} | {' | '.join(cells)} |")
    curves = [
        (folder.name, stage, row["step"], row["reward/mean"]) for folder in folders for stage in TRAINED for row in rows_of(folder, stage)
    ]
    write_csv(here / "curves.csv", ("seed", "stage", "step", "reward"), curves)
    draw(here / "curves.png", curves)


def rows_of(folder: Path, stage: str) -> list[dict]:
    """The metrics of a stage."""
    return [row for path in folder.glob(f"[0-9][0-9]-{stage}") for row in read_rows(path / "metrics.jsonl")]


def draw(path: Path, curves: list[tuple]) -> None:
    """The reward of every step of SAPO."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed, stage, *point in curves:
        lines.setdefault((seed, TRAINED[stage]), []).append(tuple(point))
    plot(pyplot.gca(), lines, COLOURS)
    pyplot.xlabel("step")
    pyplot.ylabel("reward of the step's episodes")
    pyplot.ylim(0, 1)
    pyplot.legend()
    pyplot.savefig(path, dpi=100)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
