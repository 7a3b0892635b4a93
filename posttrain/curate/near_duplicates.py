"""The step `near_duplicates`: of rows that say almost the same, one stands.

Texts are compared by the Jaccard similarity of their shingles: runs of words, or of characters where a text is short or written
without blanks. MinHash proposes pairs (`minhash.py`), and each proposed pair is then compared exactly, so what is dropped is
truly that similar to a row that is kept; about one pair in a hundred exactly at the threshold is not found.

The longest text of those alike stands, and between equally long ones the content decides, so that the order of the rows does
not. A row goes only if it is like one that is kept: a chain from one text over small steps to quite another is not dropped whole.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.curate.base import Bench, Drop, Outcome, Step, require, sift
from posttrain.curate.minhash import Shingles, bands, jaccard, shingles, signature
from posttrain.curate.rows import Row, compact
from posttrain.rewards.texts import CJK, words

_CJK = re.compile(f"[{CJK}]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass
class NearDuplicates(Step):
    """Of rows whose texts are almost the same, the longest stands."""

    threshold: float = 0.8  # Jaccard similarity of two texts' shingles from which on they are alike
    by: str = "question"  # question, or all: question and response together
    ngram_words: int = 3  # words in a shingle
    ngram_characters: int = 5  # characters in a shingle, where words do not serve: short texts, Chinese, Japanese
    short_words: int = 20  # a text of fewer words is short
    same_task: bool = False  # only rows of the same task are compared
    same_numbers: bool = True  # texts whose numbers differ are not alike: they ask for different answers

    def validate(self) -> None:
        """Numbers above 0, and a threshold that is a share."""
        require("threshold", self.threshold, 0 < self.threshold <= 1, "a number above 0 and at most 1")
        require("by", self.by, self.by in ("question", "all"), "question or all")
        for name in ("ngram_words", "ngram_characters"):
            require(name, vars(self)[name], vars(self)[name] > 0, "a number above 0")

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Reason: near duplicate, of a row that is kept, with their similarity."""
        texts = [self._text(row) for row in rows]
        sets = [self._shingles(text) for text in texts]
        order = sorted(range(len(rows)), key=lambda i: (-len(texts[i]), texts[i], rows[i].content_hash, i))
        standing: dict[object, list[int]] = defaultdict(list)
        drops: dict[str, Drop] = {}
        for index in order:
            kind = self._kind(rows[index], texts[index])
            places = [(band, kind) for band in bands(signature(sets[index], bench.seed), self.threshold)]
            likely = sorted({other for place in places for other in standing[place]})
            nearest, kept = max(((jaccard(sets[index], sets[other]), rows[other].where) for other in likely), default=(0.0, ""))
            if nearest >= self.threshold:
                drops[rows[index].where] = Drop("near duplicate", f"of {kept}, similarity {nearest:.2f}")
                continue
            for place in places:
                standing[place].append(index)
        return sift(rows, lambda row: drops.get(row.where, row))

    def _kind(self, row: Row, text: str) -> object:
        """What rows that are alike have in common, however similar their texts are; pictures are compared by their names."""
        numbers = tuple(_NUMBER.findall(text)) if self.same_numbers else ()
        return row.task if self.same_task else "", numbers, row.pictures

    def _text(self, row: Row) -> str:
        return f"{row.question_text}\n{row.response or ''}" if self.by == "all" else row.question_text

    def _shingles(self, text: str) -> Shingles:
        found = words(text.lower())
        if len(found) < self.short_words or 2 * sum(map(bool, map(_CJK.match, found))) > len(found):
            return shingles(compact(text), self.ngram_characters)
        return shingles(found, self.ngram_words)
