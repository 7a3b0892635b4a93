"""Reads JSON that the policy wrote, more strictly than the standard library does. It is no reward itself."""

import json
import math
import re
from typing import Any

MAX_DEPTH = 50  # brackets inside brackets: whoever validates or compares the value recurses several frames a level

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def parse_json(text: str) -> Any:
    """The value of a text that is JSON by RFC 8259 and nothing else.

    Raises ValueError: it is not, has NaN, Infinity or a number past any float, repeats a key, or nests more than 50 levels.
    """
    if _is_deep(text):
        raise ValueError(f"the JSON nests more than {MAX_DEPTH} levels")
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique, parse_float=_finite)


def _is_deep(text: str) -> bool:
    """Whether more than MAX_DEPTH brackets nest outside strings."""
    depth = 0
    for match in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > MAX_DEPTH:
            return True
    return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is past any float")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key of the JSON repeats")
    return value
