"""What a pipeline's stages came to: their records, a table for the screen, and `report.md`."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Column, Table

from posttrain.checkpoint import CheckpointStore
from posttrain.files import whole
from posttrain.fingerprint import Fingerprint
from posttrain.metrics import read_rows
from posttrain.pipeline import Stage
from posttrain.pipeline_commands import Settings
from posttrain.stats import Row, with_interval

SAVED, RECORD, LOG = "pipeline.yaml", "stage.json", "stage.log"
DATASETS = ("dataset.jsonl", "dataset.parquet", "rows.jsonl", "rows.parquet")
"""What a stage's dataset may be called in its folder."""
COLUMNS = ("stage", "what", "seconds", "steps", "held out", "loss", "made")
WIDTH = 140
"""Characters a line where the output is no terminal."""


@dataclass(slots=True, kw_only=True)
class Record:
    """What a stage's folder says about it. seconds: of all its processes that were seen to end."""

    depends_on: Fingerprint
    num_starts: int = 0
    seconds: float = 0.0
    is_finished: bool = False

    def write(self, folder: Path) -> None:
        """Saves it, whole or not at all."""
        with whole(folder / RECORD) as draft:
            draft.write_text(json.dumps(asdict(self), indent=1))


def read_record(folder: Path) -> Record | None:
    """The record of the stage in a folder, if there is one."""
    path = folder / RECORD
    return Record(**json.loads(path.read_text())) if path.exists() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A stage that is known to be finished or is about to be. command: what starts it anew by itself."""

    stage: Stage
    settings: Settings
    folder: Path
    command: str

    @property
    def products(self) -> dict[str, Path]:
        """What a later stage can take, as far as it is there: the newest checkpoint's Hugging Face folder, the dataset."""
        latest = CheckpointStore(self.folder, keep=1).steps()[-1:]
        found = [("checkpoint", self.folder / f"checkpoints/step_{step}/hf") for step in latest]
        found += [("dataset", self.folder / name) for name in DATASETS if (self.folder / name).exists()]
        return {product: path for product, path in found if product in self.settings.makes}

    @property
    def missing(self) -> list[str]:
        """What the stage should have made and has not."""
        return [product for product in self.settings.makes if product not in self.products]


def print_table(done: Sequence[Done]) -> None:
    """The summary, to standard output."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    table = Table(*(Column(name, overflow="fold") for name in COLUMNS))
    for one in done:
        table.add_row(*("\n".join(lines) for lines in _cells(one)))
    console.print(table)


def write_report(folder: Path, name: str, done: Sequence[Done]) -> Path:
    """Writes `report.md`: the summary, then each stage's command, measurements and files; returns its path."""
    lines = [f"# Pipeline {name}", "", f"Its stages are in {SAVED}, a copy of the file that was run.", ""]
    lines += _markdown(COLUMNS, [["<br>".join(cell) for cell in _cells(one)] for one in done])
    for one in done:
        lines += [f"## {one.stage.number}. {one.stage.name}", "", f"    {one.command}", ""]
        lines += _markdown(("held out", "before", "after"), [*_heldout(_rows(one))])
        made = [f"Its {product} is {path}." for product, path in one.products.items()]
        lines += [" ".join([*made, f"Its folder is {one.folder}, where {LOG} holds what it printed."]), ""]
    path = folder / "report.md"
    with whole(path) as draft:
        draft.write_text("\n".join(lines))
    return path


def _cells(done: Done) -> list[list[str]]:
    """A stage's row of the summary: the lines of each cell."""
    record, rows = _record(done), _rows(done)
    steps = int(rows[-1]["step"]) if rows else 0
    losses = [f"{row['loss/total']:.3f}" for row in rows if "loss/total" in row]
    heldout = {name.partition("@")[0]: (name, before, after) for name, before, after in _heldout(rows)}  # the last pass@k of each task
    return [
        [done.stage.name],
        [done.settings.what],
        [f"{record.seconds:.0f}", *([f"in {record.num_starts} starts"] if record.num_starts > 1 else [])],
        [str(steps or "")],
        [f"{name} {before} -> {after}" if before else f"{name} {after}" for name, before, after in heldout.values()],
        [" -> ".join(dict.fromkeys([losses[0], losses[-1]]))] if losses else [],
        [f"{path.relative_to(done.folder.parent)}{_size(product, path)}" for product, path in done.products.items()],
    ]


def _size(product: str, path: Path) -> str:
    """How many rows a dataset has."""
    if product != "dataset":
        return ""
    num_rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else path.read_bytes().count(b"\n")
    return f", {num_rows} rows"


def _record(done: Done) -> Record:
    record = read_record(done.folder)
    assert record is not None, f"{done.folder} was finished without a record"
    return record


def _rows(done: Done) -> list[Row]:
    return read_rows(done.folder / "metrics.jsonl")


def _heldout(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """(metric, its first value, its last with the 95 % interval) of every held-out mean reward, loss and pass@k.

    Of a single value there is no first.
    """
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("eval/") and name.count("/") == 2)
    for name in names:
        kind = name.rpartition("/")[2]
        if kind in ("reward_mean", "loss") or (kind.startswith("pass@") and not kind.endswith("_ci95")):
            found = [row[key] for row in rows for key in (f"{name}_before", name) if key in row]
            last = next(row for row in reversed(rows) if name in row)
            first = f"{found[0]:.3f}" if len(found) > 1 else ""
            yield name.removeprefix("eval/").replace("/", " "), first, with_interval(last, name)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table and the blank line after it; nothing where there are no rows."""
    return [*(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)), ""] if rows else []
