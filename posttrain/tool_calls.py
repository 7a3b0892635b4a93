"""Tool calls as a policy writes them: `<tool_call>` around {"name": ..., "arguments": {...}}. Reading them never fails.

Left out on purpose: which tools there are and what they make of their arguments.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from posttrain.strict_json import parse_json

MAX_CALLS = 16
"""Calls of one turn that are read one by one; what stands beyond counts as one more, which is invalid."""
MAX_CALL_CHARACTERS = 100_000

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_TAGGED = re.compile(r"<tool_call>([^<]*(?:<(?!/?tool_call>)[^<]*)*)</tool_call>")
_EXPECTED = 'expected {"name": <function>, "arguments": {<name>: <value>, ...}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCall:
    """A call as it was written. error: why it is none, "" where it is one; then name and arguments are what could be read of it."""

    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def written_calls(text: str) -> list[WrittenCall]:
    """The calls of a text in their order, and one that is none for each tag that is never closed."""
    closed = list(itertools.islice(_TAGGED.finditer(text), MAX_CALLS + 1))
    calls = [_call(match[1]) for match in closed[:MAX_CALLS]]
    if len(closed) > MAX_CALLS:
        return [*calls, WrittenCall(error=f"there are more calls than {MAX_CALLS} in one turn; the others were not read")]
    num_open = min(MAX_CALLS, text.count(_OPEN) - len(closed))
    return [*calls, *(WrittenCall(error=f"a {_OPEN} has no {_CLOSE} of its own") for _ in range(num_open))]


def said_after_thinking(text: str) -> str:
    """What follows the last `</think>`: where calls count."""
    return text.rpartition("</think>")[2]


def _call(body: str) -> WrittenCall:
    if len(body) > MAX_CALL_CHARACTERS:
        return WrittenCall(error=f"the call has {len(body)} characters, expected at most {MAX_CALL_CHARACTERS}")
    try:
        value = parse_json(body)
    except (ValueError, RecursionError) as error:  # RecursionError: the caller's own stack is deep already
        return WrittenCall(error=f"the call is not JSON: {str(error)[:200]}; {_EXPECTED}")
    fields = value if isinstance(value, dict) else {}
    name, arguments = fields.get("name"), fields.get("arguments")
    mistakes = [*_mistakes(value)]
    return WrittenCall(
        name=name if isinstance(name, str) else "",
        arguments=arguments if isinstance(arguments, dict) else {},
        error="; ".join([*mistakes, _EXPECTED]) if mistakes else "",
    )


def _mistakes(value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield "the call is not an object"
        return
    if not isinstance(value.get("name"), str):
        yield "name is not a text" if "name" in value else "name is missing"
    if not isinstance(value.get("arguments"), dict):
        yield "arguments is not an object" if "arguments" in value else "arguments is missing"
