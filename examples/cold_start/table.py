"""Prints the table of several seeds: `python examples/cold_start/table.py FOLDER ...`, the folders of finished pipelines.

Writes results.csv beside it.
"""

import sys
from pathlib import Path

from posttrain.metrics import read_rows
from posttrain.seeds import interval, write_csv

MEASURED = {
    "before": "as it is",
    "imitated": "after imitation",
    "improved": "after imitation and SAPO",
    "alone_improved": "after SAPO alone",
}
METRICS = ("pass@1", "pass@16")


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
    write_csv(Path(__file__).with_name("results.csv"), ("seed", "stage", "metric", "value"), results)
    print(f"| model | {' | '.join(METRICS)} |\n|---|{'---|' * len(METRICS)}")
    for stage, name in MEASURED.items():
        cells = [interval([value for _, *key, value in results if key == [stage, metric]]) for metric in METRICS]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
