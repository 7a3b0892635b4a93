"""Which language a text is in, and the reward `language`: the answer is in the language of the prompt.

Only prose tells a language. Fenced and inline code, LaTeX, addresses, quotations (300 characters of a line at most, so that an
answer does not hide within quotation marks) and brackets of at most 30 characters, which gloss a name, are taken out first.

    foreign share = words that speak against the language / all words
    a text is in a language when its foreign share is at most 0.15

A word speaks against a language in one of two ways. Its script is not the language's: Chinese characters in an English answer,
an English clause in a Chinese one - where up to three Latin words in a row are a term, such as "Transformer" or "machine
learning", and count for nothing, unless one of them is an English function word. Or it stands in a stretch of 12 words to which
an n-gram model (py3langid, limited to the languages of `LANGUAGES`) gives the language less than 0.2; the last stretch is longer, or
all there is. A Han character or a kana counts as a word.

Left out on purpose: dialects and the two ways of writing Chinese; languages outside the table; and prompts that ask for another
language than their own, such as translations - do not give this reward to them.
"""

import re
from functools import cache
from itertools import pairwise
from typing import Any

from posttrain.errors import nearest
from posttrain.rewards.base import Reward, Score, answer_text
from posttrain.rewards.texts import CJK, without_fenced_blocks
from posttrain.types import Episode, Prompt

MAX_FOREIGN_SHARE = 0.15
MIN_WORDS = 4
TERM_WORDS = 3
_STRETCH_WORDS = 12
_MIN_PROBABILITY = 0.2
# Nobody's language shows only after so many characters of prose, and the time grows with them.
_MAX_CHARACTERS = 30_000

# Thai has no blanks, so four letters stand for a word; single Latin and Greek letters are mostly variables.
_SCRIPTS = {
    "Han": "[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]",
    "Kana": "[\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]",
    "Hangul": "[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]++",
    "Latin": "[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\u0300-\u036f]{2,}+",
    "Cyrillic": "[\u0400-\u052f\u0300-\u036f]++",
    "Greek": "[\u0370-\u03ff\u1f00-\u1fff\u0300-\u036f]{2,}+",
    "Arabic": "[\u0620-\u065f\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f]++",
    "Hebrew": "[\u0591-\u05f4]++",
    "Devanagari": "[\u0900-\u0963\u0970-\u097f]++",
    "Thai": "[\u0e01-\u0e4e]{1,4}+",
}
_WORD = re.compile("|".join(f"(?P<{name}>{characters})" for name, characters in _SCRIPTS.items()))
_LATIN, _CYRILLIC, _ARABIC = frozenset({"Latin"}), frozenset({"Cyrillic"}), frozenset({"Arabic"})

LANGUAGES: dict[str, frozenset[str]] = {
    **dict.fromkeys(("cs", "da", "de", "en", "es", "fi", "fr", "hu", "id"), _LATIN),
    **dict.fromkeys(("it", "nl", "no", "pl", "pt", "ro", "sv", "tr", "vi"), _LATIN),
    **dict.fromkeys(("bg", "ru", "uk"), _CYRILLIC),
    **dict.fromkeys(("ar", "fa"), _ARABIC),
    "zh": frozenset({"Han"}),
    "ja": frozenset({"Han", "Kana"}),
    "ko": frozenset({"Hangul"}),
    "el": frozenset({"Greek"}),
    "he": frozenset({"Hebrew"}),
    "hi": frozenset({"Devanagari"}),
    "th": frozenset({"Thai"}),
}
"""The languages that are told apart, by ISO 639-1 code, and the scripts that each is written in."""

# Each alternative stops at its own opener, so that a run of openers is gone through once.
_NOT_PROSE = re.compile(
    r"`[^`\n]++`"
    r"|\$\$(?:[^$]|\$(?!\$))++\$\$"
    r"|\$(?!\s)[^$\n]++(?<!\s)\$(?!\d)"
    r"|\\\((?:(?!\\[()]).)*+\\\)"
    r"|\\\[(?:(?!\\[\[\]]).)*+\\\]"
    rf"|(?:https?://|www\.)[^\s{CJK}\u3000-\u3002\uff00-\uff65]++"
    r"|(?m:^[^\S\n]*+>[^\n]*+$)"
    r'|"[^"\n]{1,300}+"|\u201c[^\u201c\u201d\n]{1,300}+\u201d|\u300c[^\u300c\u300d\n]{1,300}+\u300d'
    r"|\u300e[^\u300e\u300f\n]{1,300}+\u300f|\u300a[^\u300a\u300b\n]{1,300}+\u300b|\u00ab[^\u00ab\u00bb\n]{1,300}+\u00bb"
    r"|[(\uff08][^()\uff08\uff09\n]{1,30}+[)\uff09]",
    re.DOTALL,
)
# What ends a run of words even where the next word is of the same script.
_RUN_BREAK = re.compile(r"[,;:!?|*()\n\u3001\u3002\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f]|\.\s")
# In lower case, these are no part of a name or a technical term.
_CLAUSE_WORD = re.compile(
    "the|this|that|these|is|are|was|were|we|you|he|she|they|it|so|but|because|since|then|thus|if|when|while|which|who|have|has|had"
    "|can|could|should|would|will|must|need|do|does|not|let|get|there|here|my|your|our|their"
)


