"""The reward `ans_f1`: AnsF1's numbers, and what counts as a list of answers."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.answer_set import AnswerF1, answer_f1, normalise, predicted_answers
from posttrain.types import Episode, Prompt, Turn


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def prompt(reference):
    return Prompt(id="test/1", task="test", messages=[], reference=reference)


def score(text, reference):
    return AnswerF1().score(prompt(reference), episode(text))


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        (r"\boxed{Paris}", ["Paris"], 1.0),
        (r"\boxed{Paris; Rome}", ["Rome", "Paris"], 1.0),
        (r"\boxed{Paris}", ["Rome", "Paris"], 1 - 0.4 * (1 - 2 / 3)),  # P = 1, R = 1/2
        (r"\boxed{Paris; Oslo}", ["Paris"], 1 - 0.4 * (1 - 2 / 3)),  # P = 1/2, R = 1
        (r"\boxed{Paris; Oslo}", ["Rome", "Paris"], 0.8),  # P = R = 1/2
        (r"\boxed{Paris; Oslo; Bonn}", ["Rome", "Paris"], 1 - 0.4 * (1 - 0.4)),  # P = 1/3, R = 1/2
        (r"\boxed{Oslo}", ["Paris"], 0.1),
        ("Paris", ["Paris"], 0.0),
        ("", ["Paris"], 0.0),
        (r"\boxed{}", ["Paris"], 0.0),
        ("<think>Answer: Paris", ["Paris"], 0.0),
        (r"<think>\boxed{Oslo}</think> Answer: Paris", ["Paris"], 1.0),
        # aliases
        (r"\boxed{NYC}", [["New York", "NYC"]], 1.0),
        (r"\boxed{NYC; New York}", [["New York", "NYC"]], 1.0),
        (r"\boxed{Georgia}", [["Georgia", "Sakartvelo"], ["Georgia", "US-GA"]], 1 - 0.4 * (1 - 2 / 3)),
        (r"\boxed{Georgia; US-GA}", [["Georgia", "Sakartvelo"], ["Georgia", "US-GA"]], 1.0),
        (r"\boxed{7}", [7], 1.0),
        (r"\boxed{paris}", ["Paris", "paris"], 1.0),
    ],
)
def test_the_score_of_an_answer(text, reference, expected):
    assert score(text, reference) == pytest.approx(expected, abs=1e-12)


@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.sets(st.sampled_from("abcdefgh"), min_size=1))
def test_it_is_the_formula_on_plain_sets(predicted, gold):
    hits = len(predicted & gold)
    f1 = 2 * hits / (len(predicted) + len(gold))
    assert answer_f1(predicted, [{one} for one in gold]) == pytest.approx(1 - 0.4 * (1 - f1) if hits else 0.1)


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (r"\boxed{Paris} and \boxed{The Rome.}", {"paris", "rome"}),
        (r'\boxed{["Paris", "Rome, Italy"]}', {"paris", "rome italy"}),
        (r"\boxed{\text{Paris}}", {"paris"}),
        (r"Answer: Oslo, \boxed{Paris}", {"paris"}),
        ("Answer: Paris; Rome", {"paris", "rome"}),
        ("Answer: Oslo\nAnswer: Paris", {"paris"}),
        ("**Final answer:** Paris", {"paris"}),
        ("Answers:\n- Paris\n2. Rome\n\nThat is all.", {"paris", "rome"}),
        ('Answer: ["Paris", 7]', {"paris", "7"}),
        ('["Paris", "Rome"]', {"paris", "rome"}),
        ('[["Paris"]]', set()),
        ("[" * 5000, set()),
        ("Answer: Paris, France", {"paris france"}),
        ("the answer: Paris", set()),  # not at the start of a line
        (r"\boxed{Paris", set()),
    ],
)
def test_what_counts_as_a_list_of_answers(text, answers):
    assert predicted_answers(text) == answers


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Beatles!", "beatles"),
        ("-5", "-5"),
        ("\N{MINUS SIGN}5", "-5"),
        ("3.5 m.", "3.5 m"),
        ("1,000", "1000"),
        ("\N{LATIN SMALL LIGATURE FI}n", "fin"),
        ("The", "the"),
        ("?", "?"),
        ("", ""),
        ("\N{LEFT DOUBLE QUOTATION MARK}Zürich\N{RIGHT DOUBLE QUOTATION MARK}", "zürich"),
    ],
)
def test_normalisation(text, normalised):
    assert normalise(text) == normalised


@pytest.mark.parametrize("reference", [[], None, "Paris", [""], [None], [["Paris", ""]], [[]], [True], {"a": 1}])
def test_a_reference_without_answers_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="expected a list of answers"):
        score(r"\boxed{Paris}", reference)


@given(st.text(alphabet='\\boxed{};"[]\nAnswer: ,-1') | st.text())
def test_no_text_breaks_it(text):
    assert 0.0 <= score(text, ["Paris"]) <= 1.0


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "{", "\\boxed{a}", "Answer:", "\n", "\n ", "- ", "[", '"', "\\", "\\text{", "a;", "\\boxed{Paris}"]
)
def test_huge_texts_are_scored_in_time(piece):
    start = time.perf_counter()
    score(piece * (100_000 // len(piece)), ["Paris"])
    assert time.perf_counter() - start < 5
