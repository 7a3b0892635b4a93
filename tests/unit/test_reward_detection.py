"""Detection: the formula by hand, greedy matching, labels, and the cases in which its fractions do not exist."""

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.base import Score
from posttrain.rewards.boxes import Shape
from posttrain.rewards.detection import Detection, matched_overlaps
from posttrain.types import Episode, Prompt, Turn

SIZE = 100_000


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def score(reference, text):
    prompt = Prompt(id="test/1", task="test", messages=[{"role": "user", "content": "what is there?"}], reference=reference)
    return Detection().score(prompt, episode(text))


def cell(i, width=100):
    """The i-th of ten boxes that do not touch each other, in the upper left of it `width` wide."""
    return [100 * (i % 10), 0, 100 * (i % 10) + width, 50]


def labelled(box, label):
    return {"bbox_2d": box, "label": label}


def test_the_formula_by_hand():
    # Found: 0 whole and 1 by 0.8; missed: 2 and 3; false: 7. .7 * 1.8 / 4 + .3 * (1 - (2/4 + 1/3) / 2) = .315 + .175
    found = score([cell(i) for i in range(4)], json.dumps([{"bbox_2d": box} for box in (cell(0), cell(1, 80), cell(7))]))
    assert found.value == pytest.approx(0.49)
    assert found.details == {"sum_iou": pytest.approx(1.8), "missed": 2, "false": 1}


@pytest.mark.parametrize(
    ("answered", "value"),
    [
        ([cell(0), cell(1)], 1.0),
        ([cell(1), cell(0)], 1.0),
        ([cell(0)], 0.7 / 2 + 0.3 * 0.75),
        ([cell(0), cell(0)], 0.7 / 2 + 0.3 * 0.5),  # stated twice, counted once
        ([cell(0), cell(1), cell(2), cell(3)], 0.7 + 0.3 * 0.75),
        ([cell(5), cell(6)], 0.0),
        ([cell(0, 50), cell(1)], 0.7 * 1.5 / 2 + 0.3),  # an overlap of exactly a half is a match
        ([cell(0, 49), cell(1)], 0.7 / 2 + 0.3 * 0.5),
        ([cell(0), [5, 5, 1, 1]], 0.7 / 2 + 0.3 * 0.5),  # an invalid box is a false one
    ],
)
def test_two_objects(answered, value):
    for text in (json.dumps(answered), json.dumps([{"bbox_2d": box} for box in answered]), f"```json\n{json.dumps(answered)}\n```"):
        assert score([cell(0), cell(1)], text).value == pytest.approx(value)


def test_labels_have_to_agree_where_the_reference_has_them():
    reference = [labelled(cell(0), "cat"), labelled(cell(1), "Black  dog")]
    right = [labelled(cell(0), " Cat"), labelled(cell(1), "black dog")]
    swapped = [labelled(cell(0), "black dog"), labelled(cell(1), "cat")]
    assert score(reference, json.dumps(right)).value == 1.0
    assert score(reference, json.dumps(swapped)).value == 0.0
    assert score(reference, json.dumps([cell(0), cell(1)])).value == 0.0
    assert score(reference, json.dumps([right[0], {"bbox_2d": cell(1), "label": 3}])).value == pytest.approx(0.7 / 2 + 0.3 * 0.5)
    assert score([cell(0), cell(1)], json.dumps(swapped)).value == 1.0
    assert score([labelled(cell(0), "猫")], json.dumps([labelled(cell(0), "猫")], ensure_ascii=False)).value == 1.0


def test_the_better_pair_is_matched_first_and_each_box_once():
    reference = [Shape((0.0, 0.0, 100.0, 100.0))]
    near, nearer = Shape((0.0, 0.0, 60.0, 100.0)), Shape((0.0, 0.0, 90.0, 100.0))
    assert matched_overlaps([near, nearer], reference) == [pytest.approx(0.9)]
    assert matched_overlaps([nearer], reference * 2) == [pytest.approx(0.9)]
    # Greedy and not optimal: the best pair takes what both references could have used.
    wide, narrow = Shape((0.0, 0.0, 100.0, 10.0)), Shape((0.0, 0.0, 70.0, 10.0))
    assert matched_overlaps([Shape((0.0, 0.0, 72.0, 10.0)), Shape((0.0, 0.0, 40.0, 10.0))], [wide, narrow]) == [pytest.approx(70 / 72)]


@pytest.mark.parametrize(
    ("reference", "text", "value"),
    [
        ([], "There is nothing of the kind.", 1.0),
        ([], "[]", 1.0),
        ([], "", 0.0),
        ([], "<think>nothing there", 0.0),
        ([], "[[0, 0, 10, 10]]", 0.0),
        ([cell(0)], "There is nothing of the kind.", 0.0),
        ([cell(0)], "[]", 0.0),
        ([cell(0)], "", 0.0),
        ([cell(0)], f"<think>{cell(0)}", 0.0),
        ([cell(0)], '{"bbox_2d": [0, 0, NaN, 50]}', 0.0),
        ([cell(0)], '{"bbox_2d": [0, 0, Infinity, 50]}', 0.0),
        (cell(0), f"<think>[1, 2, 3, 4]</think>{cell(0)}", 1.0),
    ],
)
def test_degenerate_cases(reference, text, value):
    assert score(reference, text).value == value


@pytest.mark.parametrize("reference", [None, "cat", {}, [None], [[0, 0, 1]], [[5, 5, 1, 1]], [{"label": "cat"}], [[0, 0, 2000, 10]]])
def test_a_broken_reference_is_a_failure(reference):
    with pytest.raises(ValueError, match="reference"):
        score(reference, "[0, 0, 1, 1]")


some_cells = st.lists(st.integers(0, 9).map(cell), max_size=8)


@given(some_cells, some_cells)
def test_1_means_the_same_boxes(reference, predicted):
    found = score(reference, f"boxes: {json.dumps(predicted)}")
    assert isinstance(found, Score)
    assert 0 <= found.value <= 1
    assert (found.value == 1) == (sorted(reference) == sorted(predicted))


@given(st.lists(st.integers(0, 9).map(cell), min_size=1, max_size=8), st.integers(0, 7), st.integers(50, 99))
def test_a_worse_overlap_and_a_further_box_cost_something(boxes, which, width):
    i = which % len(boxes)
    worse = [*boxes[:i], [boxes[i][0], 0, boxes[i][0] + width, 50], *boxes[i + 1 :]]
    assert score(boxes, json.dumps(worse)).value < 1
    assert score(boxes, json.dumps([*boxes, [0, 600, 10, 700]])).value < 1
    assert score(boxes, json.dumps(boxes[:i] + boxes[i + 1 :])).value < 1


@given(st.text(alphabet='[]{},:"0123456789. bbox_2dlae`') | st.text())
def test_no_text_of_the_policy_breaks_it(text):
    assert 0 <= score([cell(0)], text).value <= 1


@pytest.mark.parametrize("piece", ["[0,0,99,50],", '{"bbox_2d":[0,0,99,50],"label":"a"},', "[", "{", "[0,0,", '{"label":"'])
def test_long_texts_are_scored_in_time(piece):
    began = time.process_time()
    score([cell(i) for i in range(10)], "[" + piece * (SIZE // len(piece)))
    assert time.process_time() - began < 5
