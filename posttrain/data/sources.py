"""Where prompts come from: reasoning-gym, our generators, a file or a dataset; split once into a training and a held-out half.

What a prompt is called and which half it is in follow from the content of its own messages alone: not from its place, the
run's seed or `task.system_prompt`. So a file may grow, and two system prompts are compared on the same held-out questions.

Left out on purpose: rendering (rollout/render.py), the order of use (cursor.py) and mixtures of tasks.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.config import TaskConfig
from posttrain.data.messages import check_messages, digest_of, is_heldout, with_system_prompt
from posttrain.data.rows import fields_of, folder_of, raw_rows
from posttrain.errors import UserError, nearest
from posttrain.types import EncodedImage, Message, Prompt

if TYPE_CHECKING:
    from posttrain.data.generated import Example

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
    """What a source says about one prompt. where: names it in an error line; split_by: as in `generated.Example`."""

    where: str
    messages: list[Message]
    answer: Any
    id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    images: list[EncodedImage] = field(default_factory=list)
    split_by: str | None = None


def load_task(task: TaskConfig) -> TaskData:
    """Reads or draws the task's prompts; of several with the same messages the first is kept.

    Raises UserError: an unknown source, family, parameter or column; a file or row that cannot be used; an empty half.
    """
    if task.source not in _SOURCES:
        raise UserError(f"task.source={task.source}: {nearest(task.source, _SOURCES)}")
    data = TaskData(name=task.name, train=[], heldout=[])
    for digest, row in _distinct(_SOURCES[task.source](task)):
        split_digest = digest if row.split_by is None else digest_of(row.split_by)
        chosen = data.heldout if is_heldout(split_digest, task.heldout_fraction) else data.train
        chosen.append(_prompt(task, digest, row))
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
        digest = digest_of([row.messages, [image.digest for image in row.images]] if row.images else row.messages)
        if digest in seen:
            continue
        seen.add(digest)
        if row.id is not None and first_with_id.setdefault(row.id, row.where) != row.where:
            raise UserError(f"{row.where}: id {row.id!r} is taken by other messages, of {first_with_id[row.id]}")
        yield digest, row


def _prompt(task: TaskConfig, digest: bytes, row: _Row) -> Prompt:
    messages = with_system_prompt(row.where, row.messages, task.system_prompt)
    name = digest.hex()[:16] if row.id is None else row.id
    return Prompt(
        id=f"{task.name}/{name}",
        task=task.name,
        messages=messages,
        reference=row.answer,
        metadata=row.metadata,
        images=row.images,
    )


def _generated_rows(task: TaskConfig) -> Iterator[_Row]:
    from posttrain.data import generated  # loads Pillow, which no other source needs

    for number, example in enumerate(generated.draw(task.family or "", task.params, task.num_examples)):
        yield _Row(
            where=f"{task.family} example {number}",
            messages=[{"role": "user", "content": _content(example)}],
            answer=example.reference,
            metadata={"solution": example.solution, **example.metadata},
            images=example.images,
            split_by=example.split_by,
        )


def _content(example: "Example") -> str | list[dict[str, Any]]:
    if not example.images:
        return example.question
    return [*({"type": "image"} for _ in example.images), {"type": "text", "text": example.question}]


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


def _stored_rows(task: TaskConfig) -> Iterator[_Row]:
    for where, raw in raw_rows(task, COLUMNS, _check_columns):
        row = fields_of(where, raw)
        _check_columns(where, row)
        row_id = str(row["id"]) if "id" in row else None
        messages, images = _with_images(task, where, _messages(where, row))
        yield _Row(where=where, messages=messages, answer=row["answer"], id=row_id, images=images)


def _with_images(task: TaskConfig, where: str, messages: list[Message]) -> tuple[list[Message], list[EncodedImage]]:
    if all(isinstance(message["content"], str) for message in messages):
        return messages, []
    from posttrain.data.images import take_images  # Pillow, which prompts of text do without

    return take_images(where, messages, folder_of(task))


def _check_columns(where: str, names: Iterable[str]) -> None:
    got = set(names)
    for needed in ({"messages", "prompt"}, {"answer"}):
        if not needed & got:
            raise UserError(f"{where}: no `{'` or `'.join(sorted(needed))}`; there is: {', '.join(sorted(got)) or 'nothing'}")


def _messages(where: str, row: dict[str, Any]) -> list[Message]:
    if "messages" in row and "prompt" in row:
        raise UserError(f"{where}: both `messages` and `prompt`, expected one of them")
    messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
    checked = check_messages(where, messages)
    if checked[-1]["role"] != "user":
        raise UserError(f"{where}: the last message is the {checked[-1]['role']}'s, expected the user's")
    return checked


_SOURCES: dict[str, Callable[[TaskConfig], Iterator[_Row]]] = {
    "reasoning_gym": _drawn_rows,
    "generated": _generated_rows,
    "file": _stored_rows,
    "dataset": _stored_rows,
}
