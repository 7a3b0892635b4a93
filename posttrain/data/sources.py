"""Where prompts come from: a family of reasoning-gym or of our own generators, or a file; split once into a training and a held-out half.

What a prompt is called and which half it is in follow from the content of its own messages alone: not from its place, the
run's seed or `task.system_prompt`. So a file may grow, and two system prompts are compared on the same held-out questions.

Left out on purpose: rendering (rollout/render.py), the order of use (cursor.py) and mixtures of tasks.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.config import TaskConfig
from posttrain.data import generated
from posttrain.errors import UserError, nearest
from posttrain.types import Message, Prompt

ROLES = ("system", "user", "assistant", "tool")
COLUMNS = ("id", "messages", "prompt", "answer")
DRAW_SCRIPT = Path(__file__).with_name("draw_reasoning_gym.py")
DRAW_DEADLINE_S = 600.0


@dataclass(slots=True, kw_only=True)
class TaskData:
    """The prompts of a task, each in one half, in the order of the source; both halves hold at least one."""

    name: str
    train: list[Prompt]
    heldout: list[Prompt]


@dataclass(slots=True, kw_only=True)
class _Row:
    """What a source says about one prompt. where: names it in an error line."""

    where: str
    messages: list[Message]
    answer: Any
    id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def load_task(task: TaskConfig) -> TaskData:
    """Reads or draws the task's prompts; of several with the same messages the first is kept.

    Raises UserError: an unknown source, family, parameter or column; a file or row that cannot be used; an empty half.
    """
    if task.source not in _SOURCES:
        raise UserError(f"task.source={task.source}: {nearest(task.source, _SOURCES)}")
    data = TaskData(name=task.name, train=[], heldout=[])
    for digest, row in _distinct(_SOURCES[task.source](task)):
        is_heldout = int.from_bytes(digest[:8]) < task.heldout_fraction * 2**64
        (data.heldout if is_heldout else data.train).append(_prompt(task, digest, row))
    for half, prompts in (("training", data.train), ("held-out", data.heldout)):
        if not prompts:
            raise UserError(
                f"task {task.name}: the {half} half is empty: {len(data.train) + len(data.heldout)} distinct prompts at "
                f"task.heldout_fraction={task.heldout_fraction}; give it more prompts or another fraction"
            )
    return data


def _distinct(rows: Iterable[_Row]) -> Iterator[tuple[bytes, _Row]]:
    seen: set[bytes] = set()
    first_with_id: dict[str, str] = {}
    for row in rows:
        digest = hashlib.sha256(json.dumps(row.messages, sort_keys=True, separators=(",", ":")).encode()).digest()
        if digest in seen:
            continue
        seen.add(digest)
        if row.id is not None and first_with_id.setdefault(row.id, row.where) != row.where:
            raise UserError(f"{row.where}: id {row.id!r} is taken by other messages, of {first_with_id[row.id]}")
        yield digest, row


def _prompt(task: TaskConfig, digest: bytes, row: _Row) -> Prompt:
    messages = row.messages
    if task.system_prompt is not None:
        if messages[0]["role"] == "system":
            raise UserError(f"{row.where}: has a system message of its own, but task.system_prompt is set too; remove one of them")
        messages = [{"role": "system", "content": task.system_prompt}, *messages]
    name = digest.hex()[:16] if row.id is None else row.id
    return Prompt(id=f"{task.name}/{name}", task=task.name, messages=messages, reference=row.answer, metadata=row.metadata)


def _generated_rows(task: TaskConfig) -> Iterator[_Row]:
    for number, example in enumerate(generated.draw(task.family or "", task.params, task.num_examples)):
        yield _Row(
            where=f"{task.family} example {number}",
            messages=[{"role": "user", "content": example.question}],
            answer=example.reference,
            metadata={"solution": example.solution, **example.metadata},
        )


def _drawn_rows(task: TaskConfig) -> Iterator[_Row]:
    for reserved, instead in (("size", "task.num_examples"), ("seed", "nothing: the examples are the same in every run")):
        if reserved in task.params:
            raise UserError(f"task.params.{reserved} cannot be set; instead of it there is {instead}")
    reply = _draw(task)
    if "families" in reply:
        raise UserError(f"task.family={task.family}: reasoning_gym has no such family; {nearest(task.family or '', reply['families'])}")
    if "params" in reply:
        unknown = next(name for name in task.params if name not in reply["params"])
        raise UserError(f"task.params.{unknown}: {task.family} has no such parameter; {nearest(unknown, reply['params'])}")
    for number, entry in enumerate(reply["entries"]):
        yield _Row(
            where=f"{task.family} example {number}",
            messages=[{"role": "user", "content": entry["question"]}],
            answer=entry["answer"],
            metadata={"dataset": task.family, "params": task.params, "entry": entry},
        )


def _draw(task: TaskConfig) -> Any:
    """The `Reply` of draw_reasoning_gym.py, which says why it is a process of its own."""
    what = f"drawing {task.num_examples} examples of {task.family} with task.params={task.params}"
    request = json.dumps({"family": task.family, "params": task.params, "num_examples": task.num_examples})
    try:
        process = subprocess.run(
            [sys.executable, "-P", str(DRAW_SCRIPT)],
            input=request.encode(),
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            timeout=DRAW_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{what} took more than {DRAW_DEADLINE_S:.0f} s; lower task.num_examples or make them easier") from error
    if process.returncode:
        lines = process.stderr.decode(errors="replace").split("\n")
        reason = next((line for line in reversed(lines) if line.strip()), f"exit code {process.returncode}")
        raise UserError(f"{what} failed: {reason}")
    return pickle.loads(process.stdout)


def _file_rows(task: TaskConfig) -> Iterator[_Row]:
    path = Path(task.path or "").expanduser()
    if path.suffix not in _READERS:
        raise UserError(f"task.path={task.path}: expected a file that ends in {' or '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"task.path={task.path}: there is no such file")
    is_empty = True
    for where, row in _READERS[path.suffix](path):
        is_empty = False
        row = {name: value for name, value in row.items() if value is not None}
        _check_columns(where, row)
        row_id = str(row["id"]) if "id" in row else None
        yield _Row(where=where, messages=_messages(where, row), answer=row["answer"], id=row_id)
    if is_empty:
        raise UserError(f"task.path={task.path}: the file holds no rows")


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path} line {number}"
            if line.strip():
                yield where, jsonl_row(where, line)


def jsonl_row(where: str, line: bytes) -> dict[str, Any]:
    """The JSON object of a line; `where` names it in the error.

    Raises UserError: it is none.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: got {line[:40]!r}, expected a JSON object with `messages` and `answer`")
    return row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return parquet_rows(path, COLUMNS)


