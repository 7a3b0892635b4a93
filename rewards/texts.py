"""How rewards take a text apart: words, sentences, paragraphs, lines, fenced blocks, thinking.

What stands between blanks is a word in most scripts and a whole clause in others, so one rule holds for every reward here: a
Chinese character or a kana counts as a word, everything else by its blanks and hyphens. Left out on purpose: dictionaries, and so
word borders within a run of Chinese, Thai or Khmer; and stems. Every pattern here takes time linear in the text, which the policy writes.
"""

import re
from dataclasses import dataclass

CJK = "\u3005-\u3007\u3041-\u3096\u30a1-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003134f"
"""Han characters and kana, as the inside of a regular expression's character class."""

# Vowel signs and accents that stand as characters of their own and are no letters to `re`.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0962\u0963"
    "\u0981-\u0983\u09bc-\u09cd\u0b82\u0bbe-\u0bcd\u0e31\u0e34-\u0e4e"
)
_RUN = rf"(?:[^\W_{CJK}]|[{_MARKS}])++"
_WORD = re.compile(rf"[{CJK}]|{_RUN}(?:['\u2019-]{_RUN}|(?<=\d)[.,](?=\d){_RUN})*+")

# The head of a run of stops is looked for first, so that a long run is gone through once.
_SENTENCE_END = re.compile(
    "(?<![.!?])[.!?]++[\"'*_)\\]\u201d\u2019]*+(?=\\s|$)|[\u3002\uff01\uff1f\u2026\u0964\u061f]++[\u201d\u2019\u300d\u300f)\uff09]*+|\\n++"
)
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|Fig|e\.g|i\.e|cf|approx)|(?<!\S)[A-Z])\.$")
_ABBREVIATION_CHARACTERS = 8
_PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*+\n\s*+")
_FENCE = re.compile(r"[^\S\n]{0,3}(?P<marks>`{3,}|~{3,})(?P<label>[^`\n]*+)")


@dataclass(frozen=True, slots=True)
class FencedBlock:
    """A fenced block of Markdown: the label after the opening fence (lower case) and the lines between the fences."""

    label: str
    code: str


def words(text: str) -> list[str]:
    """The words in their order, as written; none in an empty text.

    "don't", "well-known", "3.14" and "1,000" are one word each, "a/b" and "中文" are two each.
    """
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """The sentences, stripped; pieces without a word are left out.

    A sentence ends at . ! ? before white space, at the full-width and Devanagari stops, at an ellipsis, or with its line.
    "3.14" and "Dr. Wu" end nothing. The blank after a full stop is what tells its two uses apart: "so.Then" is one sentence.
    """
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if _ABBREVIATION.search(text[max(start, end.end() - _ABBREVIATION_CHARACTERS) : end.end()]):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if _WORD.search(sentence)]


def paragraphs(text: str) -> list[str]:
    """What blank lines separate, stripped; none in a text of white space."""
    return [part for part in _PARAGRAPH_BREAK.split(text.strip()) if part]


def lines(text: str) -> list[str]:
    """The lines that are not blank, without the white space behind them."""
    return [line.rstrip() for line in text.split("\n") if line.strip()]


def fenced_blocks(text: str) -> list[FencedBlock]:
    """The blocks between ``` or ~~~ fences, in their order; a block that is never closed (a truncated answer) is none."""
    return _split_fences(text)[1]


def without_fenced_blocks(text: str) -> str:
    """The text outside fenced blocks; what follows a fence that is never closed counts as inside."""
    return _split_fences(text)[0]


def thinking_text(text: str) -> str:
    """What is thought in a text: all before the last `</think>`, and all after a `<think>` that is never closed.

    Without either tag there is none: a truncated thought whose opening tag stands in the prompt cannot be told from an answer.
    """
    before, _, after = text.rpartition("</think>")
    thought = f"{before}\n{after.partition('<think>')[2]}"
    return thought.replace("<think>", "\n").replace("</think>", "\n").strip()


def _split_fences(text: str) -> tuple[str, list[FencedBlock]]:
    outside: list[str] = []
    blocks: list[FencedBlock] = []
    opened: re.Match[str] | None = None
    inside: list[str] = []
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if opened is None:
            opened, inside = fence, []
            if fence is None:
                outside.append(line)
        elif fence is not None and fence["marks"].startswith(opened["marks"]) and not fence["label"].strip():
            blocks.append(FencedBlock(opened["label"].strip().lower(), "\n".join(inside)))
            opened = None
        else:
            inside.append(line)
    return "\n".join(outside), blocks
