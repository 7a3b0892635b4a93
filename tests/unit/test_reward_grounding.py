"""Grounding: what a box is in an answer, and the overlap of two boxes. The reading of boxes is tested here for all that use it."""

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.boxes import Shape, iou, reference_boxes, shapes
from posttrain.rewards.grounding import Grounding
from posttrain.types import Episode, Prompt, Turn

SIZE = 100_000
BOX = [0, 0, 100, 100]


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def score(reference, text):
    prompt = Prompt(id="test/1", task="test", messages=[{"role": "user", "content": "where?"}], reference=reference)
    return Grounding().score(prompt, episode(text))


@st.composite
def boxes(draw):
    x1, y1 = draw(st.integers(0, 999)), draw(st.integers(0, 999))
    return (float(x1), float(y1), float(draw(st.integers(x1 + 1, 1000))), float(draw(st.integers(y1 + 1, 1000))))


# The overlap


@pytest.mark.parametrize(
    ("a", "b", "overlap"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),  # 1 of 4 + 4 - 1
        ((0, 0, 10, 10), (0, 0, 5, 10), 1 / 2),
        ((0, 0, 4, 4), (1, 1, 2, 3), 1 / 8),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0),  # touching
        ((0, 0, 1, 1), (5, 5, 6, 6), 0),
        ((0, 0, 6, 2), (2, 0, 8, 2), 1 / 2),
        ((2, 0, 2, 5), (0, 0, 5, 5), 0),
        ((5, 5, 0, 0), (5, 5, 0, 0), 0),
        ((0, 5, 5, 0), (0, 0, 5, 5), 0),
        ((), (0, 0, 5, 5), 0),
        ((-1e308, -1e308, 1e308, 1e308), (0, 0, 5, 5), 0),
        ((0, 0, 1e-200, 1e-200), (0, 0, 5, 5), 0),
    ],
)
def test_overlap_by_hand(a, b, overlap):
    assert iou(a, b) == pytest.approx(overlap, abs=1e-15)
    assert iou(b, a) == iou(a, b)


@given(boxes(), boxes())
def test_the_overlap_is_symmetric_between_0_and_1_and_1_for_equal_boxes_alone(a, b):
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1
    assert (iou(a, b) == 1) == (a == b)
    assert iou(a, a) == 1


@given(boxes(), boxes(), st.sampled_from([0.25, 2.0, 8.0]))
def test_the_overlap_does_not_depend_on_the_scale(a, b, scale):
    assert iou(tuple(scale * x for x in a), tuple(scale * x for x in b)) == iou(a, b)


# The answer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"bbox_2d": [0, 0, 100, 100]}', 1),
        ('```json\n[{"bbox_2d": [0, 0, 100, 100], "label": "cat"}]\n```', 1),
        ('```json\n[\n\t{"bbox_2d": [0, 0, 50, 100]}', 0.5),  # the fence was never closed
        ('It is {"label": "猫", "bbox_2d": [0, 0, 50, 100]}.', 0.5),
        ("[0, 0, 100, 100]", 1),
        ("The cat is at (0, 0, 50.0, 1e2).", 0.5),
        (" 0, 0, 100, 100\n", 1),
        ("0 0 100 100", 1),
        ('{"bbox_2d": [500, 0, 600, 100]}, no: {"bbox_2d": [0, 0, 100, 100]}', 1),
        ('{"bbox_2d": [0, 0, 100, 100]} or rather {"bbox_2d": [500, 0, 600, 100]}', 0),
        ('{"bbox_2d": [0, 0, 100, 100]}\n```json\n{"bbox_2d": [0, 0, 50, 100]}\n```\n{"bbox_2d": [0, 0, 100, 100]}', 0.5),
        ("{'bbox_2d': [0, 0, 100, 100]}", 1),  # not JSON, but the list in it is plain to see
        ('{"bbox_2d": [0, 0, 100, 100], "label": "cat"', 1),
        ("<think>[0, 0, 100, 100]</think>[0, 0, 50, 100]", 0.5),
        ("<think>it is [0, 0, 100, 100]", 0),
        ("", 0),
        ("no such object", 0),
        ("[]", 0),
        ("[0, 0, 100]", 0),
        ("[0, 0, 100, 100, 100]", 0),
        ('{"bbox_2d": [0, 0, 100]}', 0),
        ('{"bbox_2d": null}', 0),
        ('{"bbox_2d": "0, 0, 100, 100"}', 0),
        ('{"bbox_2d": [0, 0, 100, true]}', 0),
        ('{"bbox_2d": [100, 0, 0, 100]}', 0),
        ('{"bbox_2d": [0, 0, 0, 0]}', 0),
        ('{"bbox_2d": [0, 0, NaN, 100]}', 0),
        ('{"bbox_2d": [0, 0, Infinity, 100]}', 0),
        ('{"bbox_2d": [0, 0, 1e999, 100]}', 0),
        ("[0, 0, nan, 100]", 0),
        ("[0, 0, -inf, inf]", 0),
        ('{"bbox_2d": [0, 0, 1' + "0" * 5000 + ", 100]}", 0),
    ],
)
def test_the_last_box_of_an_answer_is_scored(text, value):
    assert score({"bbox_2d": BOX}, text) == pytest.approx(value)
    assert score(BOX, text) == pytest.approx(value)