def parquet_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of every row; None takes all columns, a selection is checked for what a prompt needs.

    Raises UserError: a column is missing, or the file is not Parquet.
    """
    num_read = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if columns is not None:
                _check_columns(str(path), names)
            batches = file.iter_batches(columns=[name for name in names if columns is None or name in columns])
            for num_read, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
                yield f"{path} row {num_read}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as Parquet after row {num_read}: {' '.join(str(error).split())}") from error


def _check_columns(where: str, names: Iterable[str]) -> None:
    got = set(names)
    for needed in ({"messages", "prompt"}, {"answer"}):
        if not needed & got:
            raise UserError(f"{where}: no `{'` or `'.join(sorted(needed))}`; there is: {', '.join(sorted(got)) or 'nothing'}")


def _messages(where: str, row: dict[str, Any]) -> list[Message]:
    if "messages" in row and "prompt" in row:
        raise UserError(f"{where}: both `messages` and `prompt`, expected one of them")
    messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: `messages` is {_short(messages)}, expected a list of {{role, content}}")
    checked = [_message(f"{where}: message {i}", message) for i, message in enumerate(messages)]
    if checked[-1]["role"] != "user":
        raise UserError(f"{where}: the last message is the {checked[-1]['role']}'s, expected the user's")
    return checked


def _message(where: str, fields: Any) -> Message:
    if not isinstance(fields, dict):
        raise UserError(f"{where} is {_short(fields)}, expected {{role, content}}")
    message = _without_nulls(fields)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UserError(f"{where} has role {_short(role)}; {nearest(str(role), ROLES)}")
    if isinstance(content, list) and content and all(isinstance(part, dict) and "type" in part for part in content):
        return {**message, "content": [_without_nulls(part) for part in content]}
    if not isinstance(content, str) or not content:
        raise UserError(f"{where} has content {_short(content)}, expected a text or a list of typed parts")
    return message


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    # Parquet gives every struct of a column the same fields; without its nulls a prompt is the same as in JSONL.
    return {name: value for name, value in fields.items() if value is not None}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SOURCES: dict[str, Callable[[TaskConfig], Iterator[_Row]]] = {
    "reasoning_gym": _drawn_rows,
    "generated": _generated_rows,
    "file": _file_rows,
}
_READERS: dict[str, Callable[[Path], Iterator[tuple[str, dict[str, Any]]]]] = {".jsonl": _jsonl, ".parquet": _parquet}
