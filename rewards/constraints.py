"""Verifiable constraints on what a text says and how it is written, and `CONSTRAINTS`, all of them by name.

Lengths, keywords, letters, case, punctuation, language. The layout of a text (lists, headings, JSON) is in `constraints_format`,
code in `constraints_code`. All work for English and Chinese unless they say otherwise; words and sentences are those of `texts`.
Left out on purpose: what takes a judge, such as tone, and what takes a dictionary, such as rhyme.
"""

import re
import unicodedata
from collections.abc import Mapping

from posttrain.rewards import constraints_code, constraints_format
from posttrain.rewards.constraints_base import Check, Count, LanguageCode, bounded
from posttrain.rewards.language import is_in_language
from posttrain.rewards.texts import CJK, lines, words
from posttrain.rewards.texts import paragraphs as split_paragraphs
from posttrain.rewards.texts import sentences as split_sentences

_COMMAS = frozenset(",\u060c\u3001\uff0c\ufe50\uff64")
_TERMINAL = ".!?\u2026\u3002\uff01\uff1f\u0964\u061f"
_CLOSERS = "\"'*_`)]}\u201d\u2019\u300d\u300f\u300b\u00bb\uff09"
_OPENERS = "\"'*_`([{\u201c\u2018\u300c\u300e\u300a\u00ab\uff08#>-\u2022 \t\n"
_QUOTES = {'"': '"', "\u201c": "\u201d", "\u300c": "\u300d", "\u300e": "\u300f", "\u00ab": "\u00bb", "\u201e": "\u201c"}
_SMALL_WORDS = re.compile("an?|the|and|but|or|nor|of|in|on|at|to|for|by|with|from|as|vs|via|per|is")
_WORD_CHARACTER = rf"[^\W{CJK}]"
_EMOJI_BASE = "[\u231a\u231b\u23e9-\u23f3\u23f8-\u23fa\u2600-\u27bf\u2b1b\u2b1c\u2b50\u2b55\U0001f300-\U0001f3fa\U0001f400-\U0001faff]"
_EMOJI = re.compile(
    f"[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3"
    f"|{_EMOJI_BASE}[\ufe0f\U0001f3fb-\U0001f3ff]*+(?:\u200d{_EMOJI_BASE}[\ufe0f\U0001f3fb-\U0001f3ff]*+)*+"
)


# Counts: each becomes a constraint with the bounds min and max.


def characters(text: str) -> int:
    """Characters, blanks and punctuation included."""
    return len(text)


def num_words(text: str) -> int:
    """Words; a Chinese character or a kana is one."""
    return len(words(text))


def sentences(text: str) -> int:
    """Sentences; the end of a line ends one."""
    return len(split_sentences(text))


def paragraphs(text: str) -> int:
    """Paragraphs, parted by blank lines."""
    return len(split_paragraphs(text))


def num_lines(text: str) -> int:
    """Lines that are not blank."""
    return len(lines(text))


def unique_words(text: str) -> int:
    """Different words, without regard to case."""
    return len(set(words(text.casefold())))


def longest_sentence(text: str) -> int:
    """Words of the sentence that has most; 0 without one."""
    return max((len(words(sentence)) for sentence in split_sentences(text)), default=0)


def longest_paragraph(text: str) -> int:
    """Words of the paragraph that has most; 0 without one."""
    return max((len(words(paragraph)) for paragraph in split_paragraphs(text)), default=0)


def keyword(text: str, *, keyword: str) -> int:
    """Occurrences of a keyword, without regard to case; not as a part of a longer word, except among Chinese characters."""
    return len(_keyword_pattern(keyword).findall(text.casefold()))


def letter(text: str, *, letter: str) -> int:
    """Occurrences of a letter or another single piece of text, without regard to case."""
    return text.casefold().count(letter.casefold())


def capital_words(text: str) -> int:
    """Words of two letters or more without a small one, such as NASA."""
    return sum(1 for word in words(text) if len(word) > 1 and word.isupper())


def emojis(text: str) -> int:
    """Emojis; a flag, a family or an emoji with a skin tone is one."""
    return len(_EMOJI.findall(text))


def questions(text: str) -> int:
    """Sentences that end in a question mark."""
    return sum(1 for sentence in split_sentences(text) if sentence.rstrip(_CLOSERS).endswith(("?", "\uff1f", "\u061f")))


def exclamations(text: str) -> int:
    """Exclamation marks."""
    return sum(map(text.count, ("!", "\uff01")))


# Yes or no


def keywords_present(text: str, *, keywords: list[str]) -> bool:
    """Every keyword occurs."""
    return all(keyword(text, keyword=one) for one in keywords)


def keywords_absent(text: str, *, keywords: list[str]) -> bool:
    """No keyword occurs."""
    return not any(keyword(text, keyword=one) for one in keywords)


def keywords_in_order(text: str, *, keywords: list[str]) -> bool:
    """Every keyword occurs after the one before it in the list."""
    text, position = text.casefold(), 0
    for one in keywords:
        found = _keyword_pattern(one).search(text, position)
        if found is None:
            return False
        position = found.end()
    return True


def uppercase(text: str) -> bool:
    """Has letters with case, and no small one."""
    return text.isupper()


def lowercase(text: str) -> bool:
    """Has letters with case, and no capital one."""
    return text.islower()


