r"""The reward `ans_f1`: a question with several answers, scored by the F1 of the predicted set (A2Search's AnsF1).

Left out on purpose: partial credit within an answer (words in common); two answers are the same or they are not.
"""

import re
import unicodedata
from typing import Any

from posttrain.rewards.base import Reward, answer_text
from posttrain.rewards.boxed import boxed_contents
from posttrain.strict_json import parse_json
from posttrain.types import Episode, Prompt

VALID = 0.1  # for an answer in the right form without a hit
DISCOUNT = 0.4
MAX_TAIL = 20_000  # characters from the end that are looked at

_ANSWER = re.compile(r"^[ \t*_#>]{0,9}(?:final[ \t]{1,3})?answers?[ \t*_]{0,9}:[ \t*_]{0,9}", re.IGNORECASE | re.MULTILINE)
_EMPTY_LINE = re.compile(r"\n[ \t\r]*\n")
_SEPARATOR = re.compile(r"[;\n]")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s{0,3}\{([^{}]*)\}")
_SIGN_OR_POINT = re.compile(r"(?<![\w])-(?=\d)|(?<=\d)\.(?=\d)")
_DROPPED = re.compile(r"[^\w\s\x00\x01]|_")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


class AnswerF1(Reward):
    r"""0 without an answer, 0.1 for one without a hit, else 1 - 0.4 (1 - F1); A2Search's AnsF1.

    F1 = 2 P R / (P + R) over sets of normalised answers, P = hits / predicted, R = hits / gold: 1.0 for exactly the gold set,
    and above 0.6 with any hit, so that finding one of them is worth more than the form.
    """

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """Compares what the answer lists with the reference: a list of gold answers, each a text or a list of its aliases.

        Raises ValueError: the reference is not such a list, is empty, or holds an answer that is empty when normalised.
        """
        return answer_f1(predicted_answers(answer_text(episode)), _reference(prompt.reference))


def answer_f1(predicted: set[str], gold: list[set[str]]) -> float:
    """The score of normalised answers against gold answers, each a set of normalised aliases; 0.0 for an empty prediction.

    Predictions that name the same gold answer by several aliases are one prediction, and each prediction hits one gold answer
    at most: aliases that two gold answers share cannot count twice.
    """
    if not predicted:
        return 0.0
    misses = {answer for answer in predicted if not any(answer in aliases for aliases in gold)}
    hits = _num_matched(sorted(predicted - misses), gold)
    if not hits:
        return VALID
    precision, recall = hits / (hits + len(misses)), hits / len(gold)
    return 1 - DISCOUNT * (1 - 2 * precision * recall / (precision + recall))


def predicted_answers(text: str) -> set[str]:
    r"""The normalised answers that `text` lists; empty when it has none of the forms below.

    The first form that is there decides: 1. the contents of all closed `\boxed{}`; 2. what follows the last line
    that starts with "Answer:" (also "Answers:", "Final answer:"), up to an empty line; 3. the whole text, if it is a JSON list.
    Each is split: a JSON list of texts and numbers into its items, anything else at semicolons and line ends, with list bullets
    taken off. Commas do not separate: names have them.
    """
    tail = text[-MAX_TAIL:]
    if boxes := boxed_contents(tail):
        parts = [part for box in boxes for part in _split(_MARKUP.sub(r"\1", box))]
    elif headings := list(_ANSWER.finditer(tail)):
        parts = _split(_EMPTY_LINE.split(tail[headings[-1].end() :].strip(), maxsplit=1)[0])
    else:
        parts = _json_list(tail) or []
    return {normalised for part in parts if (normalised := normalise(part))}


def normalise(answer: str) -> str:
    """An answer in lower case without articles, punctuation and surplus white space, nearly as SQuAD compares; Unicode as NFKC.

    Unlike SQuAD's it keeps the sign and the point of a number (-5 is not 5, 3.5 is not 35), and an answer that is nothing but
    articles and punctuation stays itself, so "" means that nothing was there.
    """
    text = unicodedata.normalize("NFKC", answer).replace("\N{MINUS SIGN}", "-").replace("\x00", "").replace("\x01", "").lower()
    kept = _SIGN_OR_POINT.sub(lambda match: "\x00" if match[0] == "-" else "\x01", text)
    bare = _ARTICLE.sub(" ", _DROPPED.sub("", kept)).replace("\x00", "-").replace("\x01", ".")
    return " ".join(bare.split()) or " ".join(text.split())


def _split(text: str) -> list[str]:
    items = _json_list(text)
    return items if items is not None else [_BULLET.sub("", part) for part in _SEPARATOR.split(text)]


def _json_list(text: str) -> list[str] | None:
    """The items of a JSON list of texts and numbers; None for anything else."""
    try:
        items = parse_json(text)
    except (RecursionError, ValueError):
        return None
    if not isinstance(items, list) or any(isinstance(item, bool) or not isinstance(item, (str, int, float)) for item in items):
        return None
    return [str(item) for item in items]


def _num_matched(predicted: list[str], gold: list[set[str]]) -> int:
    """The size of a largest matching of predictions with gold answers (Kuhn's augmenting paths)."""
    owners: dict[int, str] = {}

    def place(answer: str, tried: set[int]) -> bool:
        for index in range(len(gold)):
            if index in tried or answer not in gold[index]:
                continue
            tried.add(index)
            if index not in owners or place(owners[index], tried):
                owners[index] = answer
                return True
        return False

    return sum(place(answer, set()) for answer in predicted)


def _reference(reference: Any) -> list[set[str]]:
    answers = [_aliases(answer) for answer in reference] if isinstance(reference, (list, tuple)) else []
    if not answers or not all(answers):
        raise ValueError(f"the reference is {reference!r}, expected a list of answers, each a text or a list of its aliases")
    return [answer for index, answer in enumerate(answers) if answer not in answers[:index]]


def _aliases(answer: Any) -> set[str]:
    """The normalised aliases of one gold answer; empty when one is no text or number, or is empty."""
    aliases = answer if isinstance(answer, (list, tuple)) else [answer]
    if any(isinstance(alias, bool) or not isinstance(alias, (str, int, float)) for alias in aliases):
        return set()
    normalised = {normalise(str(alias)) for alias in aliases}
    return set() if "" in normalised else normalised
