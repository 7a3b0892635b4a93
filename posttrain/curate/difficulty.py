"""The step `difficulty`: bands of pass rates, as a label and, if wanted, a sample of each.

A rate that was measured on n samples is off by up to 1 / sqrt(n) or so: bands narrower than that sort by chance.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.curate.base import Bench, Drop, Outcome, Step, drawn, require, sift
from posttrain.curate.rows import Row
from posttrain.errors import UserError, nearest


@dataclass
class Difficulty(Step):
    """Labels each row with the band of its pass rate, and keeps as many of a band as wanted."""

    bands: dict[str, float] = field(default_factory=lambda: {"hard": 0.25, "medium": 0.75, "easy": 1.0})  # name: highest pass rate in it
    keep: dict[str, int] = field(default_factory=dict)  # name: rows kept of that band, drawn by the seed; all of the others
    rates: str = "pass_rate"  # the field that a pass_rate step wrote

    def validate(self) -> None:
        """Bands reach up to 1, and those that are sampled exist."""
        edges = [*self.bands.values()]
        holds = bool(edges) and len(set(edges)) == len(edges) and max(edges) == 1
        require("bands", self.bands, holds, "different pass rates, the highest one 1")
        for name, number in self.keep.items():
            if name not in self.bands:
                raise UserError(f"keep.{name}: there is no such band; {nearest(name, self.bands)}")
            require(f"keep.{name}", number, number >= 0, "0 or more")

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Adds the field `difficulty`. Reason: band is full. Raises UserError: a row has no pass rate."""
        labelled = [row.having(difficulty=self._band(row)) for row in rows]
        members: dict[str, list[Row]] = defaultdict(list)
        for row in labelled:
            members[row.data["difficulty"]].append(row)
        kept = {where for name, band in members.items() for where in drawn(band, self.keep.get(name, len(band)), bench.seed)}
        outcome = sift(labelled, lambda row: row if row.where in kept else Drop("band is full", row.data["difficulty"]))
        outcome.counts.update({f"band {name}": len(members[name]) for name in self._rising})
        return outcome

    def _band(self, row: Row) -> str:
        measured: Any = row.data.get(self.rates)
        if not isinstance(measured, dict) or "rate" not in measured:
            raise UserError(f"{row.where} has no {self.rates}.rate; put a pass_rate step before it")
        return next(name for name, edge in self._rising.items() if measured["rate"] <= edge)

    @property
    def _rising(self) -> dict[str, float]:
        return dict(sorted(self.bands.items(), key=lambda band: band[1]))
