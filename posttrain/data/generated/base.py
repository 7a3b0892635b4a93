"""What a family of generated problems is: parameters, and one problem from a random generator.

Example i of a family follows from the family's name, its parameters and i alone: not from the run's seed, the number of examples or
the process. Where a rule can tell, a family also gives an answer that is right: the proof that its problem can be solved. Rewards
compare with the reference and do not read that answer. Left out on purpose: rewards, which check a family's work in the tests.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any

from posttrain.types import EncodedImage

LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A problem: what the user asks, what rewards compare with, and what else they read.

    solution: an answer that every rule reward gives its full score; None where only a judge can tell. images: stand before the
    question. split_by: examples that share it are in the same half, training or held-out; None: the content alone decides.
    """

    question: str
    reference: Any
    solution: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    images: list[EncodedImage] = field(default_factory=list)
    split_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """A family; the fields of its dataclass are its parameters, whose metadata `whole` or `some_of` makes."""

    def __post_init__(self) -> None:
        """Raises ValueError: names the parameter, what was got and what was expected."""
        values = vars(self)
        for parameter in fields(self):
            if not parameter.metadata["accepts"](values[parameter.name]):
                raise ValueError(f"{parameter.name}={values[parameter.name]}: expected {parameter.metadata['expected']}")
        for name, value in values.items():
            most = name.replace("min_", "max_", 1)
            if name.startswith("min_") and value > values[most]:
                raise ValueError(f"{name}={value}: expected at most {most}={values[most]}")

    @abstractmethod
    def example(self, rng: Random) -> Example:
        """One problem; everything random in it comes from `rng`."""


def whole(low: int, high: int) -> dict[str, Any]:
    """The metadata of a parameter's field that is a whole number from `low` to `high`."""

    def accepts(value: Any) -> bool:
        return type(value) is int and low <= value <= high

    return {"accepts": accepts, "expected": f"a whole number from {low} to {high}"}


def some_of(choices: Sequence[str]) -> dict[str, Any]:
    """The metadata of a parameter's field that is a list of some of `choices`."""

    def accepts(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(one in choices for one in value)

    return {"accepts": accepts, "expected": f"a list of some of {', '.join(choices)}"}


def examples(name: str, family: Family, num_examples: int) -> Iterator[Example]:
    """The first `num_examples` examples; more of them begin with the same ones."""
    for number in range(num_examples):
        yield family.example(Random(f"{name} {family!r} {number}"))


def distinct(draw: Callable[[], Any], count: int) -> list[Any]:
    """`count` different draws in their order, or as many as 50 draws for each of them gave."""
    found: list[Any] = []
    for _ in range(50 * count):
        one = draw()
        if one not in found:
            found.append(one)
        if len(found) == count:
            break
    return found
