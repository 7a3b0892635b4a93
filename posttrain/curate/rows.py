"""Rows as curation sees them: what was read, and what of it is question, response and reference.

A row keeps the form in which it came: `messages` or `prompt`, `answer`, a response as the field `response` or as the last message
if that is the assistant's, and any other fields, which are carried through. So that what comes out can be read by whoever read
what went in.

Left out on purpose: what makes a row good or bad. Here only that is refused which no step could work on.
"""

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.data.images import located
from posttrain.data.messages import ROLES, digest_of, shorten
from posttrain.data.rows import READERS, fields_of, file_rows, without_nulls
from posttrain.errors import UserError, nearest
from posttrain.files import whole
from posttrain.rewards.judge import question_text
from posttrain.types import Episode, Group, Message, Prompt, Turn

CONTENT = ("messages", "prompt", "response", "answer", "images")
"""The fields that make two rows the same; everything else is said about them."""
TEXTS = ("prompt", "response", "answer")


@dataclass(slots=True, kw_only=True)
class Row:
    """One row. where: the file and line that it came from, which tells it apart; data: its fields, never changed in place."""

    where: str
    data: dict[str, Any]

    @property
    def conversation(self) -> list[Message]:
        """All messages; a `prompt` is the user's."""
        if "messages" in self.data:
            return list(self.data["messages"])
        return [{"role": "user", "content": self.data["prompt"]}]

    @property
    def question(self) -> list[Message]:
        """The messages before the response."""
        messages = self.conversation
        return messages[:-1] if messages[-1]["role"] == "assistant" else messages

    @property
    def response(self) -> str | None:
        """What the assistant wrote last, None where the row has no response."""
        if "response" in self.data:
            return str(self.data["response"])
        last = self.conversation[-1]
        return text_of(last) if last["role"] == "assistant" else None

    @property
    def question_text(self) -> str:
        """The question as one text, without system messages: they are the same for many questions."""
        messages = [message for message in self.question if message["role"] != "system"]
        return question_text(Prompt(id="", task="", messages=messages or self.question, reference=None))

    @property
    def task(self) -> str:
        """The task that it belongs to, "" where it names none."""
        return str(self.data.get("task", ""))

    @property
    def pictures(self) -> tuple[str, ...]:
        """What the question shows that is not text, each as JSON; the same picture under two names is two."""
        parts = [part for message in self.question if isinstance(message.get("content"), list) for part in message["content"]]
        images = self.data.get("images") or []
        shown = [part for part in parts if part["type"] != "text"] + (images if isinstance(images, list) else [images])
        return tuple(json.dumps(one, sort_keys=True) for one in shown)

    @property
    def content_hash(self) -> str:
        """Of what it asks and answers, white space and case included; 64 hexadecimal digits."""
        return digest_of({name: self.data[name] for name in CONTENT if name in self.data}).hex()

    @property
    def question_hash(self) -> str:
        """Of what it asks, images included."""
        return digest_of([self.question, self.data.get("images")]).hex()

    def having(self, **fields: Any) -> "Row":
        """The row with these fields added or replaced."""
        return Row(where=self.where, data={**self.data, **fields})

    def group(self) -> Group:
        """The row as rewards see it: a prompt and, where there is a response, one episode that wrote it."""
        prompt = Prompt(
            id=self.where,
            task=self.task,
            messages=self.question,
            reference=self.data.get("answer"),
            metadata=self.data.get("metadata") or {},
        )
        nothing = np.zeros(0, np.int64)
        turn = Turn(token_ids=nothing, logprobs=np.zeros(0, np.float32), text=self.response or "", stop_reason="stop", policy_version=0)
        episodes = [] if self.response is None else [Episode(prompt_id=self.where, turns=[turn], status="complete")]
        return Group(prompt=prompt, prompt_token_ids=nothing, episodes=episodes)

    def with_texts(self, change: Callable[[str], str]) -> "Row":
        """The row with `change` applied to every text that is asked or answered."""
        fields: dict[str, Any] = {name: change(self.data[name]) for name in TEXTS if isinstance(self.data.get(name), str)}
        if "messages" in self.data:
            fields["messages"] = [{**message, **_changed(message, change)} for message in self.data["messages"]]
        return self.having(**fields)

    def with_question(self, text: str) -> "Row":
        """The row with its last user message saying `text`; what it shows stays, before the text."""
        if "prompt" in self.data:
            return self.having(prompt=text)
        messages = self.conversation
        last = max(index for index, message in enumerate(messages) if message["role"] == "user")
        content = messages[last]["content"]
        shown = [part for part in content if part["type"] != "text"] if isinstance(content, list) else []
        messages[last] = {**messages[last], "content": [*shown, {"type": "text", "text": text}] if shown else text}
        return self.having(messages=messages)


