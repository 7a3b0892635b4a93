"""The step `response_rules`: what can be seen in a response without asking anybody.

Rules, in their order; the first that a response breaks is the reason why its row goes:

- malformed: thinking tags that do not pair or stand twice, nothing after the thinking, a tool call that is not
  `{"name": ..., "arguments": {...}}` between its tags.
- cut off: the row says so (`finish_reason` is length), a thought, code block, \\boxed{ or tool call that is never closed, or prose
  that uses full stops and ends in the middle of a sentence.
- repetition: too many of its word n-grams stand in it more than once.
- language mixing: too many words of its prose, or of its thinking, are not in the language that most of it is in.
- guess: it says that it guesses, or it writes fewer words than `min_words`, which is an answer without a reason.

Rows without a response stay. Left out on purpose: whether what is said is true (`final_answer`, `response_score`), and in which
language an answer should be (the reward `language`, by `response_score`).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.curate.base import Bench, Drop, Outcome, Step, require, sift
from posttrain.curate.rows import Row
from posttrain.errors import UserError, nearest
from posttrain.rewards.repetition import repetition_rate
from posttrain.rewards.texts import lines, sentences, thinking_text, without_fenced_blocks, words
from posttrain.strict_json import parse_json

RULES = ("malformed", "cut off", "repetition", "language mixing", "guess")
MIN_SENTENCE_WORDS = 5
"""Fewer words in a last line are a heading, a name or a result."""
MIN_LANGUAGE_WORDS = 8
LONGEST_FENCE = 40
_END = "\u2e3a"  # stands outside once the last block is closed; put behind a text without an open block, it stands inside one

# "I guess we can factor this" is no guess; "I'll guess" and "I just guess" are.
_GUESS = re.compile(
    r"\bI(?:['\u2019]ll| will| have to| must| can only| would) (?:just |simply |have to |randomly |only )*guess\b"
    r"|\bI (?:just|simply|randomly) guess\b"
    r"|\b(?:just|only|simply|merely|purely) (?:a (?:random |wild |lucky )?guess|guessing)\b|\b(?:my|a) (?:random|wild|blind) guess\b"
    r"|\bwithout (?:calculating|computing|working it out|any reasoning)\b|\bpick(?:ing)? (?:one )?at random\b"
    "|\u731c\u4e00\u4e2a|\u968f\u4fbf\u731c|\u6211\u731c|\u778e\u731c|\u968f\u673a\u9009",
    re.IGNORECASE,
)
_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_CALL_TAG = re.compile(r"<(/?)tool_call>")
_LIST_ITEM = re.compile(r"\s*(?:[-*+#|>]|\d+[.)])")


@dataclass
class ResponseRules(Step):
    """Rows whose response is malformed, cut off, repetitive, a mixture of languages or a guess go."""

    rules: list[str] = field(default_factory=lambda: list(RULES))  # which of the rules hold
    ngram_words: int = 10  # repetition: words in an n-gram
    max_repetition: float = 0.3  # repetition: 1 - unique / all n-grams, from which on a response repeats itself
    max_foreign_share: float = 0.15  # language mixing: share of words in another language than most
    min_words: int = 0  # guess: a response of fewer words, its thinking counted, gives no reason; 0: it may

    def validate(self) -> None:
        """Rules are known, shares are shares."""
        for rule in self.rules:
            if rule not in RULES:
                raise UserError(f"rules: unknown rule {rule!r}; {nearest(rule, RULES)}")
        require("ngram_words", self.ngram_words, self.ngram_words > 0, "a number above 0")
        require("min_words", self.min_words, self.min_words >= 0, "0 or more")
        for name in ("max_repetition", "max_foreign_share"):
            require(name, vars(self)[name], 0 <= vars(self)[name] <= 1, "a share from 0 to 1")

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Reasons: the rules' names."""
        checks: dict[str, Callable[[str, Row], str]] = {
            "malformed": lambda text, row: malformed(text) or _malformed_fields(row),
            "cut off": lambda text, row: "finish_reason is length" if row.data.get("finish_reason") == "length" else cut_off(text),
            "repetition": lambda text, row: self._repetition(text),
            "language mixing": lambda text, row: self._mixing(text),
            "guess": lambda text, row: self._guess(text),
        }

        def look(row: Row) -> Row | Drop:
            text = row.response
            if text is None:
                return row
            found = ((rule, checks[rule](text, row)) for rule in RULES if rule in self.rules)
            return next((Drop(rule, detail) for rule, detail in found if detail), row)

        outcome = sift(rows, look)
        outcome.counts["rows without a response"] = sum(row.response is None for row in rows)
        return outcome

    def _repetition(self, text: str) -> str:
        rate = repetition_rate(text, self.ngram_words)
        return f"{rate:.0%} of its {self.ngram_words}-grams stand in it before" if rate >= self.max_repetition and rate else ""

    def _mixing(self, text: str) -> str:
        for part, name in ((text.rpartition("</think>")[2], "answer"), (thinking_text(text), "thinking")):
            language, share = mixture(part)
            if share > self.max_foreign_share:
                return f"{share:.0%} of the {name} is not {language}"
        return ""

    def _guess(self, text: str) -> str:
        said = _GUESS.search(text)
        if said:
            return f"it says {said[0]!r}"
        count = len(words(text))
        return f"{count} words" if count < self.min_words else ""


