"""Conversations to learn from: a task's rows, each a list of messages that the assistant takes part in.

A row: `messages`, and if need be `tools` (schemas), `thinking` (whether its <think> blocks stay), `soft_targets` (see
soft_targets.py); each may be JSON text. Left out on purpose: tokens (rollout/transcript.py), the order of use
(algorithms/stages.py).
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from posttrain.config import TaskConfig
from posttrain.data import soft_targets
from posttrain.data.images import take_images
from posttrain.data.messages import check_messages, digest_of, shorten, with_system_prompt
from posttrain.data.rows import RawRow, fields_of, folder_of, usable_rows
from posttrain.errors import UserError
from posttrain.types import Conversation, Message

COLUMNS = ("messages", "tools", "thinking", soft_targets.FIELD)
THINK_BLOCK = re.compile(r"^\s*<think>(.*?)</think>\s*", re.DOTALL)


def load_conversations(task: TaskConfig, *, with_soft_targets: bool = False) -> tuple[list[Conversation], list[str]]:
    """All rows that can be used, in the order of the source, and one line about each of the others.

    with_soft_targets: a row without them cannot be used; otherwise nobody looks at them.

    Raises UserError: there is no such file or dataset, or reading it cannot go on.
    """
    columns = COLUMNS if with_soft_targets else COLUMNS[:-1]
    usable, problems = usable_rows(task, columns, _check_columns, _with_soft_targets if with_soft_targets else _conversation)
    _choose_thinking(usable, task.thinking)
    return [conversation for conversation, _ in usable], problems


def _check_columns(where: str, names: Iterable[str]) -> None:
    got = set(names)
    if "messages" not in got:
        raise UserError(f"{where}: no `messages`; there is: {', '.join(sorted(got)) or 'nothing'}")


def _conversation(task: TaskConfig, where: str, raw: RawRow) -> tuple[Conversation, bool | None]:
    return _from_fields(task, where, fields_of(where, raw))


def _from_fields(task: TaskConfig, where: str, row: dict[str, Any]) -> tuple[Conversation, bool | None]:
    """With the row's own word on whether its thinking stays."""
    _check_columns(where, row)
    checked = check_messages(where, from_json(where, row["messages"]))
    with_parts, images = take_images(where, checked, folder_of(task))
    messages = [think_inline(plain(where, message)) for message in with_parts]
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"{where}: no message is the assistant's, so there is nothing to learn")
    if any(message["role"] == "assistant" and not isinstance(message["content"], str) for message in messages):
        raise UserError(f"{where}: the assistant shows an image, expected text")
    tools, thinking = from_json(where, row.get("tools")), row.get("thinking")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise UserError(f"{where}: `tools` is {shorten(tools)}, expected a list of schemas")
    if not isinstance(thinking, bool | None):
        raise UserError(f"{where}: `thinking` is {shorten(thinking)}, expected true or false")
    digest = digest_of([messages, tools, [image.digest for image in images]])
    messages = with_system_prompt(where, messages, task.system_prompt)
    return Conversation(where=where, digest=digest, messages=messages, tools=tools or None, images=images), thinking


def _with_soft_targets(task: TaskConfig, where: str, raw: RawRow) -> tuple[Conversation, bool | None]:
    row = fields_of(where, raw)
    conversation, thinking = _from_fields(task, where, row)
    field = row.get(soft_targets.FIELD)
    if field is None:
        raise UserError(f"{where}: no `{soft_targets.FIELD}` to learn from; algo=distill_offpolicy writes them with algo.top_k above 0")
    if conversation.messages[-1]["role"] != "assistant":
        raise UserError(f"{where}: `{soft_targets.FIELD}` are the last message's, which has role {conversation.messages[-1]['role']}")
    conversation.soft_targets = soft_targets.from_field(where, from_json(where, field))
    return conversation, thinking


def from_json(where: str, value: Any) -> Any:
    """A value, or what its JSON text says: Parquet has one shape for a whole column, and what has none is kept as text.

    Raises UserError: not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise UserError(f"{where}: got {shorten(value)}, expected a list or its JSON text") from error


def plain(where: str, message: Message) -> Message:
    """Parts that are all text become one text, which templates of text models want; those with images stay parts.

    Raises UserError: a part is neither.
    """
    if isinstance(message["content"], str):
        return message
    if other := [part["type"] for part in message["content"] if part["type"] not in ("text", "image")]:
        raise UserError(f"{where}: a part of type {shorten(other[0])}, expected text or image")
    if any(part["type"] == "image" for part in message["content"]):
        return message
    return {**message, "content": "".join(part.get("text", "") for part in message["content"])}


def think_inline(message: Message) -> Message:
    """`reasoning_content` becomes a <think> block before the content: one form, whatever the chat template looks for."""
    if message["role"] != "assistant" or not message.get("reasoning_content"):
        return message
    rest = {name: value for name, value in message.items() if name != "reasoning_content"}
    return {**rest, "content": f"<think>\n{message['reasoning_content'].strip()}\n</think>\n\n{message['content']}"}


def _choose_thinking(rows: list[tuple[Conversation, bool | None]], share: float) -> None:
    """Takes the <think> blocks out of the rows that say so, and of others until exactly `share` of these have kept theirs.

    Which ones follows from content: the digests' order, by bytes that do not decide the held-out half.
    """
    with_blocks = [(conversation, own) for conversation, own in rows if any(map(has_thinking, conversation.messages))]
    undecided = sorted((conversation.digest[8:], index) for index, (conversation, own) in enumerate(with_blocks) if own is None)
    stripped = {index for _, index in undecided[round(share * len(undecided)) :]}
    for index, (conversation, own) in enumerate(with_blocks):
        if own is False or index in stripped:
            conversation.messages = [without_thinking(message) for message in conversation.messages]


def has_thinking(message: Message) -> bool:
    """Whether the assistant thinks aloud in this message."""
    return message["role"] == "assistant" and isinstance(message["content"], str) and bool(THINK_BLOCK.match(message["content"]))


def without_thinking(message: Message) -> Message:
    """The message without the <think> block that it begins with."""
    return {**message, "content": THINK_BLOCK.sub("", message["content"])} if has_thinking(message) else message
