"""Clock: forms of a time, and the way around the face."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.clock import Clock, times
from posttrain.types import Episode, Prompt, Turn

SIZE = 100_000


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def score(reference, text):
    prompt = Prompt(id="test/1", task="test", messages=[{"role": "user", "content": "what time is it?"}], reference=reference)
    return Clock().score(prompt, episode(text))


HOURS = ["twelve", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]


@pytest.mark.parametrize(
    ("text", "hour", "minute"),
    [
        ("3:45", 3, 45),
        ("03:45 pm", 3, 45),
        ("15:45", 3, 45),
        ("It is 3:45.", 3, 45),
        ("**3:45 p.m.**", 3, 45),
        ("3:45:20", 3, 45),
        ("3 : 45", 3, 45),
        ("Answer:3:45", 3, 45),
        ("答案:3:45", 3, 45),
        ("$3:45$", 3, 45),
        ("0:05", 0, 5),
        ("12:00", 0, 0),
        ("00:00", 0, 0),
        ("quarter past nine", 9, 15),
        ("a quarter to ten", 9, 45),
        ("Half past three", 3, 30),
        ("half-past 12", 0, 30),
        ("twenty to four", 3, 40),
        ("twenty-five past six", 6, 25),
        ("twenty five minutes to six", 5, 35),
        ("five\nto one", 0, 55),
        ("ten to twelve", 11, 50),
        ("10 past 4", 4, 10),
        ("1 minute before 5", 4, 59),
        ("quarter to 10 o'clock", 9, 45),
        ("3 o'clock", 3, 0),
        ("three o\N{RIGHT SINGLE QUOTATION MARK}clock", 3, 0),
        ("3 PM", 3, 0),
        ("11am", 11, 0),
        ("3点45分", 3, 45),
        ("3点45分", 3, 45),
        ("下午三点四十五分", 3, 45),
        ("三点半", 3, 30),
        ("三点一刻", 3, 15),
        ("3点三刻", 3, 45),
        ("三点十分", 3, 10),
        ("三点零五分", 3, 5),
        ("十二点", 0, 0),
        ("两点钟", 2, 0),
        ("3時5分", 3, 5),
        ("not 3:40 but 3:45", 3, 45),
        ("between 3:40 and 3:45", 3, 45),
        ("<think>3:40</think>3:45", 3, 45),
    ],
)
def test_forms_of_a_time(text, hour, minute):
    assert times(text)[-1] == hour * 60 + minute
    assert score(f"{hour}:{minute:02}", text).value == 1.0
    assert score(f"{(hour + 6) % 12}:{minute:02}", text).value == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no idea",
        "345",
        "3:75",
        "3:60",
        "60 past 3",
        "25:10",
        "24:00",
        "3:4",
        "123:45",
        "3:456",
        "3/4",
        "<think>3:45",
        "quarter past",
        "99 to 3",
        "3小时",
        "nan",
        "3点99分",
    ],
)
def test_what_is_no_time_scores_0(text):
    assert score("3:45", text).value == 0.0
    assert score("3:45", text).details == {}


@pytest.mark.parametrize(
    ("reference", "text", "minutes_off", "value"),
    [
        ("3:45", "3:44", 1, 1 - 1 / 360),
        ("3:45", "4:15", 30, 1 - 30 / 360),
        ("12:01", "11:59", 2, 1 - 2 / 360),  # the short way around
        ("0:00", "6:00", 360, 0),
        ("1:30", "10:30", 180, 1 / 2),
        ("6:15", "3:30", 165, 1 - 165 / 360),  # the two hands taken for each other
        ("3:45 am", "15:45", 0, 1),
    ],
)
def test_distances_by_hand(reference, text, minutes_off, value):
    scored = score(reference, text)
    assert scored.value == pytest.approx(value)
    assert scored.details == {"minutes_off": minutes_off}


minutes = st.integers(0, 719)


@given(minutes, minutes)
def test_symmetric_between_0_and_1_and_1_for_the_same_time_alone(a, b):
    first, second = (f"{m // 60}:{m % 60:02}" for m in (a, b))
    assert score(first, second) == score(second, first)
    assert 0 <= score(first, second).value <= 1
    assert (score(first, second).value == 1) == (a == b)


@given(minutes, minutes, minutes)
def test_only_the_angle_between_the_times_counts(a, b, turn):
    def around(m):
        return f"{m % 720 // 60}:{m % 60:02}"

    assert score(around(a), around(b)).value == score(around(a + turn), around(b + turn)).value


@given(st.integers(0, 11), st.integers(1, 59))
def test_words_and_digits_tell_the_same_time(hour, minute):
    assert times(f"{minute} past {HOURS[hour]}") == times(f"{hour}:{minute:02}") == times(f"{hour}点{minute}分") == [hour * 60 + minute]
    assert times(f"{minute} to {HOURS[hour]}") == [(hour * 60 - minute) % 720]


@given(st.text(alphabet="0123456789: 点分半刻时三十pastohlfquerm'c") | st.text())
def test_no_text_of_the_policy_breaks_it(text):
    assert 0 <= score("3:45", text).value <= 1


@pytest.mark.parametrize("reference", ["", "noon", "25:00", "3:45 or 4:45", None, 345, ["3:45"], float("nan")])
def test_a_reference_that_is_not_one_time_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="expected one time"):
        score(reference, "3:45")


@pytest.mark.parametrize(
    "piece", ["3", "3:", "3:4", "3:45", " ", "3 ", ":", "half ", "half past ", "ten to ", "三点", "一", "3点", "1 minutes "]
)
def test_long_texts_are_scored_in_time(piece):
    began = time.process_time()
    score("3:45", piece * (SIZE // len(piece)))
    assert time.process_time() - began < 5
