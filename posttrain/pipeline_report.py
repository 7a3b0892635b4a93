"""What a pipeline's stages came to: their records, a table for the screen, and `report.md`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from posttrain.checkpoint import CheckpointStore
from posttrain.config import Config
from posttrain.fingerprint import Fingerprint
from posttrain.metrics import read_rows
from posttrain.pipeline import Stage
from posttrain.stats import Row

RECORD = "stage.json"
DATASETS = ("dataset.jsonl", "dataset.parquet")
COLUMNS = ("stage", "what", "seconds", "steps", "held out", "loss", "made")


@dataclass(slots=True, kw_only=True)
class Record:
    """What a stage's folder says about it. seconds: of all its processes that were seen to end."""

    depends_on: Fingerprint
    command: str
    num_starts: int = 0
    seconds: float = 0.0
    is_finished: bool = False

    def write(self, folder: Path) -> None:
        """Saves it, whole or not at all."""
        draft = folder / f"{RECORD}.draft"
        draft.write_text(json.dumps(asdict(self), indent=1))
        draft.replace(folder / RECORD)


def read_record(folder: Path) -> Record | None:
    """The record of the stage in a folder, if there is one."""
    path = folder / RECORD
    return Record(**json.loads(path.read_text())) if path.exists() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A stage with its resolved configuration and its folder."""

    stage: Stage
    config: Config
    folder: Path

    @property
    def products(self) -> dict[str, Path]:
        """What a later stage can take, as far as it is there: the newest checkpoint's Hugging Face folder, the dataset."""
        latest = CheckpointStore(self.folder, keep=1).steps()[-1:]
        found = [("checkpoint", self.folder / f"checkpoints/step_{step}/hf") for step in latest]
        found += [("dataset", self.folder / name) for name in DATASETS if (self.folder / name).exists()]
        return {product: path for product, path in found if product in self.config.algo.makes}

    @property
    def missing(self) -> list[str]:
        """What the stage should have made and has not."""
        return [product for product in self.config.algo.makes if product not in self.products]


def print_table(done: Sequence[Done]) -> None:
    """One line a stage, to standard output."""
    table = Table(*COLUMNS)
    for row in map(_cells, done):
        table.add_row(*row)
    Console(highlight=False).print(table)


def write_report(folder: Path, name: str, done: Sequence[Done]) -> Path:
    """Writes `report.md`: the same table, then each stage's command, measurements and files; returns its path."""
    lines = [f"# Pipeline {name}", "", *_markdown(COLUMNS, [_cells(one) for one in done])]
    for one in done:
        record = read_record(one.folder)
        assert record is not None
        lines += ["", f"## {one.stage.number}. {one.stage.name}", "", f"    {record.command}", ""]
        lines += _markdown(("held out", "before", "after"), [(name, before, after) for name, before, after in _heldout(_rows(one))])
        made = ", ".join(str(path) for path in one.products.values()) or "nothing for a later stage"
        lines += ["", f"Made: {made}. Everything of the stage: {one.folder}; what it printed: {one.folder / 'stage.log'}."]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def _cells(done: Done) -> tuple[str, ...]:
    record, rows = read_record(done.folder), _rows(done)
    assert record is not None
    tasks = "+".join(task.name for task in done.config.tasks)
    starts = f" in {record.num_starts} starts" if record.num_starts > 1 else ""
    steps = int(rows[-1]["step"]) if rows else 0
    losses = [row["loss/total"] for row in rows if "loss/total" in row]
    return (
        done.stage.name,
        f"{done.config.algo.name} on {tasks}",
        f"{record.seconds:.0f}{starts}",
        str(steps or ""),
        ", ".join(f"{name} {before} -> {after}" if before else f"{name} {after}" for name, before, after in _heldout(rows)),
        f"{losses[0]:.3f} -> {losses[-1]:.3f}" if losses else "",
        ", ".join(str(path) for path in done.products.values()),
    )


def _rows(done: Done) -> list[Row]:
    return read_rows(done.folder / "metrics.jsonl")


def _heldout(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """(metric, its first value, its last with the 95 % interval) of every held-out mean reward, loss and pass@k.

    Of a single value there is no first.
    """
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("eval/") and name.count("/") == 2)
    for name in names:
        kind = name.rpartition("/")[2]
        if kind not in ("reward_mean", "loss") and not (kind.startswith("pass@") and kind.removeprefix("pass@").isdigit()):
            continue
        found = [row[key] for row in rows for key in (f"{name}_before", name) if key in row]
        interval = next((row.get(name.removesuffix("_mean") + "_ci95") for row in reversed(rows) if name in row), None)
        last = f"{found[-1]:.3f}" + ("" if interval is None else f" ± {interval:.3f}")
        yield name.removeprefix("eval/").replace("/", " "), f"{found[0]:.3f}" if len(found) > 1 else "", last


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
