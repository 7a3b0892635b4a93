"""What a step of curation is: settings, and one method from rows to rows.

A step of your own, in a package of your own:

    # my_steps/polite.py
    from collections.abc import Sequence
    from dataclasses import dataclass

    from posttrain.curate.base import Bench, Drop, Outcome, Step, sift
    from posttrain.curate.rows import Row

    @dataclass
    class Polite(Step):
        \"\"\"Drops questions that ask without a word of courtesy.\"\"\"

        word: str = "please"  # what a question has to hold

        def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
            return sift(rows, lambda row: row if self.word in row.question_text else Drop("impolite", f"no {self.word!r}"))

    # setup.cfg of my-steps
    [options.entry_points]
    posttrain.curation =
        polite = my_steps.polite:Polite

After `pip install`, a recipe may say `- polite: {word: kindly}`. What a step does has to follow from its rows, its settings and
`bench.seed`: its result is kept and taken again as long as these are the same. What else it depends on, a file or a model, it
names in `depends_on`; VERSION is raised when its code starts to do something else.

Every row that goes in comes out, kept or dropped with a reason; a step makes no rows. Left out on purpose: how results are kept
(runner.py) and what a recipe looks like (recipe.py).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from posttrain.curate.rows import Row
from posttrain.errors import UserError

ENTRY_POINTS = "posttrain.curation"


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row goes: `reason` is one of few words that are counted, `detail` what was seen in this row."""

    reason: str
    detail: str = ""


@dataclass(slots=True)
class Outcome:
    """What became of the rows. counts: further numbers for the report, such as rows that were changed."""

    kept: list[Row] = field(default_factory=list)
    dropped: list[tuple[Row, Drop]] = field(default_factory=list)
    counts: dict[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a step may use beside its rows and settings.

    seed: the recipe's; folder: the step's own, kept when it is killed and empty at its first start; base: what relative paths of
    the recipe are relative to; say: tells how far it is.
    """

    seed: int
    folder: Path
    base: Path
    say: Callable[[str], None] = print

    @property
    def cache(self) -> Path:
        """A folder that all steps share, for what is dear and found again by a hash of all that it follows from."""
        return self.folder.parent / "cache"

    def path(self, name: str) -> Path:
        """A path of the recipe."""
        return self.base / Path(name).expanduser()


@dataclass
class Step:
    """One pass over all rows; a subclass is a dataclass of settings and a plug-in under `posttrain.curation`."""

    VERSION: ClassVar[int] = 1
    UNKEYED: ClassVar[tuple[str, ...]] = ()
    """Settings that do not change the result."""

    def validate(self) -> None:
        """Checks what types cannot say; raises UserError with the setting, what was got and what was expected."""

    def depends_on(self, bench: Bench) -> dict[str, str]:
        """What the result follows from beside rows, settings and seed: names and fingerprints."""
        return {}

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Looks at the rows; those that it keeps stay in their order."""
        raise NotImplementedError(f"{type(self).__name__} has no apply()")


def sift(rows: Sequence[Row], look: Callable[[Row], Row | Drop]) -> Outcome:
    """The outcome of a step that looks at one row at a time: the row, changed or not, or why it goes."""
    outcome = Outcome()
    for row in rows:
        found = look(row)
        if isinstance(found, Drop):
            outcome.dropped.append((row, found))
        else:
            outcome.kept.append(found)
    return outcome


def require(setting: str, got: object, holds: bool, expected: str) -> None:
    """Raises UserError unless `holds`."""
    if not holds:
        raise UserError(f"{setting}={got}: expected {expected}")


def lot(row: Row, seed: int) -> str:
    """The row's place in a lottery: by its content and the seed, so that neither order nor the other rows matter."""
    return hashlib.sha256(f"{seed} {row.content_hash}".encode()).hexdigest()


def drawn(rows: Sequence[Row], number: int, seed: int) -> set[str]:
    """The places (`where`) of `number` rows drawn from `rows`, or of all where there are fewer."""
    return {row.where for row in sorted(rows, key=lambda row: (lot(row, seed), row.where))[:number]}