def test_an_invalid_last_box_is_not_replaced_by_an_earlier_one():
    assert score(BOX, '{"bbox_2d": [0, 0, 100, 100]} {"bbox_2d": [100, 0, 0, 100]}') == 0
    assert score(BOX, '{"bbox_2d": [0, 0, 100, 100]} {"bbox_2d": "none"}') == 0


@given(boxes(), boxes(), st.booleans())
def test_a_box_is_read_back_as_it_was_written(reference, predicted, is_fenced):
    written = json.dumps([{"bbox_2d": predicted, "label": "a cat"}], indent=2)
    text = f"Here:\n```json\n{written}\n```" if is_fenced else written
    assert shapes(text, "bbox_2d", 4) == [Shape(predicted, "a cat")]
    assert score(list(reference), text) == iou(predicted, reference)


@given(st.text(alphabet='[]{}(),:"0123456789.-eE box_2d`jsnNaI\\\n') | st.text())
def test_no_text_of_the_policy_breaks_it(text):
    value = score(BOX, text)
    assert 0 <= value <= 1 and math.isfinite(value)


@pytest.mark.parametrize("start", ["", "```json"])
@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "{",
        "(",
        "]",
        '{"',
        '{"bbox_2d": [',
        "[1,",
        "[1,2,3,4]",
        "[1,1,1,",
        "9",
        "1,",
        " ",
        '{"a":[[',
        '{"bbox_2d":1}',
        "`",
        "```json",
        "\\",
    ],
)
def test_long_texts_are_read_in_time(start, piece):
    text = start + piece * (SIZE // len(piece))
    for whole in (text, "{" + text + "}", '{"bbox_2d": [0,0,1,' + text + "]}", "[0,0,1," + text + "]"):
        began = time.process_time()
        score(BOX, whole)
        assert time.process_time() - began < 5


# The reference


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "[0, 0, 1, 1]",
        5,
        {},
        {"bbox_2d": None},
        [0, 0, 1],
        [0, 0, 1, "1"],
        [0, 0, 1, True],
        [0, 0, 1, math.nan],
        [0, 0, math.inf, 1],
        [1, 0, 0, 1],
        [0, 0, 0, 1],
        [-1, 0, 5, 5],
        [0, 0, 1920, 1080],  # pixels
        {"bbox_2d": BOX, "label": 7},
        [],
        [BOX, BOX],
    ],
)
def test_a_reference_that_is_no_box_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="reference"):
        score(reference, "[0, 0, 1, 1]")


def test_forms_of_a_reference():
    box = Shape((0.0, 0.0, 100.0, 100.0))
    assert reference_boxes(BOX) == reference_boxes([BOX]) == reference_boxes(tuple(BOX)) == reference_boxes({"bbox_2d": BOX}) == [box]
    assert reference_boxes([BOX] * 4) == [box] * 4  # four boxes are not the four numbers of one
    assert reference_boxes([{"bbox_2d": BOX, "label": "cat"}]) == [Shape(box.numbers, "cat")]
    assert reference_boxes([]) == []
