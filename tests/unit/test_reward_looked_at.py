"""The rewards of visual episodes: `tool_calling` and `looked_at`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.frames import RelativeBox
from posttrain.rewards.looked_at import LookedAt, covered, looks
from posttrain.rewards.tool_calling import ToolCalling
from posttrain.types import EncodedImage, Episode, Prompt, ToolCall, Turn

IMAGE = EncodedImage(data=b"", width=1024, height=1024)
SCENE = [{"bbox_2d": [100, 100, 130, 130], "content": "7"}, {"bbox_2d": [800, 500, 830, 530], "content": "3"}]
METADATA = {"scene": SCENE, "num_calls": 2, "legible_within": 250, "solution": "left"}
LEFT, RIGHT = [50, 50, 150, 150], [750, 450, 850, 550]


def zoom(box, index=0, status="answered"):
    return ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": box, "label": "digit", "img_idx": index}, status=status)


def turn(*calls, text=""):
    shown = [IMAGE for call in calls if call.status == "answered"]
    fields = {"tool_calls": list(calls), "observation_images": shown}
    return Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0, **fields)


def prompt(**metadata):
    return Prompt(id="t/1", task="t", messages=[], reference="left", metadata={**METADATA, **metadata}, images=[IMAGE])


def episode(*turns, answer="left"):
    return Episode(prompt_id="t/1", turns=[*turns, turn(text=answer)], status="complete")


@pytest.mark.parametrize(
    ("num_calls", "target", "value"),
    [(0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 1), (2, 1, 0), (1, 2, 0.5), (2, 2, 1), (3, 2, 0.5), (3, 4, 0.75)],
)
def test_calls_against_the_estimate(num_calls, target, value):
    calls = [zoom([10 * k, 0, 500, 500]) for k in range(num_calls)]
    scored = ToolCalling().score(prompt(num_calls=target), episode(*map(turn, calls)))
    assert scored.value == pytest.approx(value)
    assert scored.details == {"useful_calls": num_calls, "estimated_calls": target, "calls": num_calls}


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_estimate_alone_is_best(num_calls, target):
    value = ToolCalling().score(prompt(num_calls=target), episode(turn(*[zoom([k, 0, 99, 99]) for k in range(num_calls)]))).value
    assert 0 <= value <= 1 and (value == 1) == (num_calls == target)


def test_calls_that_repeat_or_were_not_answered_do_not_count():
    calls = [
        zoom(LEFT),
        zoom([50.0, 50, 150, 150]),
        zoom(LEFT, status="invalid"),
        zoom(RIGHT, status="refused"),
        zoom(RIGHT, status="failed"),
    ]
    scored = ToolCalling().score(prompt(), episode(turn(*calls)))
    assert scored.details == {"useful_calls": 1, "estimated_calls": 2, "calls": 5} and scored.value == 0.5


@pytest.mark.parametrize("target", [None, -1, 1.0, True, "2"])
def test_an_estimate_that_is_none_is_a_mistake_in_the_data(target):
    with pytest.raises(ValueError, match=r"metadata\.num_calls is "):
        ToolCalling().score(prompt(num_calls=target), episode())


@pytest.mark.parametrize(
    ("turns", "answer", "value"),
    [
        ([turn(zoom(LEFT)), turn(zoom(RIGHT))], "left", 1.0),
        ([turn(zoom(LEFT), zoom(RIGHT))], "It is the Left.", 1.0),
        ([turn(zoom(LEFT)), turn(zoom(RIGHT))], "right", 0.5),  # seen and misread
        ([turn(zoom(LEFT)), turn(zoom(RIGHT))], "", 0.5),
        ([turn(zoom(LEFT))], "left", 0.25),  # the other one was guessed
        ([], "left", 0.0),
        ([turn(zoom([0, 0, 1000, 1000]))], "left", 0.0),  # all of it is nothing larger
        ([turn(zoom([0, 0, 125, 125])), turn(zoom(RIGHT))], "left", 0.25),  # 25 of 30 units each way: 69 % of the area
        ([turn(zoom([0, 0, 127, 130])), turn(zoom(RIGHT))], "left", 1.0),  # 90 %
        ([turn(zoom(LEFT)), turn(zoom(RIGHT, status="refused"))], "left", 0.25),
        ([turn(zoom([0, 0, 500, 500])), turn(zoom([0, 0, 500, 500], 1)), turn(zoom(RIGHT))], "left", 1.0),  # a crop of a crop: 0..250
        ([turn(zoom([500, 0, 1000, 500])), turn(zoom([0, 0, 500, 500], 1)), turn(zoom(RIGHT))], "left", 0.25),
        ([turn(zoom([0, 0, 500, 500]), zoom([100, 100, 300, 300], 1)), turn(zoom(RIGHT))], "left", 1.0),  # in one turn
    ],
)
def test_looking_and_following(turns, answer, value):
    assert LookedAt().score(prompt(), episode(*turns, answer=answer)).value == pytest.approx(value)


def test_an_image_of_another_tool_is_no_place_of_the_first():
    turned = ToolCall(name="rotate", arguments={"angle": 90, "img_idx": 0}, status="answered")
    inside = turn(zoom(LEFT, 1))
    assert LookedAt().score(prompt(), episode(turn(turned), inside)).value == 0
    silent = Turn(token_ids=[1], logprobs=[0.0], text="", stop_reason="stop", policy_version=0, tool_calls=[turned, zoom(LEFT)])
    silent.observation_images = [IMAGE]
    assert list(looks(prompt(), episode(silent))) == []


@pytest.mark.parametrize("lacking", ["scene", "legible_within", "solution"])
def test_metadata_that_lack_something_are_a_mistake_in_the_data(lacking):
    with pytest.raises(ValueError, match="expected a scene with at least one place, a number and a text"):
        LookedAt().score(prompt(**{lacking: None}), episode())


@given(st.lists(st.floats(0, 1000), min_size=8, max_size=8))
def test_covered_is_a_share(numbers):
    x, y = sorted(numbers[:2]), sorted(numbers[2:4])
    place = RelativeBox(x[0], y[0], x[1] + 1, y[1] + 1)
    assert 0 <= covered(place, RelativeBox(*numbers[4:])) <= 1 + 1e-9
    assert covered(place, place) == pytest.approx(1)
