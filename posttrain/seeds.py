"""What several seeds of a run come to: means with intervals, tables of them as CSV, and their curves."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

T_95 = dict(enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262), start=2))
"""Student's t by the number of seeds: the 95 % interval of their mean is this many standard errors each way."""


def half_width(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Half of the 95 % interval of the mean over the first axis: (seeds, ...) to (...); two to ten seeds."""
    number = len(values)
    return np.asarray(T_95[number] * np.std(values, axis=0, ddof=1) / np.sqrt(number))


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Mean and interval as a table has them; a single seed says so instead, none is a dash."""
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {half_width(values):.{digits}f}" if len(values) > 1 else f"{mean} (1 seed)"


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """One line a row; numbers with five digits, None as nothing."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([f"{value:.5g}" if isinstance(value, float) else value for value in row] for row in rows)


def plot(axis: Any, curves: Mapping[tuple[str, str], Sequence[tuple[float, float]]], colours: Mapping[str, str], style: str = "-") -> None:
    """A line a seed and run, on axes of matplotlib. curves: points by (seed, run); colours: by run, which is named once."""
    named: set[str] = set()
    for (_, run), points in curves.items():
        label = None if run in named else run
        axis.plot(*zip(*points, strict=True), style, color=colours[run], label=label, alpha=0.7)
        named.add(run)
    axis.grid(alpha=0.3)