def text_of(message: Message) -> str:
    """A message's text; parts that are no text are left out."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if part["type"] == "text")


def compact(text: str) -> str:
    """What two texts are compared by where little changes are none: compatibility forms, case and white space do not count."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def read(path: Path, name: str, refused: Callable[[Row, str], None] | None = None) -> Iterator[Row]:
    """The rows of a .jsonl or .parquet file; one that cannot be used is given to `refused` with the reason.

    name: what the file is called in rows and messages.
    Raises UserError: there is no such file or it is of another kind; without `refused`, also a row that cannot be used.
    """
    if path.suffix not in READERS:
        raise UserError(f"{name}: expected a file that ends in {' or '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"{name}: there is no such file as {path}")
    for place, raw in file_rows(path):
        where = name + place.removeprefix(str(path))
        try:
            yield Row(where=where, data=_located(_checked(where, fields_of(where, raw)), path.parent))
        except UserError as error:
            if refused is None:
                raise
            kept = {"line": raw.decode(errors="replace")} if isinstance(raw, bytes) else json.loads(json.dumps(raw, default=str))
            refused(Row(where=where, data=kept), str(error).removeprefix(f"{where}: "))


def _checked(where: str, data: dict[str, Any]) -> dict[str, Any]:
    """The row's fields, its messages without nulls. Raises UserError: no step could work on it."""
    if ("messages" in data) == ("prompt" in data):
        raise UserError(f"{where}: expected one of `messages` and `prompt`; there is: {', '.join(sorted(data)) or 'nothing'}")
    if "prompt" in data and not isinstance(data["prompt"], str):
        raise UserError(f"{where}: `prompt` is {shorten(data['prompt'])}, expected a text")
    if "messages" in data:
        data["messages"] = _messages(where, data["messages"])
        if "response" in data and data["messages"][-1]["role"] == "assistant":
            raise UserError(f"{where}: the last message is the assistant's and there is a `response` too, expected one of them")
    if not isinstance(data.get("response", ""), str):
        raise UserError(f"{where}: `response` is {shorten(data['response'])}, expected a text")
    try:
        json.dumps(data)
    except TypeError as error:
        raise UserError(f"{where}: {error}, expected texts, numbers, lists and objects; give images as paths") from error
    return data


def _located(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Pictures that lie beside the file by their absolute paths, because what is left of the rows is written elsewhere."""
    messages = [
        {**message, "content": [located(part, folder) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in data.get("messages", [])
    ]
    return {**data, "messages": messages} if messages else data


def _messages(where: str, messages: Any) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: `messages` is {shorten(messages)}, expected a list of {{role, content}}")
    checked = [_message(f"{where}: message {index}", message) for index, message in enumerate(messages)]
    if not any(message["role"] == "user" for message in checked):
        raise UserError(f"{where}: no message is the user's")
    return checked


def _message(where: str, fields: Any) -> Message:
    if not isinstance(fields, dict):
        raise UserError(f"{where} is {shorten(fields)}, expected {{role, content}}")
    message = without_nulls(fields)
    role, content = message.get("role"), message.get("content", "")
    if role not in ROLES:
        raise UserError(f"{where} has role {shorten(role)}; {nearest(str(role), ROLES)}")
    if isinstance(content, list) and all(_is_part(part) for part in content):
        return {**message, "content": [without_nulls(part) for part in content]}
    if not isinstance(content, str):
        raise UserError(f"{where} has content {shorten(content)}, expected a text or a list of typed parts")
    return message


def _is_part(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("type"), str) and (part["type"] != "text" or isinstance(part.get("text"), str))


def _changed(message: Message, change: Callable[[str], str]) -> Message:
    content = message.get("content")
    if isinstance(content, str):
        return {"content": change(content)}
    if isinstance(content, list):
        return {"content": [{**part, "text": change(part["text"])} if part["type"] == "text" else part for part in content]}
    return {}


def to_line(value: Any) -> str:
    """One line of JSON; what UTF-8 cannot hold (lone surrogates) is escaped."""
    line = json.dumps(value, ensure_ascii=False)
    return line if _is_sendable(line) else json.dumps(value)


def write(path: Path, rows: Iterable[Any]) -> None:
    """Writes JSON lines; the file is whole or not there."""
    _write(path, (f"{to_line(row)}\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes a text; the file is whole or not there."""
    _write(path, [text])


def _write(path: Path, pieces: Iterable[str]) -> None:
    with whole(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(pieces)


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Writes a Parquet file.

    Raises UserError: a field has values of different types, which Parquet cannot hold.
    """
    try:
        table = pa.Table.from_pylist([row.data for row in rows])
    except pa.ArrowException as error:
        raise UserError(f"format=parquet: the rows do not fit a table ({' '.join(str(error).split())}); use format=jsonl") from error
    with whole(path) as draft:
        pq.write_table(table, draft)


def _is_sendable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
