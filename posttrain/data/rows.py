"""Rows of a task's file or dataset, one at a time and each by its place: `rows.jsonl line 3`, `rows.parquet row 3`.

A row comes raw, so that whoever reads it may go on after one that is broken. Left out on purpose: what a row has to hold.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.config import TaskConfig
from posttrain.data.hub import dataset_rows
from posttrain.errors import UserError

T = TypeVar("T")
RawRow = bytes | dict[str, Any]
ColumnCheck = Callable[[str, Iterable[str]], None]
"""(where, names): raises UserError if these are not the columns that are needed."""


def raw_rows(task: TaskConfig, columns: Collection[str], check: ColumnCheck) -> Iterator[tuple[str, RawRow]]:
    """(where, row) of all rows that are not blank; where there are columns, only `columns` are read, and `check` is asked first.

    Raises UserError: there is no such file or dataset, it holds no rows, or reading cannot go on.
    """
    is_empty = True
    for row in _SOURCES[task.source](task, columns, check):
        is_empty = False
        yield row
    if is_empty:
        raise UserError(f"task.path={task.path}: the {task.source} holds no rows")


def usable_rows(
    task: TaskConfig, columns: Collection[str], check: ColumnCheck, read: Callable[[TaskConfig, str, RawRow], T]
) -> tuple[list[T], list[str]]:
    """What `read` makes of each row, in the order of the source, and one line about each that it refuses by a UserError.

    Raises UserError: there is no such file or dataset, or reading it cannot go on.
    """
    usable, problems = [], []
    for where, raw in raw_rows(task, columns, check):
        try:
            usable.append(read(task, where, raw))
        except UserError as error:
            problems.append(str(error))
    return usable, problems


def folder_of(task: TaskConfig) -> Path:
    """Where the files are that rows name by relative paths: beside the data."""
    path = Path(task.path or "").expanduser()
    return path if path.is_dir() else path.parent


def file_rows(path: Path) -> Iterator[tuple[str, RawRow]]:
    """(where, row) of all rows of a .jsonl or .parquet file that are not blank, with all columns.

    Raises UserError: the file is not Parquet.
    """
    return READERS[path.suffix](path, None, None)


def fields_of(where: str, raw: RawRow) -> dict[str, Any]:
    """A row's fields that are not null.

    Raises UserError: not a JSON object.
    """
    if isinstance(raw, dict):
        return without_nulls(raw)
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: got {raw[:40]!r}, expected a JSON object")
    return without_nulls(row)


def without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    """Parquet gives every struct of a column the same fields; without its nulls a row is the same as in JSONL."""
    return {name: value for name, value in fields.items() if value is not None}


def _file(task: TaskConfig, columns: Collection[str], check: ColumnCheck) -> Iterator[tuple[str, RawRow]]:
    path = Path(task.path or "").expanduser()
    if path.suffix not in READERS:
        raise UserError(f"task.path={task.path}: expected a file that ends in {' or '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"task.path={task.path}: there is no such file")
    return READERS[path.suffix](path, columns, check)


def _jsonl(path: Path, columns: Collection[str] | None, check: ColumnCheck | None) -> Iterator[tuple[str, RawRow]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path} line {number}", line


def _parquet(path: Path, columns: Collection[str] | None, check: ColumnCheck | None) -> Iterator[tuple[str, RawRow]]:
    num_read = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if check is not None:
                check(str(path), names)
            batches = file.iter_batches(columns=[name for name in names if columns is None or name in columns])
            for num_read, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
                yield f"{path} row {num_read}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as Parquet after row {num_read}: {' '.join(str(error).split())}") from error


def _dataset(task: TaskConfig, columns: Collection[str], check: ColumnCheck) -> Iterator[tuple[str, RawRow]]:
    """A folder of Parquet or JSONL files is read as those; anything else is the datasets library's."""
    folder = Path(task.path or "").expanduser()
    files = sorted(path for path in folder.rglob("*") if path.suffix in READERS) if folder.is_dir() else []
    if not files:
        yield from dataset_rows(task.path or "", columns, check)
    for path in files:
        yield from READERS[path.suffix](path, columns, check)


READERS = {".jsonl": _jsonl, ".parquet": _parquet}
_SOURCES = {"file": _file, "dataset": _dataset}
