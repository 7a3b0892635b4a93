"""What a curation came to, step by step."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.curate.base import Outcome
from posttrain.curate.recipe import Recipe
from posttrain.curate.rows import Row


@dataclass(slots=True, kw_only=True)
class StepReport:
    """What a step did. reasons: rows dropped by reason; counts: what else it counted."""

    label: str
    num_in: int
    outcome: Outcome
    was_there: bool = False

    @property
    def reasons(self) -> dict[str, int]:
        """Rows dropped by reason, most first."""
        return dict(Counter(drop.reason for _, drop in self.outcome.dropped).most_common())

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "step": self.label,
            "in": self.num_in,
            "out": len(self.outcome.kept),
            "dropped": self.reasons,
            "counts": dict(self.outcome.counts),
        }


@dataclass(slots=True, kw_only=True)
class Curated:
    """A finished curation. given: the rows as they were read; steps: reading first."""

    recipe: Recipe
    folder: Path
    given: list[Row]
    steps: list[StepReport] = field(default_factory=list)

    @property
    def kept(self) -> list[Row]:
        """The rows that are left."""
        return self.steps[-1].outcome.kept

    @property
    def rows_path(self) -> Path:
        """The file that holds them."""
        return self.folder / f"rows.{self.recipe.keys.format}"
