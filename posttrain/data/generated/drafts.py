"""A text under way, and a rule about it: what generated writing tasks are made with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from posttrain.data.generated.base import LANGUAGES
from posttrain.data.generated.writing import BANKS, Bank


@dataclass(slots=True, kw_only=True)
class Draft:
    """A text under way. language: the text's; wording: the question's, in which `wishes` are.

    join puts finished sentences together; around is what stands before and behind the result; recase changes its letters.
    """

    language: str
    wording: str
    sentences: list[str]
    stop: str = ""
    join: Callable[[list[str]], str] | None = None
    around: tuple[str, str] = ("", "")
    recase: Callable[[str], str] | None = None
    constraints: list[dict[str, Any]] = field(default_factory=list)
    wishes: list[str] = field(default_factory=list)

    @property
    def bank(self) -> Bank:
        """The pieces of the text's language."""
        return BANKS[self.language]

    def keep(self, constraint: dict[str, Any], english: str, chinese: str) -> None:
        """Asks for `constraint` in the question's language."""
        self.constraints.append(constraint)
        self.wishes.append(english if self.wording == "en" else chinese)

    def text(self) -> str:
        """The answer as it stands."""
        finished = [f"{one}{self.stop or self.bank.stop}" if one[-1] not in "?？" else one for one in self.sentences]
        body = self.join(finished) if self.join else self.bank.blank.join(finished)
        text = f"{self.around[0]}{body}{self.around[1]}"
        return self.recase(text) if self.recase else text


@dataclass(frozen=True, slots=True)
class Rule:
    """clashes: names of rules or slots that it cannot stand with; languages: of texts that it is for."""

    apply: Callable[[Draft, Random], None]
    slot: str
    clashes: frozenset[str] = frozenset()
    languages: tuple[str, ...] = LANGUAGES

    @property
    def name(self) -> str:
        """The function's."""
        return self.apply.__name__

    def conflicts_with(self, other: "Rule") -> bool:
        """Whether the two cannot stand in one text."""
        return self.slot == other.slot or bool({other.name, other.slot} & self.clashes or {self.name, self.slot} & other.clashes)
