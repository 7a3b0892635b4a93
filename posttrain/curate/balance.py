"""The step `balance`: tasks in fixed shares, by largest remainder."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from posttrain.curate.base import Bench, Drop, Outcome, Step, drawn, require, sift
from posttrain.curate.rows import Row
from posttrain.errors import UserError, nearest


@dataclass
class Balance(Step):
    """As many rows of each task as its share of the whole; which ones, the seed draws."""

    shares: dict[str, float] = field(default_factory=dict)  # task: its share, in proportion to the others'; empty: all the same
    total: int = 0  # rows in all; 0: as many as there can be
    by: str = "task"  # the field that names the task

    def validate(self) -> None:
        """Shares are above 0."""
        for name, share in self.shares.items():
            require(f"shares.{name}", share, share > 0, "a number above 0")
        require("total", self.total, self.total >= 0, "0 or more")

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Reason: over its task's share.

        Raises UserError: a row's task has no share, a share's task has no rows, or there are fewer rows than `total` wants.
        """
        members: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            members[str(row.data.get(self.by, ""))].append(row)
        shares = self.shares or dict.fromkeys(sorted(members), 1.0)
        self._check(members, shares)
        sizes = {name: len(band) for name, band in members.items()}
        counts = largest_remainder(self.total, shares) if self.total else most(sizes, shares)
        short = [name for name, count in counts.items() if count > sizes[name]]
        if short:
            raise UserError(f"total={self.total} takes {counts[short[0]]} rows of {short[0]!r}, which has {sizes[short[0]]}")
        kept = {where for name, band in members.items() for where in drawn(band, counts[name], bench.seed)}
        outcome = sift(rows, lambda row: row if row.where in kept else Drop("over its task's share", str(row.data.get(self.by, ""))))
        outcome.counts.update({f"{self.by} {name or '(none)'}": counts[name] for name in shares})
        return outcome

    def _check(self, members: Mapping[str, list[Row]], shares: Mapping[str, float]) -> None:
        for name, band in members.items():
            if name not in shares:
                raise UserError(f"{band[0].where} has {self.by} {name!r}, which has no share; {nearest(name, shares)}")
        for name in shares:
            if name not in members:
                raise UserError(f"shares.{name}: there are no rows of that {self.by}; {nearest(name, members)}")


def largest_remainder(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers in proportion to `shares` that sum to `total`, each less than 1 from its exact part.

    What rounding down leaves goes to the largest remainders, and between equal ones to the first name.
    """
    exact = {name: Fraction(str(share)) for name, share in shares.items()}
    due = {name: total * share / sum(exact.values()) for name, share in exact.items()}
    counts = {name: int(amount) for name, amount in due.items()}
    by_remainder = sorted(counts, key=lambda name: (counts[name] - due[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def most(sizes: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, int]:
    """The largest number of rows in proportion to `shares` that `sizes` suffice for; all 0 where there are no shares."""
    exact = {name: Fraction(str(share)) for name, share in shares.items()}
    # A task never gets less than its exact part rounded down, so no larger total can do.
    total = min((int((sizes[name] + 1) * sum(exact.values()) / share) for name, share in exact.items()), default=0)
    while True:
        counts = largest_remainder(total, shares)
        if all(count <= sizes[name] for name, count in counts.items()):
            return counts
        total -= 1
