"""OCR: edit distances by hand and against the textbook's table, normalisation, and the empty texts."""

import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.ocr import Ocr, glyphs
from posttrain.types import Episode, Prompt, Turn

SIZE = 100_000


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def score(reference, text):
    prompt = Prompt(id="test/1", task="test", messages=[{"role": "user", "content": "read it"}], reference=reference)
    return Ocr().score(prompt, episode(text))


def edit_distance(a, b):
    """The textbook's table, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


@pytest.mark.parametrize(
    ("reference", "text", "value"),
    [
        ("abc", "abc", 1),
        ("kitten", "sitting", 1 - 3 / 7),
        ("abcd", "abxd", 3 / 4),
        ("ab", "ba", 0),  # a swap is two edits
        ("abcd", "ab", 1 / 2),
        ("ab", "abcd", 1 / 2),
        ("abc", "xyz", 0),
        ("abc", "ABC", 0),
        ("a b\nc", "abc", 1),
        ("abc", " a\u3000b\tc\u00a0", 1),
        ("", "", 1),
        (" \n", "", 1),
        ("", "a", 0),
        ("a", "", 0),
        ("a", "<think>a", 0),
        ("", "<think>a", 1),
        ("a", "<think>b</think>\n\na", 1),
        ("caf\u00e9", "cafe\u0301", 1),  # composed and decomposed
        ("ABC12", "ABC12", 1),
        ("\N{LATIN SMALL LIGATURE FI}n", "fin", 1),
        ("x\N{SUPERSCRIPT TWO}", "x2", 1),
        ("中文文档", "中文文挡", 3 / 4),
        ("\N{GRINNING FACE}a", "a", 1 / 2),  # one code point
        ("\u00e9", "e \u0301", 1),
        ("nan", "NaN", 1 / 3),
        ("\u00b4", " \u0301", 1),  # the space that normalising leaves behind goes too
    ],
)
def test_distances_by_hand(reference, text, value):
    assert score(reference, text) == pytest.approx(value)


@given(st.text(alphabet="ab \n", max_size=12), st.text(alphabet="ab \n", max_size=12))
def test_it_is_the_textbooks_distance(a, b):
    short, long = sorted((glyphs(a), glyphs(b)), key=len)
    assert score(a, b) == pytest.approx(1 - edit_distance(short, long) / len(long) if long else 1)


@given(st.text(), st.text())
def test_symmetric_between_0_and_1_and_1_for_the_same_glyphs_alone(a, b):
    a, b = a.replace("<", ""), b.replace("<", "")  # no tags of thinking
    assert score(a, b) == score(b, a)
    assert 0 <= score(a, b) <= 1
    assert (score(a, b) == 1) == (glyphs(a) == glyphs(b))
    assert score(a, a) == score(a, unicodedata.normalize("NFD", a)) == 1


@given(st.text())
def test_glyphs_hold_no_white_space_and_a_second_pass_changes_nothing(text):
    assert not any(character.isspace() for character in glyphs(text))
    assert glyphs(glyphs(text)) == glyphs(text)


@pytest.mark.parametrize("reference", [None, 7, ["a"], {"text": "a"}, float("nan")])
def test_a_reference_that_is_no_text_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="expected a text"):
        score(reference, "a")


@pytest.mark.parametrize("piece", ["a", "ab", " ", "\u0301", "e\u0301\u0323", "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}", "<think>"])
def test_long_texts_are_scored_in_time(piece):
    page = "the quick brown fox " * 250
    began = time.process_time()
    score(page, piece * (SIZE // len(piece)))
    assert time.process_time() - began < 5
