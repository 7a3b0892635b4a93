"""Point in box: forms of a point, the border, and several boxes."""

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.point_in_box import PointInBox
from posttrain.types import Episode, Prompt, Turn

SIZE = 100_000


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def score(reference, text):
    prompt = Prompt(id="test/1", task="test", messages=[{"role": "user", "content": "where?"}], reference=reference)
    return PointInBox().score(prompt, episode(text))


BOX = [100, 200, 300, 400]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"point_2d": [150, 250]}', 1),
        ('```json\n[{"point_2d": [150, 250], "label": "ear"}]\n```', 1),
        ("[150, 250]", 1),
        ("At (150, 250).", 1),
        ("150, 250", 1),
        ("150 250.5\n", 1),
        ('{"point_2d": [250, 150]}', 0),
        ('{"point_2d": [150, 250]} or {"point_2d": [0, 0]}', 0),
        ('{"point_2d": [0, 0]}, no: {"point_2d": [150, 250]}', 1),
        ("<think>(0, 0)</think>(150, 250)", 1),
        ("<think>(150, 250)", 0),
        ("", 0),
        ("there", 0),
        ("150", 0),
        ("[150, 250, 160]", 0),
        ('{"point_2d": [150]}', 0),
        ('{"point_2d": {}}', 0),
        ('{"point_2d": [150, "250"]}', 0),
        ('{"point_2d": [NaN, 250]}', 0),
        ("(nan, nan)", 0),
        ("(inf, 250)", 0),
        ('{"bbox_2d": [100, 200, 300, 400]}', 0),
    ],
)
def test_the_last_point_of_an_answer_counts(text, value):
    assert score({"bbox_2d": BOX}, text) == score(BOX, text) == value


@pytest.mark.parametrize(
    ("point", "value"),
    [((100, 200), 1), ((300, 400), 1), ((99.9, 300), 0), ((300.1, 300), 0), ((200, 199.9), 0), ((200, 400.1), 0), ((200, 300), 1)],
)
def test_the_border_is_inside(point, value):
    assert score(BOX, json.dumps({"point_2d": point})) == value


def test_any_of_several_boxes_is_right():
    several = [{"bbox_2d": BOX}, [500, 500, 600, 600]]
    assert [score(several, f"({x}, {x})") for x in (250, 550, 450, 0)] == [1, 1, 0, 0]


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_every_place_of_the_frame(x, y):
    is_inside = x in range(100, 301) and y in range(200, 401)
    for text in (f"[{x}, {y}]", f"{x},{y}", json.dumps({"point_2d": [x, y]})):
        assert score(BOX, text) == is_inside
    assert score([0, 0, 1000, 1000], f"({x}, {y})") == 1


@given(st.text(alphabet='[](){},:"0123456789.-e point_2d`') | st.text())
def test_no_text_of_the_policy_breaks_it(text):
    assert score(BOX, text) in (0.0, 1.0)


@pytest.mark.parametrize("reference", [None, [], {}, "(1, 2)", [1, 2], [300, 200, 100, 400], [0, 0, math.nan, 5], [0, 0, 5000, 5000]])
def test_a_broken_reference_is_a_failure(reference):
    with pytest.raises(ValueError, match="reference"):
        score(reference, "(1, 2)")


@pytest.mark.parametrize("piece", ["(", "(1,", "(1,2)", "1,", "9", " ", '{"point_2d":[', "-"])
def test_long_texts_are_scored_in_time(piece):
    began = time.process_time()
    score(BOX, "(" + piece * (SIZE // len(piece)))
    assert time.process_time() - began < 5
