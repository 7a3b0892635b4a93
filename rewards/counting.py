"""The reward `counting`: the answer is a count, in digits or in words.

Words are English up to nine hundred and ninety-nine, and Chinese up to 九千九百九十九. What counts as a number in digits is the
affair of `numeric`. Left out on purpose: tolerance (off by one is wrong), "a dozen", "none" and the like, 万 and thousands in
words, and telling a count from the pronoun "one" or from Chinese idioms, a few common ones apart.
"""

import re
import unicodedata

from posttrain.rewards.base import Reward, answer_text
from posttrain.rewards.numeric import last_number, parse_number
from posttrain.types import Episode, Prompt

_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = (
    {"a": 1} | {word: value for value, word in enumerate(["zero", *_UNITS, *_TEENS])} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
)
_UNIT = "|".join(_UNITS)
_SMALL = f"(?:(?:{'|'.join(_TENS)})(?:[ -](?:{_UNIT}))?|{'|'.join(_TEENS)}|{_UNIT})"
# No letter, and no letter behind a hyphen, on either side: "someone", "no-one", "twenty-first" and "three-legged" are no numbers.
_ENGLISH = re.compile(
    rf"(?<![a-z])(?<![a-z]-)(?:(?:{_UNIT}|a)[ -]hundred(?:[ -](?:and )?{_SMALL})?|{_SMALL}|zero)(?!-?[a-z])",
    re.IGNORECASE,
)
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
_CHINESE_DIGITS = dict(zip("零〇一二两兩三四五六七八九", "0012223456789", strict=True))
_CHINESE_CHARACTERS = "".join([*_CHINESE_DIGITS, *_CHINESE_UNITS])
_CHINESE = re.compile(f"[{_CHINESE_CHARACTERS}]+")
_NO_COUNT = re.compile(
    rf"第 ?(?:\d+|[{_CHINESE_CHARACTERS}]+)"  # the third
    r"|(?<!\d)\d+(?:st|nd|rd|th)(?![a-z])"
    rf"|(?<![{_CHINESE_CHARACTERS}])一(?=[共起些样般直定旦切边])|(?<=[唯统同])一",  # altogether, together, some, ...
    re.IGNORECASE,
)


class Counting(Reward):
    """1.0 when the last count of the answer (of its last `\\boxed{}`, if there is one) is the reference, 0.0 otherwise."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """Exact: 7, 7.0, seven and 七 are the same, 7.5 and -7 are no 7; an answer without a number scores 0.0.

        The reference is a whole number >= 0, as a number or in digits. Ordinals (3rd, 第三) are not counts. Raises
        ValueError: the reference is anything else.
        """
        reference = parse_number(prompt.reference)
        if reference < 0 or reference.denominator != 1:
            raise ValueError(f"the reference is {prompt.reference!r}, expected a whole number, at least 0")
        text = unicodedata.normalize("NFKC", answer_text(episode))
        return float(last_number(with_digits(_NO_COUNT.sub(" ", text))) == reference)


def with_digits(text: str) -> str:
    """`text` with its number words in digits, each between spaces: "twenty-one cats, 三只狗" is " 21  cats,  3 只狗".

    A Chinese run without 十, 百 or 千 is read digit by digit (二〇 is 20); a trailing digit right behind 百 or 千 counts in the
    next smaller unit, as it is spoken (一百二 is 120). A text without number words is returned as it is.
    """
    return _CHINESE.sub(lambda match: f" {_chinese(match[0])} ", _ENGLISH.sub(lambda match: f" {_english(match[0])} ", text))


def _english(words: str) -> int:
    total = 0
    for word in re.split("[ -]", words.lower()):
        total = total * 100 if word == "hundred" else total + _VALUES.get(word, 0)  # "and" adds nothing
    return total


def _chinese(run: str) -> str:
    """Digits of one run, as text: a run of thousands of digits is no number that int() would take."""
    if not any(character in _CHINESE_UNITS for character in run):
        return "".join(_CHINESE_DIGITS[character] for character in run)
    total, digit = 0, 0
    for character in run:
        if character in _CHINESE_UNITS:
            total, digit = total + (digit or 1) * _CHINESE_UNITS[character], 0
        else:
            digit = int(_CHINESE_DIGITS[character])
    spoken_unit = max(1, _CHINESE_UNITS.get(run[-2:-1], 1) // 10)
    return str(total + digit * spoken_unit)
