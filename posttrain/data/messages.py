"""What a row's messages have to be, whoever uses them: roles, texts, typed parts, tool calls."""

import hashlib
import json
from typing import Any

from posttrain.data.rows import without_nulls
from posttrain.errors import UserError, nearest
from posttrain.types import Message

ROLES = ("system", "user", "assistant", "tool")


def check_messages(where: str, messages: Any) -> list[Message]:
    """The messages without nulls, tool calls in one form: {type: function, function: {name, arguments: an object}}.

    Raises UserError: they are no conversation, or one of them cannot be used.
    """
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: `messages` is {shorten(messages)}, expected a list of {{role, content}}")
    return [_message(f"{where}: message {i}", message) for i, message in enumerate(messages)]


def digest_of(content: Any) -> bytes:
    """32 bytes that follow from JSON-able content alone."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).digest()


def is_heldout(digest: bytes, fraction: float) -> bool:
    """Whether content of this digest is kept for evaluation; a larger fraction only adds."""
    return int.from_bytes(digest[:8]) < fraction * 2**64


def with_system_prompt(where: str, messages: list[Message], system_prompt: str | None) -> list[Message]:
    """The messages after `task.system_prompt`, if there is one.

    Raises UserError: they have a system message of their own too.
    """
    if system_prompt is None:
        return messages
    if messages[0]["role"] == "system":
        raise UserError(f"{where}: has a system message of its own, but task.system_prompt is set too; remove one of them")
    return [{"role": "system", "content": system_prompt}, *messages]


def shorten(value: Any) -> str:
    """A value as an error line shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _message(where: str, fields: Any) -> Message:
    if not isinstance(fields, dict):
        raise UserError(f"{where} is {shorten(fields)}, expected {{role, content}}")
    message = without_nulls(fields)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UserError(f"{where} has role {shorten(role)}; {nearest(str(role), ROLES)}")
    if message.get("tool_calls"):
        calls = [_tool_call(f"{where}, tool call {i}", call) for i, call in enumerate(message["tool_calls"])]
        message = {**message, "content": content or "", "tool_calls": calls}
        if not content:
            return message
    if isinstance(content, list) and content and all(isinstance(part, dict) and "type" in part for part in content):
        return {**message, "content": [without_nulls(part) for part in content]}
    if not isinstance(content, str) or not content:
        raise UserError(f"{where} has content {shorten(content)}, expected a text or a list of typed parts")
    return message


def _tool_call(where: str, call: Any) -> dict[str, Any]:
    """Arguments come as an object or, as in OpenAI's format, as its JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UserError(f"{where} is {shorten(call)}, expected {{function: {{name, arguments}}}}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise UserError(f"{where}: the arguments {shorten(arguments)} are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise UserError(f"{where} has arguments {shorten(arguments)}, expected an object")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
