"""The reward `function_call`: ToolRM's numbers, and which calls are an episode's."""

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.function_call import FunctionCall, call_score
from posttrain.types import Episode, Prompt, ToolCall, Turn


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def prompt(reference):
    return Prompt(id="test/1", task="test", messages=[], reference=reference)


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def tagged(*calls):
    return "\n".join(f"<tool_call>\n{json.dumps(one)}\n</tool_call>" for one in calls)


def score(text, reference):
    return FunctionCall().score(prompt(reference), episode(text))


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ([call("f", a=1, b=2)], [call("f", b=2, a=1)], 1.0),
        ([call("f", a=1, b=3)], [call("f", a=1, b=2)], 1 / 2),
        ([call("f", a=1)], [call("f", a=1, b=2)], 1 / 2),
        ([call("f", a=1, c=2)], [call("f", a=1, b=2)], 1 / 3),  # the union has three keys
        ([call("g", a=1)], [call("f", a=1)], 0.0),
        ([call("g"), call("f", a=1)], [call("f", a=1), call("g")], 1.0),
        ([call("f", a=1), call("f", a=3)], [call("f", a=1), call("f", a=2)], 1 / 2),
        ([call("f", a=1), call("h")], [call("f", a=1), call("g")], 1 / 2),
        ([call("f")], [call("f")], 1.0),
        ([], [], 1.0),
        ([], [call("f")], 0.0),
        ([call("f")], [], 0.0),
        ([call("f", a=1), call("g")], [call("f", a=1)], 0.0),
        ([call("f", a=1), call("f", a=1)], [call("f", a=1), call("g")], 0.0),  # repeats
        ([call("f", a=5.0)], [call("f", a=5)], 1.0),
        ([call("f", a="5")], [call("f", a=5)], 0.0),
        ([call("f", a=True)], [call("f", a=1)], 0.0),
        ([call("f", a={"x": [1, {"y": 2}]})], [call("f", a={"x": [1.0, {"y": 2}]})], 1.0),
        ([call("f", a={"name": "n", "arguments": {}, "z": 1})], [call("f", a={"name": "n", "arguments": {}})], 0.0),
    ],
)
def test_the_score_of_calls(predicted, gold, expected):
    assert call_score(predicted, gold) == pytest.approx(expected)
    assert score(tagged(*predicted), gold) == pytest.approx(expected)


arguments = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.booleans() | st.text(max_size=2), max_size=3)


@given(st.lists(arguments, max_size=4, unique_by=lambda values: json.dumps(values, sort_keys=True)), st.randoms())
def test_the_right_calls_in_any_order_are_worth_one_and_losing_one_nothing(all_arguments, rng):
    gold = [call("f", **values) for values in all_arguments]
    shuffled = rng.sample(gold, len(gold))
    assert score(tagged(*shuffled), gold) == 1.0
    if gold:
        assert score(tagged(*shuffled[1:]), gold) == 0.0


@given(arguments, arguments)
def test_one_call_scores_between_zero_and_one_and_symmetrically(ours, theirs):
    value = call_score([call("f", **ours)], [call("f", **theirs)])
    assert 0.0 <= value <= 1.0
    assert value == call_score([call("f", **theirs)], [call("f", **ours)])


def test_the_turns_calls_come_before_what_is_written():
    several = episode(tagged(call("g")))
    several.turns = [*episode("").turns, *several.turns]
    several.turns[0].tool_calls = [ToolCall(**call("f", a=1), status="failed")]
    assert FunctionCall().score(prompt([call("f", a=1)]), several) == 1.0
    assert FunctionCall().score(prompt([call("g")]), several) == 0.0
    several.turns[0].tool_calls += [ToolCall(name="", arguments={}, status="invalid")]
    assert FunctionCall().score(prompt([call("f", a=1)]), several) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{'name': 'f'}</tool_call>",
        '<tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": 1, "a": 1}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {}}',
        "<tool_call>" + "[" * 2000 + "]" * 2000 + "</tool_call>",
        "<tool_call></tool_call>",
    ],
)
def test_a_malformed_call_scores_nothing_even_where_none_is_expected(text):
    assert score(text, []) == score(text, [call("f")]) == 0.0
    assert score(text + tagged(call("f")), [call("f")]) == 0.0


def test_arguments_that_nest_without_end_score_nothing():
    deep = []
    for _ in range(5000):
        deep = [deep]
    one = episode("")
    one.turns[0].tool_calls = [ToolCall(**call("f", a=deep), status="answered")]
    assert FunctionCall().score(prompt([call("f", a=1)]), one) == 0.0


def test_thinking_about_a_call_is_no_call():
    assert score(f"<think>{tagged(call('f'))}</think>{tagged(call('g'))}", [call("g")]) == 1.0
    assert score(f"<think>{tagged(call('f'))}", [call("f")]) == 0.0
    assert score("<think>nothing to do</think>Hello \N{SNOWMAN}", []) == 1.0


@pytest.mark.parametrize(
    "reference", [None, "f", {"name": "f", "arguments": {}}, [{"name": "f"}], [{"name": 1, "arguments": {}}], [call("f"), call("f")]]
)
def test_a_broken_reference_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="the reference"):
        score("", reference)


@pytest.mark.parametrize("piece", ["<tool_call>", "<tool_call><", "<", "</tool_call>", "<tool_call></tool_call>", "[", '{"a":', '"', "\\"])
def test_huge_texts_are_scored_in_time(piece):
    start = time.perf_counter()
    text = piece * (100_000 // len(piece))
    assert score(text, [call("f")]) == score(f"<tool_call>{text}</tool_call>", [call("f")]) == 0.0
    assert time.perf_counter() - start < 5
