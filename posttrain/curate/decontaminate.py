"""The step `decontaminate`: rows that hold a question of an evaluation set go.

Words are compared in lower case and without punctuation. A row is contaminated when it has a run of `ngram_words` (13, after
Brown et al. 2020, appendix C) words in common with an evaluation question. Where a question has fewer words than that, or is
written without blanks (Chinese, Japanese), characters serve: the row holds at least `share` of its runs of `ngram_characters`
characters. A question shorter than even that has to be the row's whole question.

A run of words that stands in more than `template_share` of an evaluation set's questions (and in three at least) is its template,
and proves nothing. Looked at are the row's questions and, unless `responses` is false, its response. Left out on purpose: answers of
the evaluation sets (a number is in half of all texts), pictures, and translations or paraphrases.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from posttrain.curate.base import Bench, Drop, Outcome, Step, require, sift
from posttrain.curate.rows import Row, compact, read
from posttrain.errors import UserError
from posttrain.rewards.texts import CJK, words

_CJK = re.compile(f"[{CJK}]")
MIN_TEMPLATE = 3


@dataclass
class Decontaminate(Step):
    """Rows that hold a question of an evaluation set go."""

    against: list[str] = field(default_factory=list)  # .jsonl or .parquet files of evaluation rows
    ngram_words: int = 13  # words in a row that two texts must not have in common
    ngram_characters: int = 10  # characters in a row, for short questions and those without blanks
    share: float = 0.9  # of a short question's runs of characters that a row must not hold
    template_share: float = 0.1  # a run of words in more of an evaluation set's questions is their template
    responses: bool = True  # look at responses too

    def validate(self) -> None:
        """There is something to compare with, and shares are shares."""
        require("against", self.against, bool(self.against), "at least one .jsonl or .parquet file")
        for name in ("ngram_words", "ngram_characters"):
            require(name, vars(self)[name], vars(self)[name] > 0, "a number above 0")
        for name in ("share", "template_share"):
            require(name, vars(self)[name], 0 < vars(self)[name] <= 1, "a number above 0 and at most 1")

    def depends_on(self, bench: Bench) -> dict[str, str]:
        """The evaluation files' content."""
        for name in self.against:
            if not bench.path(name).is_file():
                raise UserError(f"against={name}: there is no such file as {bench.path(name)}")
        return {name: hashlib.sha256(bench.path(name).read_bytes()).hexdigest() for name in self.against}

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Reason: contaminated, with the evaluation row and what is common."""
        index = _Index(self)
        for name in self.against:
            index.add([*read(bench.path(name), name)])

        def look(row: Row) -> Row | Drop:
            found = index.find(row.question_text) or (index.find(row.response or "") if self.responses else "")
            return Drop("contaminated", found) if found else row

        outcome = sift(rows, look)
        outcome.counts["evaluation questions"] = index.num_questions
        outcome.counts["runs of words left out as templates"] = index.num_templates
        return outcome


class _Index:
    """The evaluation sets' questions, found by their runs of words or characters; runs are kept as they are, not as hashes."""

    def __init__(self, settings: Decontaminate) -> None:
        self.settings = settings
        self.num_questions = 0
        self.num_templates = 0
        self._by_words: dict[tuple[str, ...], str] = {}
        self._by_characters: dict[str, list[str]] = defaultdict(list)
        self._num_runs: dict[str, int] = {}
        self._whole: dict[str, str] = {}

    def add(self, rows: Sequence[Row]) -> None:
        """One evaluation set's rows."""
        texts = {row.where: row.question_text for row in rows}
        runs = {where: self._word_runs(text) for where, text in texts.items()}
        common = Counter(run for found in runs.values() for run in found)
        most = max(MIN_TEMPLATE - 1, self.settings.template_share * len(rows))
        templates = {run for run, count in common.items() if count > most}
        self.num_questions += len(rows)
        self.num_templates += len(templates)
        for where, text in texts.items():
            for run in runs[where] - templates:
                self._by_words.setdefault(run, where)
            # Also where all that it has is a template: then its characters are what tells it apart.
            if not runs[where] - templates:
                self._add_characters(where, compact(text))

    def find(self, text: str) -> str:
        """The first evaluation question found in a text and what is common, "" for none."""
        for run in _runs(_plain_words(text), self.settings.ngram_words):
            if run in self._by_words:
                return f"{self._by_words[run]}: {' '.join(run)}"
        held = compact(text)
        if held in self._whole:
            return f"{self._whole[held]}: the whole question"
        counts = Counter(where for run in set(self._character_runs(held)) for where in self._by_characters.get(run, ()))
        share, where = max(((count / self._num_runs[where], where) for where, count in counts.items()), default=(0.0, ""))
        return f"{where}: {share:.0%} of its characters" if share >= self.settings.share else ""

    def _add_characters(self, where: str, text: str) -> None:
        runs = set(self._character_runs(text))
        if not runs and text:
            self._whole.setdefault(text, where)
        self._num_runs[where] = len(runs)
        for run in runs:
            self._by_characters[run].append(where)

    def _word_runs(self, text: str) -> set[tuple[str, ...]]:
        found = _plain_words(text)
        if 2 * sum(map(bool, map(_CJK.match, found))) > len(found):
            return set()
        return set(_runs(found, self.settings.ngram_words))

    def _character_runs(self, text: str) -> Iterable[str]:
        n = self.settings.ngram_characters
        return (text[start : start + n] for start in range(len(text) - n + 1))


def _plain_words(text: str) -> list[str]:
    return words(text.lower())


def _runs(found: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(found[start : start + n]) for start in range(len(found) - n + 1))