def title_case(text: str) -> bool:
    """Each word that has case starts with a capital, short ones such as "of" excepted after the first; there is at least one."""
    cased = [word for word in words(text) if word[0].lower() != word[0].upper()]
    return bool(cased) and not cased[0][0].islower() and all(not w[0].islower() or _SMALL_WORDS.fullmatch(w) for w in cased)


def no_commas(text: str) -> bool:
    """No comma of any script, the Chinese enumeration comma included."""
    return _COMMAS.isdisjoint(text)


def no_digits(text: str) -> bool:
    """No digit of any script; number words such as "five" or "\u4e94" are none."""
    return not any(map(str.isdigit, text))


def no_punctuation(text: str) -> bool:
    """No character of Unicode's punctuation."""
    return not any(unicodedata.category(character).startswith("P") for character in text)


def ends_with_punctuation(text: str) -> bool:
    """The last character is the end of a sentence; closing quotes and brackets may follow it."""
    return text.rstrip().rstrip(_CLOSERS).endswith(tuple(_TERMINAL))


def sentences_end_with(text: str, *, marks: list[str]) -> bool:
    """Each sentence, of at least one, ends with one of the marks; closing quotes and brackets may follow it."""
    found = split_sentences(text)
    return bool(found) and all(sentence.rstrip(_CLOSERS).endswith(tuple(marks)) for sentence in found)


def starts_with(text: str, *, prefix: str) -> bool:
    """Starts with the prefix, letter for letter."""
    return text.lstrip().startswith(prefix.strip())


def ends_with(text: str, *, suffix: str) -> bool:
    """Ends with the suffix, letter for letter; nothing but white space may follow."""
    return text.rstrip().endswith(suffix.strip())


def first_word(text: str, *, word: str) -> bool:
    """The first word is this one, without regard to case."""
    return _keyword_pattern(word).match(text.lstrip(_OPENERS).casefold()) is not None


def last_word(text: str, *, word: str) -> bool:
    """The last word is this one, without regard to case; punctuation may follow."""
    occurrences = list(_keyword_pattern(word).finditer(text.casefold()))
    return bool(occurrences) and not words(text.casefold()[occurrences[-1].end() :])


def sentences_start_with(text: str, *, word: str) -> bool:
    """Each sentence, of at least one, has this first word."""
    found = split_sentences(text)
    return bool(found) and all(first_word(sentence, word=word) for sentence in found)


def quoted(text: str) -> bool:
    """The whole text, of at least one character, stands between double quotation marks of one kind that do not close before."""
    text = text.strip()
    return len(text) > 2 and text.find(_QUOTES.get(text[0], text), 1) == len(text) - 1


def no_repeated_words(text: str) -> bool:
    """No word stands twice, without regard to case."""
    found = words(text.casefold())
    return len(set(found)) == len(found)


def one_of(text: str, *, options: list[str]) -> bool:
    """Is one of the options and nothing else; case, outer marks and a final stop do not count."""
    return _bare(text) in {_bare(option) for option in options}


def repeats_prompt(text: str, *, prompt: str) -> bool:
    """Repeats the prompt first, white space aside, and then goes on."""
    said, asked = "".join(text.split()), "".join(prompt.split())
    return said.startswith(asked) and len(said) > len(asked)


def language_is(text: str, *, language: LanguageCode) -> bool:
    """Is in the language, by ISO 639-1 code, except for code, quotations and at most a share of 0.15 of the words."""
    return is_in_language(text, language)


def _keyword_pattern(keyword: str) -> re.Pattern[str]:
    keyword = keyword.strip().casefold()
    before = rf"(?<!{_WORD_CHARACTER})" if re.match(_WORD_CHARACTER, keyword) else ""
    after = rf"(?!{_WORD_CHARACTER})" if re.match(_WORD_CHARACTER, keyword[-1]) else ""
    return re.compile(before + re.escape(keyword) + after)


def _bare(text: str) -> str:
    return text.strip().rstrip(_TERMINAL + _CLOSERS).lstrip(_OPENERS).casefold()


_COUNTS: Mapping[str, Count] = {
    "characters": characters,
    "words": num_words,
    "sentences": sentences,
    "paragraphs": paragraphs,
    "lines": num_lines,
    "unique_words": unique_words,
    "longest_sentence": longest_sentence,
    "longest_paragraph": longest_paragraph,
    "keyword": keyword,
    "letter": letter,
    "capital_words": capital_words,
    "emojis": emojis,
    "questions": questions,
    "exclamations": exclamations,
    **constraints_format.COUNTS,
    **constraints_code.COUNTS,
}
_CHECKS: tuple[Check, ...] = (
    keywords_present,
    keywords_absent,
    keywords_in_order,
    uppercase,
    lowercase,
    title_case,
    no_commas,
    no_digits,
    no_punctuation,
    ends_with_punctuation,
    sentences_end_with,
    starts_with,
    ends_with,
    first_word,
    last_word,
    sentences_start_with,
    quoted,
    no_repeated_words,
    one_of,
    repeats_prompt,
    language_is,
    *constraints_format.CHECKS,
    *constraints_code.CHECKS,
)
CONSTRAINTS: Mapping[str, Check] = {
    **{name: bounded(count) for name, count in _COUNTS.items()},
    **{check.__name__: check for check in _CHECKS},
}
"""Every constraint by the name that the data give it, its type."""