def malformed(text: str) -> str:
    """What is wrong with the tags of a response, "" for nothing; tags that are never closed are a matter of `cut_off`."""
    opened, closed = text.count("<think>"), text.count("</think>")
    if opened > 1 or closed > 1:
        return f"{opened} <think> and {closed} </think>"
    if closed and not opened:
        return "</think> without <think>"
    if closed and text.index("</think>") < text.index("<think>"):
        return "</think> before <think>"
    if closed and not text.rpartition("</think>")[2].strip():
        return "nothing after the thinking"
    depth = 0
    for tag in _CALL_TAG.finditer(text):
        depth += -1 if tag[1] else 1
        if depth not in (0, 1):
            return "tool call tags that do not pair"
    return next(_bad_calls(found[1] for found in _TOOL_CALL.finditer(text)), "")


def _bad_calls(calls: Iterator[str]) -> Iterator[str]:
    for text in calls:
        try:
            call = parse_json(text)
        except ValueError as error:
            yield f"a tool call that is not JSON: {error}"
            continue
        if not (isinstance(call, dict) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)):
            yield "a tool call without a name and an object of arguments"


def _malformed_fields(row: Row) -> str:
    """What is wrong with the tool calls that stand beside the messages' texts, where there are some."""
    for message in row.conversation:
        for call in message.get("tool_calls") or []:
            function = call.get("function", call) if isinstance(call, dict) else {}
            if not (isinstance(function, dict) and isinstance(function.get("name"), str) and _are_arguments(function.get("arguments"))):
                return "tool_calls without a name and an object of arguments"
    return ""


def _are_arguments(value: Any) -> bool:
    if not isinstance(value, str):
        return isinstance(value, dict)
    try:
        return isinstance(parse_json(value), dict)
    except ValueError:
        return False


def cut_off(text: str) -> str:
    """Where a response breaks off, "" where it ends."""
    if text.count("<think>") > text.count("</think>"):
        return "a thought that is never closed"
    if text.count("<tool_call>") > text.count("</tool_call>"):
        return "a tool call that is never closed"
    if any(without_fenced_blocks(f"{text}\n{mark * LONGEST_FENCE}\n{_END}").endswith(_END) for mark in "`~" if mark * 3 in text):
        return "a code block that is never closed"
    outside = without_fenced_blocks(text)
    boxed = outside.rfind("\\boxed{")
    if boxed >= 0 and _depth(outside[boxed:]) > 0:
        return "a \\boxed{ that is never closed"
    return _open_sentence(outside)


def _open_sentence(text: str) -> str:
    """The end of a last sentence that has none, in a text that ends its sentences."""
    last = next(reversed(lines(text)), "")
    if not last or _LIST_ITEM.match(last) or not (last[-1].isalpha() or last[-1] in ",;(\uff0c\u3001"):
        return ""
    found = sentences(text)
    if len(found) < 2 or not any(sentence[-1] in ".!?\u3002\uff01\uff1f" for sentence in found[:-1]):
        return ""
    return f"it ends with {found[-1][-40:]!r}" if len(words(found[-1])) >= MIN_SENTENCE_WORDS else ""


def _depth(text: str) -> int:
    return text.count("{") - text.count("}")


def mixture(text: str) -> tuple[str, float]:
    """The language that a text's prose is in, and the share of words that are not; ("", 0.0) where there is too little prose."""
    from posttrain.rewards.language import foreign_share, identify, num_words, prose  # loads a language model

    plain = prose(text)
    if num_words(plain) < MIN_LANGUAGE_WORDS:
        return "", 0.0
    language = identify(plain)
    return (language, foreign_share(plain, language)) if language else ("", 0.0)
