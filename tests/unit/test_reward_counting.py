"""Counting: digits and words, English and Chinese, and what only looks like a count."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.counting import Counting, with_digits
from posttrain.rewards.numeric import last_number
from posttrain.types import Episode, Prompt, Turn

SIZE = 100_000


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def score(reference, text):
    prompt = Prompt(id="test/1", task="test", messages=[{"role": "user", "content": "how many?"}], reference=reference)
    return Counting().score(prompt, episode(text))


UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
UNITS += ["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def english(n, joint=" and "):
    """n < 1000 in words."""
    if n >= 100:
        return f"{UNITS[n // 100]} hundred" + (joint + english(n % 100) if n % 100 else "")
    return UNITS[n] if n < 20 else TENS[n // 10] + (f"-{UNITS[n % 10]}" if n % 10 else "")


def chinese(n):
    """n < 10000 in numerals."""
    digits = "零一二三四五六七八九"
    text = "".join(digits[n // 10**i % 10] + ("千百十"[3 - i] if i else "") if n // 10**i % 10 else "零" for i in (3, 2, 1, 0))
    while "零零" in text:
        text = text.replace("零零", "零")
    text = text.strip("零") or "零"
    return text.removeprefix("一") if text.startswith("一十") else text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("7", 7),
        ("There are 7 cats.", 7),
        ("7.0", 7),
        ("**7**", 7),
        ("1,024 people", 1024),
        ("3 cats and 4 dogs, 7 in all", 7),
        (r"\boxed{7}, of which 3 are black", 7),
        (r"\boxed{seven}", 7),
        ("seven", 7),
        ("There are Seven of them.", 7),
        ("_seven_", 7),
        ("five, no, six", 6),
        ("7 (seven)", 7),
        ("twelve apples", 12),
        ("twenty-one", 21),
        ("twenty one", 21),
        ("a hundred and five", 105),
        ("one hundred", 100),
        ("two hundred thirty-four", 234),
        ("one two three", 3),
        ("twenty\none", 1),
        ("zero", 0),
        ("三", 3),
        ("图中有三只猫", 3),
        ("共十二个。", 12),
        ("两只", 2),
        ("二十", 20),
        ("一百零五", 105),
        ("一百二十", 120),
        ("一百二", 120),
        ("三千二", 3200),
        ("二〇", 20),
        ("一、二、三", 3),
        ("7只", 7),  # full-width
        ("三只在一起", 3),
        ("二十一起事故", 21),
        ("一共有五个", 5),
        ("唯一", None),
        ("五个,这是第三张图", 5),
        ("five, as in the 3rd picture", 5),
        ("five in the twenty-first picture", 5),
        ("-7", -7),
        ("someone", None),
        ("no-one", None),
        ("sevenfold", None),
        ("none", None),
        ("", None),
        ("<think>7", None),
        ("<think>7</think>8", 8),
        ("nan", None),
        ("\N{INFINITY}", None),
    ],
)
def test_the_last_count_of_an_answer(text, count):
    for reference in range(250):
        assert score(reference, text) == (reference == count), reference
    if count is not None and count >= 0:
        assert score(str(count), text) == 1.0


def test_a_count_is_exact():
    assert score(7, "7.5") == score(7, "8") == score(7, "7/2") == score(3, "-3") == 0.0
    assert score(7, "14/2") == 1.0


@given(st.integers(0, 999))
def test_english_words_are_read_back(n):
    for written in (english(n), english(n).replace("-", " "), english(n, " ").title(), f"I count {english(n)} of them."):
        assert last_number(with_digits(written)) == n
    assert score(n, english(n)) == 1.0
    assert score(n + 1, english(n)) == 0.0


@given(st.integers(0, 9999))
def test_chinese_numerals_are_read_back(n):
    assert last_number(with_digits(f"有{chinese(n)}个")) == n
    assert score(n, chinese(n)) == 1.0
    assert score(n + 1, chinese(n)) == 0.0


def test_the_numerals_that_the_tests_write():
    assert [chinese(n) for n in (0, 7, 10, 12, 20, 105, 110, 1000, 1001, 1010, 2345)] == [
        "零", "七", "十", "十二", "二十", "一百零五", "一百一十", "一千", "一千零一", "一千零一十", "二千三百四十五",
    ]  # fmt: skip
    assert [english(n) for n in (7, 20, 21, 105, 300)] == ["seven", "twenty", "twenty-one", "one hundred and five", "three hundred"]


def test_a_text_without_words_stays_as_it_is():
    assert with_digits("7 cats, 3.5 kg\nheight") == "7 cats, 3.5 kg\nheight"
    assert with_digits("") == ""
    assert with_digits("twenty-one cats, 三只狗") == " 21  cats,  3 只狗"


@given(st.text(alphabet="一二十百千零\u30070123456789.,-/ seventwohundredand\\boxed{}") | st.text())
def test_no_text_of_the_policy_breaks_it(text):
    assert score(5, text) in (0.0, 1.0)


@pytest.mark.parametrize("reference", ["seven", "", None, True, -1, "-3", 2.5, "1/2", float("nan"), float("inf"), [7]])
def test_a_reference_that_is_no_count_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="expected a"):
        score(reference, "7")


@pytest.mark.parametrize(
    "piece",
    [
        "9",
        "9/",
        "1,",
        "1,111,",
        "一",
        "十",
        "第",
        "第1",
        "九九百",
        "one ",
        "one-",
        "twenty-",
        "one hundred and ",
        "seven",
        " ",
        "- ",
        "\\boxed{",
    ],
)
def test_long_texts_are_scored_in_time(piece):
    for text in (piece * (SIZE // len(piece)), "第" + piece * (SIZE // len(piece)) + "th"):
        began = time.process_time()
        score(5, text)
        assert time.process_time() - began < 5
