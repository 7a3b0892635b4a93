"""Intervals over seeds."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from posttrain.seeds import T_95, half_width, interval, plot, write_csv


def test_covers_the_mean_in_19_of_20() -> None:
    rng = np.random.default_rng(0)
    for number in T_95:
        draws = rng.normal(size=(number, 40_000))
        assert (np.abs(draws.mean(axis=0)) <= half_width(draws)).mean() == pytest.approx(0.95, abs=0.005)


def test_as_a_table_has_it() -> None:
    assert interval([]) == "-"
    assert interval([0.25]) == "0.250 (1 seed)"
    assert interval([0.1, 0.2, 0.3], digits=2) == "0.20 ± 0.25"  # 4.303 x 0.1 / sqrt(3)


def test_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("seed", "value", "held out"), [(0, 1 / 3, None)])
    assert (tmp_path / "a.csv").read_text().splitlines() == ["seed,value,held out", "0,0.33333,"]


def test_a_run_of_several_seeds_is_named_once() -> None:
    axis = Figure().subplots()
    points = [(1.0, 0.5), (2.0, 0.75)]
    plot(axis, {("0", "a"): points, ("0", "b"): points, ("1", "a"): points}, {"a": "tab:blue", "b": "tab:red"})
    assert axis.get_legend_handles_labels()[1] == ["a", "b"]
    assert [line.get_color() for line in axis.lines] == ["tab:blue", "tab:red", "tab:blue"]
    assert all(line.get_xydata().tolist() == [[1.0, 0.5], [2.0, 0.75]] for line in axis.lines)
