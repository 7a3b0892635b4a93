"""What the kinds of code problems have in common: a problem as signature, task and body, and random arguments to call it with."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

WORDS = (
    *("apple", "river", "stone", "cloud", "garden", "window", "silver", "winter", "market", "copper", "lantern", "meadow"),
    *("orange", "basket", "pocket", "thunder", "mirror", "violin", "harbor", "castle", "engine", "feather", "ladder"),
)
VOWELS = "aeiou"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One function to write.

    signature: with annotations, such as "double(number: int) -> int"; task: what it returns, as whole sentences; body: its lines,
    not indented, with four blanks a level; draw: the arguments of one call.
    """

    signature: str
    task: str
    body: str
    draw: Callable[[Random], list[Any]]

    @property
    def function(self) -> str:
        """Its name."""
        return self.signature.partition("(")[0]

    def source(self, docstring: str = "") -> str:
        """The whole function."""
        lines = ([f'"""{docstring}"""'] if docstring else []) + self.body.strip("\n").split("\n")
        return "\n".join([f"def {self.signature}:", *(f"    {line}" if line else "" for line in lines)])


def integers(rng: Random, low: int = -20, high: int = 40) -> list[int]:
    """Up to 9 whole numbers; one list in ten is empty."""
    return [rng.randint(low, high) for _ in range(rng.choice((0, *range(1, 10))))]


def some_words(rng: Random) -> list[str]:
    """Up to 7 words, some of them twice."""
    return [rng.choice(WORDS) for _ in range(rng.randint(0, 7))]


def sentence(rng: Random) -> str:
    """A line of 1 to 7 words, some with a capital."""
    return " ".join(rng.choice((str.lower, str.capitalize, str.upper))(rng.choice(WORDS)) for _ in range(rng.randint(1, 7)))


def letters(rng: Random, alphabet: str = "aabbcde") -> str:
    """Up to 12 letters; runs are likely."""
    return "".join(rng.choice(alphabet) * rng.randint(1, 3) for _ in range(rng.randint(0, 6)))[:12]
