r"""The reward `choice`: a multiple-choice question was answered with the right letter.

Left out on purpose: answers that quote an option's words without its letter (the options are not known here), questions with
several right letters, and letters past J.
"""

import re
from typing import Any

from posttrain.rewards.base import Reward, answer_text
from posttrain.types import Episode, Prompt

MAX_TAIL = 20_000  # characters from the end that are looked at: an answer stands there

# Repetitions are bounded, so that the time is linear in the text.
_WRAPPED = r"(?:\\(?:text|textbf|mathrm|mathbf)\s{0,3}\{\s{0,3})?[(\[*_`\"'$\s]{0,6}"
_LETTER = rf"{_WRAPPED}(?P<letter>[A-Ja-j])(?![\w'\u2019])(?=(?P<after>.{{0,40}}))"
_BOXED = re.compile(rf"\\boxed\s{{0,3}}\{{\s{{0,3}}{_LETTER}")
_STATED = re.compile(
    r"\b(?i:answer|choice|option|choose|select|pick)\b[*_`]{0,3}"
    r"(?i:\s{1,3}(?:is|was|would\s{1,3}be|must\s{1,3}be|should\s{1,3}be)\b|\s{0,3}[:=])?[*_`:]{0,4}"
    rf"(?i:\s{{1,3}}(?:option|choice|answer|letter)\b)?\s{{0,3}}{_LETTER}"
)
_LINE = re.compile(r"[\s(\[*_`\"'$]{0,9}(?P<letter>[A-Ja-j])[\s)\]*_`\"'$.!]{0,9}")
_ENDS = re.compile(r"[)\]}*_`\"'$]|[.,;:!]|\s{0,9}(?:$|\n)|\s{1,3}(?:[-\u2013\u2014(]|because\b|since\b)")
_OPERATOR = re.compile(r"\s{0,3}[=^+/<>]")
_CLOSED = re.compile(r"[)\]}*_`$]|\s{0,9}[.!]?\s{0,9}$")


class Choice(Reward):
    """1.0 when the last letter that the answer commits to is the reference, 0.0 otherwise."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """Compares letters in either case; an answer that commits to no letter scores 0.0.

        Raises ValueError: the reference is not one letter from A to J.
        """
        return float(last_choice(answer_text(episode)) == _reference(prompt.reference))


def last_choice(text: str) -> str | None:
    r"""The letter, in upper case, of the last statement of a choice; None when there is none.

    Statements are `\boxed{B}`, "the answer is (B)", "Answer: B", "option B" and the like, and a line of nothing but the letter
    when it is the text's last. The words "a" and "I" are letters only where nothing can follow them: "the answer is a prime"
    chooses nothing, and "Answer: A" chooses.
    """
    tail = text[-MAX_TAIL:].rstrip()
    found = [
        (match.start("letter"), match["letter"]) for pattern in (_BOXED, _STATED) for match in pattern.finditer(tail) if _commits(match)
    ]
    last_line_start = tail.rfind("\n") + 1
    if alone := _LINE.fullmatch(tail, last_line_start):
        found.append((alone.start("letter"), alone["letter"]))
    return max(found)[1].upper() if found else None


def _commits(match: re.Match[str]) -> bool:
    """Whether the letter stands by itself: a bare a, A or I is a word when another follows, and E = mc^2 is no choice."""
    letter, after = match["letter"], match["after"]
    if letter in "aAI":
        return bool(_ENDS.match(after))
    return bool(_CLOSED.match(after)) if letter.islower() else not _OPERATOR.match(after)


def _reference(reference: Any) -> str:
    letter = reference.strip().strip("().").upper() if isinstance(reference, str) else ""
    if not re.fullmatch("[A-J]", letter):
        raise ValueError(f"the reference is {reference!r}, expected a letter from A to J")
    return letter
