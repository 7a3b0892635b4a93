"""The environment `twenty_questions`: a whole number is to be found by questions that are answered with yes or no.

It understands one question a turn: "is it greater than 7" and its like, even or odd, divisible by, prime, or the number itself. What it
does not understand is told, and costs a question like any other.
"""

import re
from math import isqrt

from posttrain.rollout.env import Environment, Observation
from posttrain.types import Prompt

_NUMBER = r"(?<!\d)(-?\d{1,9})(?!\d)"
_COMPARED = {
    "above": re.compile(rf"(?:greater|larger|more|higher|bigger|above|over|at least|>)\D{{0,20}}?{_NUMBER}", re.IGNORECASE),
    "below": re.compile(rf"(?:less|lower|smaller|fewer|below|under|at most|<)\D{{0,20}}?{_NUMBER}", re.IGNORECASE),
    "divisible": re.compile(rf"(?:divisible by|multiple of|divided by)\D{{0,5}}?{_NUMBER}", re.IGNORECASE),
}
_INCLUSIVE = re.compile(r"or equal|>=|<=|at least|at most", re.IGNORECASE)
_KIND = re.compile(r"\b(even|odd|prime)\b", re.IGNORECASE)
_HELP = "I understand one question at a time, such as: Is it greater than 7? Is it even? Is it divisible by 3? Is it 7?"


class TwentyQuestions(Environment):
    """Score 1 for the number itself among the questions that are allowed, 0 until then.

    The prompt's reference: {"number", "num_questions"}.
    """

    def reset(self, prompt: Prompt) -> None:
        """Thinks of the reference's number."""
        self.number = int(prompt.reference["number"])
        self.num_left = int(prompt.reference["num_questions"])

    def step(self, text: str) -> Observation:
        """Yes, no, or what is understood."""
        self.num_left -= 1
        if guess(text) == self.number:
            return Observation(text="Yes, you found it.", score=1.0, is_over=True)
        answer = truth(text, self.number)
        reply = {True: "Yes.", False: "No.", None: _HELP}[answer]
        if not self.num_left:
            return Observation(text=f"{reply} That was the last question.", score=0.0, is_over=True)
        return Observation(text=f"{reply} Questions left: {self.num_left}.", score=0.0)


def guess(text: str) -> int | None:
    """The number that is asked for by itself; None where something else is asked."""
    if any(pattern.search(text) for pattern in (*_COMPARED.values(), _INCLUSIVE, _KIND)):
        return None
    numbers = re.findall(_NUMBER, text)
    return int(numbers[0]) if len(numbers) == 1 else None


def truth(text: str, number: int) -> bool | None:
    """Whether what is asked is so of the number; None where it is not understood, or several things are asked."""
    found = {kind: int(match[1]) for kind, pattern in _COMPARED.items() if (match := pattern.search(text))}
    kinds = {kind.lower() for kind in _KIND.findall(text)}
    if len(found) + len(kinds) > 1:
        return None
    if kinds:
        return {"even": number % 2 == 0, "odd": number % 2 == 1, "prime": is_prime(number)}[kinds.pop()]
    if not found:
        guessed = guess(text)
        return None if guessed is None else guessed == number
    (kind, limit), is_inclusive = found.popitem(), bool(_INCLUSIVE.search(text))
    if kind == "divisible":
        return number % limit == 0 if limit else False
    return (number == limit and is_inclusive) or (number > limit if kind == "above" else number < limit)


def is_prime(number: int) -> bool:
    """Whether a number of at most nine digits is prime."""
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))
