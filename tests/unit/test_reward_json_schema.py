"""The reward `json_schema`: JSON, strictly, and valid under the schema."""

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import SchemaError
from referencing.exceptions import Unresolvable

from posttrain.rewards.json_schema import JsonSchema
from posttrain.strict_json import MAX_DEPTH
from posttrain.types import Episode, Prompt, Turn


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def prompt(reference):
    return Prompt(id="test/1", task="test", messages=[], reference=reference)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def score(text, reference):
    return JsonSchema().score(prompt(reference), episode(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', 1),
        (' {"a": 1.0}\n', 1),
        ('<think>{}</think>{"a": 1}', 1),
        ('<think>{"a": 1}', 0),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', 1),
        ('```\n{"a": 1}\n```', 1),
        ('```json\n{}\n```\nno:\n```json\n{"a": 1}\n```', 1),
        ('```json\n{"a": 1}\n```\nno:\n```json\n{}\n```', 0),
        ('```json\n{"a": 1}', 0),
        ('Here: {"a": 1}', 0),
        ('{"a": 1} {"a": 1}', 0),
        ('{"a": "1"}', 0),
        ('{"a": true}', 0),
        ('{"b": 1}', 0),
        ('{"a": 1, "b": 1}', 0),
        ("{'a': 1}", 0),
        ('{"a": 1,}', 0),
        ('{"a": 1, "a": 1}', 0),
        ("1", 0),
        ("", 0),
        ('{"a": ' + "9" * 5000 + "}", 0),
    ],
)
def test_the_answer_is_json_that_the_schema_allows(text, expected):
    assert score(text, SCHEMA) == expected


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "-Infinity", "1e999", '{"a": {"b": 1, "b": 2}}', "\ufeff1", "[1", "\x00", '"\n"', "\N{SNOWMAN}"]
)
def test_what_is_not_json_is_wrong_under_any_schema(text):
    assert score(text, {}) == 0.0


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ('{"a": 1.0}', {"a": 1}, 1),
        ('{"a": 2}', {"a": 1}, 0),
        ("[1, 2]", [1, 2], 1),
        ("[2, 1]", [1, 2], 0),
        ("[1]", [1, 2], 0),
        ("true", True, 1),
        ("1", True, 0),
        ('[{"x": 0}]', [{"x": False}], 0),
        ("null", None, 1),
        ("0", None, 0),
        ('"\\u00e9"', "é", 1),
    ],
)
def test_a_value_must_be_equal_as_well(text, value, expected):
    assert score(text, {"schema": {}, "value": value}) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.sampled_from([None, 2]))
def test_every_value_written_out_equals_itself(value, indent):
    written = json.dumps(value, indent=indent)
    if "```" in written or "think>" in written:
        return
    assert score(written, {"schema": {}, "value": value}) == 1.0
    assert score(f"```json\n{written}\n```", {"schema": True, "value": value}) == 1.0
    assert score(written, {"schema": {}, "value": [value]}) == 0.0


def test_depth_is_limited_outside_strings_only():
    nested = {"$ref": "#/$defs/list", "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}}
    assert score("[" * MAX_DEPTH + "]" * MAX_DEPTH, nested) == 1.0
    assert score("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), {}) == 0.0
    assert score("[" * 50_000 + "]" * 50_000, {}) == 0.0
    assert score(json.dumps('[{\\"' * 1000), {}) == 1.0


def test_integers_past_any_float_are_judged():
    assert score("1" + "0" * 400, {"multipleOf": 0.5}) in (0.0, 1.0)


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ({"type": "intger"}, SchemaError),
        ({"schema": {"type": 5}, "value": 1}, SchemaError),
        ({"schema": {"type": "string"}, "value": 1}, ValueError),
        ({"schema": {}}, ValueError),
        ({"schema": {}, "value": 1, "note": ""}, ValueError),
        ("{}", ValueError),
        (None, ValueError),
        ({"$ref": "#"}, RecursionError),
        ({"$ref": "#/$defs/missing"}, Unresolvable),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, Unresolvable),
    ],
)
def test_a_broken_schema_is_a_mistake_in_the_data_whatever_the_answer(reference, error):
    for text in ("1", "no JSON"):
        with pytest.raises(error):
            score(text, reference)


def test_the_dialect_is_the_schemas_own():
    draft_4 = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}
    assert (score("2", draft_4), score("1", draft_4)) == (1.0, 0.0)


@given(st.text(alphabet='{}[]",:\\`json\n 1eE+-.tru') | st.text())
def test_no_text_breaks_it(text):
    assert score(text, SCHEMA) in (0.0, 1.0)


@pytest.mark.parametrize("piece", ["[", "{", '{"a":', '"', '\\"', '"\\', "```", "```json\n", "`", "\n", "1", "[]", "```json\n`", " "])
def test_huge_texts_are_scored_in_time(piece):
    start = time.perf_counter()
    score(piece * (100_000 // len(piece)), SCHEMA)
    assert time.perf_counter() - start < 5
