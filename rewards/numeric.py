"""The reward `numeric`: the answer is a number, and it is compared exactly.

A number is `12`, `-12`, `1,234.5`, `.5`, `1.5e3`, `3/4` or `\\frac{3}{4}`. Left out on purpose: units, percentages, mixed
numbers, roots and anything else that has to be worked out; and tolerance - 0.333 is not 1/3.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

from posttrain.rewards.base import Reward, answer_text
from posttrain.types import Episode, Prompt

# The exponent is bounded because the policy writes it: 1e999999999 as an exact integer would never be done.
_NUMBER = re.compile(
    r"(?<![./])(?P<numerator>\d+)/(?P<denominator>\d+)(?![.,/]?\d)"
    r"|(?P<grouped>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?)"
    r"|(?P<plain>(?:\d+(?:\.\d+)?|(?<![\w.])\.\d+)(?:[eE][+-]?\d{1,3}(?!\d))?)"
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_FRAC = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_THIN_SPACE = re.compile(r"(?<=[\d,])\\[,!](?=\d{3})")
_OPENERS = ("=", "≈", "(", "[", "{")
_CLOSERS = (")", "]", "}", "%", "!", "°")


class Numeric(Reward):
    """1.0 when the last number of the answer (of its last `\\boxed{}`, if there is one) equals the reference, 0.0 otherwise."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """Compares exact values, so 3, 3.0 and 6/2 are the same; an answer without a number scores 0.0.

        Raises ValueError: the reference is not a number, which is a mistake in the data.
        """
        reference = parse_number(prompt.reference)
        return float(last_number(answer_text(episode)) == reference)


def parse_number(value: Any) -> Fraction:
    """The exact value of a reference: a number, or a text that is one number and nothing else.

    A float stands for its shortest decimal, so 0.1 is 1/10. Raises ValueError for everything else, such as True, nan or "5 kg".
    """
    text = _normalised(str(value)).strip()
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    match = _NUMBER.fullmatch(digits)
    number = _value(match) if match else None
    if number is None:
        raise ValueError(f"the reference is {value!r}, expected a number")
    return sign * number


def last_number(text: str) -> Fraction | None:
    """The exact value of the last number in `text`, or in its last `\\boxed{}`; None when there is none.

    A minus is a sign only where nothing stands before it to subtract from: "5 - 9 = -4" ends in -4, "10-3" and "GPT-3" in 3.
    """
    boxes = _BOXED.findall(text)
    # A box holds nothing but the answer: there "- 4" is minus four, and elsewhere it may be an item of a list.
    text = _normalised(f"={boxes[-1]}" if boxes else text)
    matches = list(_NUMBER.finditer(text))
    number = _value(matches[-1]) if matches else None
    if number is None:
        return None
    return -number if _is_negative(text, matches[-1].start()) else number


def _normalised(text: str) -> str:
    text = text.replace("\N{MINUS SIGN}", "-").replace("{,}", ",")
    return _FRAC.sub(r"\1/\2", _THIN_SPACE.sub("", text))


def _value(match: re.Match[str]) -> Fraction | None:
    # Decimal, because int() refuses more than 4300 digits and a policy that repeats itself writes more.
    if match["numerator"]:
        denominator = Fraction(Decimal(match["denominator"]))
        return Fraction(Decimal(match["numerator"])) / denominator if denominator else None
    return Fraction(Decimal((match["grouped"] or match["plain"]).replace(",", "")))


def _is_negative(text: str, start: int) -> bool:
    """Whether the number that starts at `start` has a minus that is its sign, and not an operator or a hyphen."""
    before = text[text.rfind("\n", 0, start) + 1 : start].removesuffix("$").removesuffix("\\")
    unspaced = before.rstrip(" \t")
    if not unspaced.endswith("-"):
        return False
    left = unspaced[:-1]
    operand = left.rstrip(" \t")
    if unspaced != before:  # "- 4": a sign after "=" and its like, elsewhere a dash or an operator
        return operand.endswith(_OPENERS)
    return not (left[-1:].isalpha() or operand[-1:].isdigit() or operand.endswith(_CLOSERS))
