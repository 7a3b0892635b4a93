"""What a family of generated problems is: parameters, and one problem from a random generator.

Example i of a family follows from the family's name, its parameters and i alone: not from the run's seed, the number of examples or
the process. Each family knows a right answer to whatever it asks, which is the proof that it can be answered; rewards compare
with the reference and never see that answer. Left out on purpose: rewards, which check a family's work in the tests.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any

LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A problem: what the user asks, what rewards compare with, and what else they read.

    solution: an answer that every rule reward gives its full score; None where only a judge can tell.
    """

    question: str
    reference: Any
    solution: str | None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """A family; the fields of its dataclass are its parameters, whose metadata `whole` or `some_of` makes."""

    def __post_init__(self) -> None:
        """Raises ValueError: names the parameter, what was got and what was expected."""
        values = {parameter.name: getattr(self, parameter.name) for parameter in fields(self)}
        for parameter in fields(self):
            value = values[parameter.name]
            if not parameter.metadata["accepts"](value):
                raise ValueError(f"{parameter.name}={value}: expected {parameter.metadata['expected']}")
            largest = values.get(f"max_{parameter.name.removeprefix('min_')}", value)
            if parameter.name.startswith("min_") and value > largest:
                raise ValueError(f"{parameter.name}={value}: expected at most max_{parameter.name.removeprefix('min_')}={largest}")

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
