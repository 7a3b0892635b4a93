"""Runs a recipe: reads rows, takes them through the steps, and writes what is kept, what is dropped, and the report.

`output/` holds rows.jsonl (or .parquet), dropped.jsonl with the step and reason of each row, report.md, steps.jsonl, recipe.yaml with
every default, and work/: a folder a step, whose name holds a hash of what the step's result follows from (its rows, its settings,
the seed, and what `depends_on` names). A step that is there already is not done again, so a curation that was killed goes on, and
one whose last step was changed repeats that step alone. work/ may be removed at any time.

All rows are in memory at once.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from posttrain.curate import rows as files
from posttrain.curate.base import Bench, Drop, Outcome
from posttrain.curate.recipe import Named, Recipe
from posttrain.curate.report import report
from posttrain.curate.results import Curated, StepReport
from posttrain.curate.rows import Row
from posttrain.errors import RunError, UserError

READING = "read"
RESULT = "result.json"
KEY_LENGTH = 16


def curate(recipe: Recipe, say: Callable[[str], None] = print) -> Curated:
    """Runs `recipe` from where an earlier start of it got to.

    Raises UserError: a file or a row that cannot be used, a setting that does not fit the rows. RunError: a step failed on the way.
    """
    folder = recipe.base / Path(recipe.keys.output).expanduser()
    bench = Bench(seed=recipe.keys.seed, folder=folder / "work", base=recipe.base, say=say)
    # All of them before anything is done: a file that the last step lacks is told at once.
    depends = [named.depends_on(bench) for named in recipe.steps]
    read = _read(recipe)
    curated = Curated(recipe=recipe, folder=folder, given=read.kept, kept=read.kept, steps=[])
    _add(curated, _report(READING, len(read.kept) + len(read.dropped), read), say)
    for named, depended in zip(recipe.steps, depends, strict=True):
        key = _key(named, recipe.keys.seed, depended, curated.kept)
        place = bench.folder / f"{named.label}-{key}"
        was_there = (place / RESULT).exists()
        if not was_there:
            with _naming(named.label):
                _do(named, replace(bench, folder=place), curated.kept)
        # Also right after it was written, so that a first run and a continued one see the same.
        outcome, num_in = _load(place), len(curated.kept)
        curated.kept = outcome.kept
        _add(curated, _report(named.label, num_in, outcome, was_there=was_there), say)
    _write(curated)
    return curated


def _report(label: str, num_in: int, outcome: Outcome, *, was_there: bool = False) -> StepReport:
    return StepReport(
        label=label, num_in=num_in, num_out=len(outcome.kept), dropped=outcome.dropped, counts=dict(outcome.counts), was_there=was_there
    )


def _add(curated: Curated, done: StepReport, say: Callable[[str], None]) -> None:
    reasons = ", ".join(f"{count} {reason}" for reason, count in done.reasons.items())
    say(f"{done.label:<20}{done.num_in:>8} -> {done.num_out:<8}{reasons}{' (done before)' if done.was_there else ''}".rstrip())
    curated.steps.append(done)


@contextmanager
def _naming(label: str) -> Iterator[None]:
    """Tells a mistake that a step finds with the step's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{label}: {error}") from error


def _read(recipe: Recipe) -> Outcome:
    outcome = Outcome()

    def refused(row: Row, reason: str) -> None:
        outcome.dropped.append((row, Drop("cannot be read", reason)))

    for name, path in recipe.inputs.items():
        outcome.kept += files.read(path, name, refused if recipe.keys.bad_rows == "drop" else None)
    if not outcome.kept:
        raise UserError(f"input: there is no row in {', '.join(recipe.inputs)}")
    return outcome


def _key(named: Named, seed: int, depended: dict[str, str], rows: Sequence[Row]) -> str:
    """Names what the step's result follows from."""
    settings = {name: value for name, value in named.settings.items() if name not in named.step.UNKEYED}
    digest = hashlib.sha256(json.dumps([named.kind, named.step.VERSION, settings, seed, depended], sort_keys=True).encode())
    for row in rows:
        digest.update(files.to_line(_plain(row)).encode())
    return digest.hexdigest()[:KEY_LENGTH]


def _do(named: Named, bench: Bench, rows: list[Row]) -> None:
    """Does a step and writes its result into its folder."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    outcome = named.step.apply(rows, bench)
    came_out = sorted(row.where for row in (*outcome.kept, *(row for row, _ in outcome.dropped)))
    if came_out != sorted(row.where for row in rows):
        raise RunError(
            f"{named.label}: {len(rows)} rows went in, and {len(outcome.kept)} kept and {len(outcome.dropped)} dropped ones came out; "
            "a step keeps or drops each row that it is given, once"
        )
    files.write(bench.folder / "kept.jsonl", map(_plain, outcome.kept))
    files.write(bench.folder / "dropped.jsonl", (_dropped(row, drop) for row, drop in outcome.dropped))
    # Last, and what tells that the others are whole.
    files.write(bench.folder / RESULT, [outcome.counts])


def _load(folder: Path) -> Outcome:
    """The result in a step's folder."""
    dropped = [(Row(where=row["where"], data=row["row"]), Drop(row["reason"], row["detail"])) for row in _lines(folder / "dropped.jsonl")]
    kept = [Row(**row) for row in _lines(folder / "kept.jsonl")]
    return Outcome(kept=kept, dropped=dropped, counts=next(_lines(folder / RESULT)))


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _plain(row: Row) -> dict[str, Any]:
    return {"where": row.where, "data": row.data}


def _dropped(row: Row, drop: Drop) -> dict[str, Any]:
    return {"where": row.where, "reason": drop.reason, "detail": drop.detail, "row": row.data}


def _write(curated: Curated) -> None:
    """The results; the rows last, so that rows that are there are of a curation that was finished."""
    folder = curated.folder
    dropped = ({"step": done.label, **_dropped(row, drop)} for done in curated.steps for row, drop in done.dropped)
    files.write(folder / "dropped.jsonl", dropped)
    files.write(folder / "steps.jsonl", (done.plain() for done in curated.steps))
    files.write_text(folder / "recipe.yaml", yaml.safe_dump(curated.recipe.resolved(), sort_keys=False, allow_unicode=True))
    files.write_text(folder / "report.md", report(curated))
    if curated.recipe.keys.format == "parquet":
        files.write_parquet(curated.rows_path, curated.kept)
    else:
        files.write(curated.rows_path, (row.data for row in curated.kept))
