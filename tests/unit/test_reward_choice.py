"""The reward `choice`: which letter an answer commits to."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.choice import Choice, last_choice
from posttrain.types import Episode, Prompt, Turn


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def prompt(reference):
    return Prompt(id="test/1", task="test", messages=[], reference=reference)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{(C) Paris}}", "C"),
        (r"Final Answer: $\boxed{E}$", "E"),
        ("answer is (B)", "B"),
        ("The answer is **B**.", "B"),
        ("The answer is: D", "D"),
        ("**Answer:** C", "C"),
        ("Answer: $B$", "B"),
        ("Answer: A", "A"),
        ("answer is b", "B"),
        ("The answer is A because it fits", "A"),
        ("The answer is A.", "A"),
        ("The correct answer is option B: Paris", "B"),
        ("I choose option J", "J"),
        ("choice (D)", "D"),
        ("The answer is\n\nB", "B"),
        ("B", "B"),
        ("(b).", "B"),
        ("Let me think.\nA", "A"),
        # the last statement
        ("Answer: B\nno, Answer: D", "D"),
        ("Answer: B, no, the answer is D", "D"),
        (r"\boxed{A} and so the answer is B", "B"),
        (r"The answer is B, \boxed{A}", "A"),
        ("answer is C, not D", "C"),
        ("Answer: C\n\nB", "B"),
        # words and formulas
        ("The answer is a prime number", None),
        ("The answer is A big one", None),
        (r"\boxed{a prime}", None),
        (r"\boxed{E = mc^2}", None),
        ("Answer: Because", None),
        ("Answer: I think so", None),
        ("A cat sat on it", None),
        ("Option A is wrong", None),
        ("Answer: B\nThe answer is a nice letter", "B"),
        ("Answer: K", None),
        ("the answer is not B", None),
        ("B is what I say", None),
        ("", None),
    ],
)
def test_the_letter_of_an_answer(text, letter):
    assert last_choice(text) == letter


@given(
    st.sampled_from("ABCDEFGHIJ"),
    st.sampled_from(["\\boxed{%s}", "The answer is (%s).", "Answer: %s", "so\n%s", "**Answer: %s**"]),
    st.text(),
)
def test_a_statement_at_the_end_decides_whatever_stands_before(letter, form, before):
    assert last_choice(f"{before}\nAnswer: C\n{form % letter}") == letter


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("<think>Answer: B</think>Answer: C", "C", 1),
        ("<think>Answer: B</think>Answer: C", "B", 0),
        ("<think>Answer: B", "B", 0),
        ("b", " (B) ", 1),
        ("B", "b", 1),
        ("", "B", 0),
    ],
)
def test_letters_are_compared_after_the_thinking(text, reference, score):
    assert Choice().score(prompt(reference), episode(text)) == score


@pytest.mark.parametrize("reference", ["", "K", "AB", "Paris", None, 1, ["A"]])
def test_a_reference_that_is_no_letter_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="expected a letter from A to J"):
        Choice().score(prompt(reference), episode("A"))


@given(st.text(alphabet="ABab()[]{}*$ \n:.answeri\\boxed") | st.text())
def test_no_text_breaks_it(text):
    assert last_choice(text) in (None, *"ABCDEFGHIJ")


@pytest.mark.parametrize(
    "piece", ["answer is ", "answer is (((", "Answer: A", "\\boxed{", "\\boxed{\\text{", " ", "\n", "A ", "(", "**", "\\", "é"]
)
def test_huge_texts_are_scored_in_time(piece):
    start = time.perf_counter()
    last_choice(piece * (100_000 // len(piece)) + "x")
    assert time.perf_counter() - start < 5
