"""What a curation came to, step by step."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.curate.base import Drop
from posttrain.curate.recipe import Recipe
from posttrain.curate.rows import Row


@dataclass(slots=True, kw_only=True)
class StepReport:
    """What a step did. counts: what it counted beside rows; was_there: it was done by an earlier start."""

    label: str
    num_in: int
    num_out: int
    dropped: list[tuple[Row, Drop]]
    counts: dict[str, int | float] = field(default_factory=dict)
    was_there: bool = False

    @property
    def reasons(self) -> dict[str, int]:
        """Rows dropped by reason, most first."""
        return dict(Counter(drop.reason for _, drop in self.dropped).most_common())

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"step": self.label, "in": self.num_in, "out": self.num_out, "dropped": self.reasons, "counts": self.counts}


@dataclass(slots=True, kw_only=True)
class Curated:
    """A curation. given: the rows as they were read; kept: those that are left; steps: reading first."""

    recipe: Recipe
    folder: Path
    given: list[Row]
    kept: list[Row]
    steps: list[StepReport]

    @property
    def rows_path(self) -> Path:
        """The file of the rows that are left."""
        return self.folder / f"rows.{self.recipe.keys.format}"
