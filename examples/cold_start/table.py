"""Prints the table of several seeds: `python examples/cold_start/table.py FOLDER ...`, the folders of finished pipelines.

Writes results.csv beside it.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from posttrain.metrics import read_rows

MEASURED = {
    "before": "as it is",
    "imitated": "after imitation",
    "improved": "after imitation and SAPO",
    "alone_improved": "after SAPO alone",
}
METRICS = ("pass@1", "pass@16")
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t: the 95 % interval of a mean over so many seeds is this many standard errors each way."""


def main(folders: list[Path]) -> None:
    """One row a measured stage: the mean over seeds and half the width of its 95 % interval."""
    results = [
        (seed, stage, metric, float(row[f"eval/chains/{metric}"]))
        for seed, folder in enumerate(folders)
        for stage in MEASURED
        for path in folder.glob(f"[0-9][0-9]-{stage}")
        for row in read_rows(path / "metrics.jsonl")
        for metric in METRICS
    ]
    with Path(__file__).with_name("results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("seed", "stage", "metric", "value"), *results])
    print(f"| model | {' | '.join(METRICS)} |\n|---|{'---|' * len(METRICS)}")
    for stage, name in MEASURED.items():
        cells = [interval([value for _, *key, value in results if key == [stage, metric]]) for metric in METRICS]
        print(f"| {name} | {' | '.join(cells)} |")


def interval(values: list[float]) -> str:
    """Mean and half the width of its interval; fewer seeds than two have none."""
    if len(values) not in T_95:
        return f"{np.mean(values):.3f} ({len(values)} seed)" if values else "-"
    return f"{np.mean(values):.3f} ± {T_95[len(values)] * np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
