"""Calls as the policy writes them: whatever stands there, reading it gives calls or a text about what is wrong, and quickly."""

import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.tool_calls import MAX_CALLS, written_calls

PIECES = [
    "<tool_call>",
    "</tool_call>",
    "{",
    "}",
    '"name"',
    ": ",
    '"f"',
    ", ",
    '"arguments"',
    "[",
    "]",
    "NaN",
    "1e999",
    "\\",
    "\n",
    "x",
    "é",
]


def tagged(value):
    return f"<tool_call>\n{value if isinstance(value, str) else json.dumps(value)}\n</tool_call>"


def test_calls_are_read_in_their_order():
    text = f"I look. {tagged({'name': 'f', 'arguments': {'a': 1}})}\n{tagged({'name': 'g', 'arguments': {}, 'id': 3})} done"
    assert [(call.name, call.arguments, call.error) for call in written_calls(text)] == [("f", {"a": 1}, ""), ("g", {}, "")]
    assert written_calls("no call at all </tool_call>") == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("{'name': 'f'}", "not JSON"),
        ("", "not JSON"),
        ('{"name": "f", "arguments": {"a": NaN}}', "NaN is not JSON"),
        ('{"name": "f", "arguments": {"a": 1, "a": 2}}', "repeats"),
        ('{"name": "f"}', "arguments is missing"),
        ('{"arguments": {}}', "name is missing"),
        ('{"name": 3, "arguments": []}', "name is not a text; arguments is not an object"),
        ("[1]", "not an object"),
        ("[" * 50_000, "nests more than"),
        ('{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}", "not JSON"),
        ('"' + "a" * 100_001 + '"', "expected at most 100000"),
    ],
)
def test_what_is_wrong_is_said(body, error):
    (call,) = written_calls(tagged(body))
    assert error in call.error and len(call.error) < 500


def test_nested_and_unclosed_calls_are_no_calls():
    inner = tagged({"name": "f", "arguments": {}})
    nested = written_calls(tagged({"name": "g", "arguments": {"text": inner}}))
    assert [bool(call.error) for call in nested] == [True, True]
    (call, broken) = written_calls(inner + '<tool_call>{"name": "f", ')
    assert (call.error, broken.error) == ("", "a <tool_call> has no </tool_call> of its own")


def test_many_calls_and_long_texts_are_bounded():
    started = time.monotonic()
    calls = written_calls(tagged({"name": "f", "arguments": {}}) * 100_000)
    assert len(calls) == MAX_CALLS + 1 and "more calls than 16" in calls[-1].error
    assert len(written_calls("<tool_call>" * 1_000_000)) == MAX_CALLS
    (long,) = written_calls(tagged({"name": "f", "arguments": {"x": "a" * 100_000_000}}))
    assert "expected at most" in long.error
    assert time.monotonic() - started < 10


@given(st.integers(0, 2**32), st.integers(0, 40))
def test_reading_never_fails(seed, length):
    rng = random.Random(seed)
    calls = written_calls("".join(rng.choices(PIECES, k=length)))
    assert all(call.error or (call.name and isinstance(call.arguments, dict)) for call in calls)
