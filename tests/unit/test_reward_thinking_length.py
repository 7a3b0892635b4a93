"""The reward `thinking_length`: what is thinking, how it is counted, and the trapezoid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.texts import thinking_text
from posttrain.rewards.thinking_length import ThinkingLength, length_score
from posttrain.types import Episode, Prompt, Turn


def score(text, *bounds, **metadata):
    turn = Turn(token_ids=[7], logprobs=[0.0], text=text, stop_reason="stop", policy_version=0)
    metadata = {"thinking_words": list(bounds)} if bounds else metadata
    prompt = Prompt(id="test/1", task="test", messages=[], reference=None, metadata=metadata)
    return ThinkingLength().score(prompt, Episode(prompt_id="test/1", turns=[turn], status="complete"))


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>a b</think>c", "a b"),
        ("a b</think>c", "a b"),  # the template wrote the opening tag into the prompt
        ("<think>a b", "a b"),  # truncated
        ("<think>a</think>b<think>c", "a\nc"),
        ("<think></think>b", ""),
        ("b", ""),
        ("", ""),
    ],
)
def test_what_is_thinking(text, thought):
    assert thinking_text(text) == thought


@pytest.mark.parametrize(
    ("num_words", "value"),
    [(0, 0), (5, 0), (6, 0.2), (9, 0.8), (10, 1), (15, 1), (20, 1), (25, 0.75), (30, 0.5), (39, 0.05), (40, 0), (4000, 0)],
)
def test_the_trapezoid(num_words, value):
    scored = score("<think>" + "word " * num_words + "</think> five", 10, 20)
    assert scored.value == pytest.approx(value)
    assert scored.details == {"thinking_words": num_words, "bounds": [10, 20]}


@pytest.mark.parametrize(
    ("text", "bounds", "value"),
    [
        ("an answer of six words here", (4, 8), 0.0),  # the answer is no thinking
        ("an answer", (0, 8), 1.0),
        ("an answer", (0, 0), 1.0),
        ("<think>a</think>b", (0, 0), 0.0),
        ("<think>我们先加再减</think>7", (6, 6), 1.0),  # a Chinese character is a word
        ("<think>one two", (2, 2), 1.0),
        ("one two</think>three four", (2, 2), 1.0),
        ("<think>one two three</think>", (1.5, 2.5), 0.8),
    ],
)
def test_edges(text, bounds, value):
    assert score(text, *bounds).value == pytest.approx(value)


@pytest.mark.parametrize("bounds", [None, [], [5], [1, 2, 3], [5, 4], [-1, 4], ["1", "2"], "12", {1: 2, 3: 4}, [1, float("inf")], 5])
def test_bounds_that_are_none_are_a_mistake_in_the_data(bounds):
    with pytest.raises(ValueError, match=r"metadata\.thinking_words is .*expected \[low, high\]"):
        score("<think>a</think>b", thinking_words=bounds)
    with pytest.raises(ValueError, match=r"metadata\.thinking_words is None"):
        score("<think>a</think>b")


@given(st.integers(0, 10**6), st.integers(0, 10**4), st.integers(0, 10**4))
def test_the_score_is_a_fraction_and_one_only_inside(length, low, width):
    value = length_score(length, low, low + width)
    assert 0 <= value <= 1 and (value == 1) == (low <= length <= low + width)


@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 3000))
def test_a_word_more_never_jumps(low, width, length):
    high = low + width
    step = abs(length_score(length + 1, low, high) - length_score(length, low, high))
    assert step <= 2 / low + 1e-9


@given(st.text())
def test_no_text_breaks_it(text):
    assert 0 <= score(text, 3, 9).value <= 1