class LanguageConsistency(Reward):
    """1.0 when the answer is in the language of the last user message, 0.0 when it is not: a penalty, by its weight."""

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """Compares the prose of the two, thinking left out; details hold the languages and the answer's foreign share.

        "too short": fewer than 4 words of prose are left of either, so no language can be told, and the score is 1.0; so is an
        empty answer's. Raises ValueError: the prompt has no user message, which is a mistake in the data.
        """
        expected = identify(_last_user_text(prompt))
        if expected is None:
            return Score(1.0, {"reason": "too short: the prompt"})
        answer = prose(answer_text(episode))
        if num_words(answer) < MIN_WORDS:
            return Score(1.0, {"reason": "too short", "prompt_language": expected})
        share = foreign_share(answer, expected)
        return Score(float(share <= MAX_FOREIGN_SHARE), {"prompt_language": expected, "foreign_share": share})


def is_in_language(text: str, language: str) -> bool:
    """Whether a text's prose is in a language of `LANGUAGES`: at most 0.15 of its words speak against it.

    Degenerate: a text without words is in no language, and one of fewer than 4 in each language of its script.
    Raises ValueError for a language that is not in the table.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}, expected an ISO 639-1 code; {nearest(str(language), LANGUAGES)}")
    text = prose(text)
    return num_words(text) > 0 and foreign_share(text, language) <= MAX_FOREIGN_SHARE


def identify(text: str) -> str | None:
    """The most probable language of a text's prose, as its code in `LANGUAGES`; None for fewer than 4 words."""
    text = prose(text)
    if num_words(text) < MIN_WORDS:
        return None
    return str(_identifier().classify(text)[0])


def prose(text: str) -> str:
    """The text without code, LaTeX, addresses, quotations and short brackets, a blank for each; its first 30,000 characters."""
    return _NOT_PROSE.sub(" ", without_fenced_blocks(text))[:_MAX_CHARACTERS]


def num_words(text: str) -> int:
    """How many words tell a language: those in the scripts of the table."""
    return sum(1 for _ in _WORD.finditer(text))


def foreign_share(text: str, language: str) -> float:
    """The share of prose words that speak against `language`, in [0, 1], by the module's two rules.

    Degenerate: 0.0 for no words at all, 1.0 for nothing but foreign ones, since a term needs a text to stand in.
    Raises KeyError for a language that is not in `LANGUAGES`.
    """
    scripts = LANGUAGES[language]
    native: list[re.Match[str]] = []
    foreign: list[re.Match[str]] = []
    for word in _WORD.finditer(text):
        (native if word.lastgroup in scripts else foreign).append(word)
    if not native:
        return float(bool(foreign))
    counted = sum(len(run) for run in _runs(text, foreign) if not _is_term(run, scripts))
    return (counted + _num_in_other_languages(text, native, language)) / (len(native) + len(foreign))


def _runs(text: str, found: list[re.Match[str]]) -> list[list[re.Match[str]]]:
    """Groups words that follow each other without punctuation that parts clauses, or a word of another group, between them."""
    runs: list[list[re.Match[str]]] = []
    end = 0
    for word in found:
        gap = text[end : word.start()]
        if not runs or _RUN_BREAK.search(gap) or _WORD.search(gap):
            runs.append([])
        runs[-1].append(word)
        end = word.end()
    return runs


def _is_term(run: list[re.Match[str]], scripts: frozenset[str]) -> bool:
    """Whether a run of words in other scripts is a Latin name or technical term within another script."""
    if len(run) > TERM_WORDS or "Latin" in scripts:
        return False
    return all(word.lastgroup == "Latin" and not _CLAUSE_WORD.fullmatch(word[0]) for word in run)


def _num_in_other_languages(text: str, native: list[re.Match[str]], language: str) -> int:
    """How many of the words in the language's own script stand in stretches of another language; so few tell none."""
    if len(native) < MIN_WORDS:
        return 0
    count = 0
    num_stretches = max(1, len(native) // _STRETCH_WORDS)
    for index in range(num_stretches):
        is_last = index == num_stretches - 1
        stretch = native[index * _STRETCH_WORDS : None if is_last else (index + 1) * _STRETCH_WORDS]
        if _probability(_text_of(text, stretch), language) < _MIN_PROBABILITY:
            count += len(stretch)
    return count


def _text_of(text: str, stretch: list[re.Match[str]]) -> str:
    """The words of a stretch with what stands between them, words in other scripts left out."""
    parts = [_WORD.sub(" ", text[left.end() : right.start()]) + right[0] for left, right in pairwise(stretch)]
    return "".join([stretch[0][0], *parts])


def _probability(text: str, language: str) -> float:
    return float(dict(_identifier().rank(text))[language])


@cache
def _identifier() -> Any:
    """The n-gram model, limited to the table; read once, on first use, in a second or two."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([*LANGUAGES])
    return identifier


def _last_user_text(prompt: Prompt) -> str:
    contents = [message["content"] for message in prompt.messages if message["role"] == "user"]
    if not contents:
        raise ValueError(f"the prompt {prompt.id} has no user message, expected one whose language the answer should have")
    content = contents[-1]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")
