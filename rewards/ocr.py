"""The reward `ocr`: the answer is the text of an image, and it is scored by its edit distance from the reference.

Left out on purpose: reading order and layout (a moved line costs what it costs), word error rates, case folding, and the
removal of quotation marks, code fences or remarks around the transcript: the prompt asks for the text alone.
"""

import unicodedata

from rapidfuzz.distance import Levenshtein

from posttrain.rewards.base import Reward, answer_text
from posttrain.types import Episode, Prompt


class Ocr(Reward):
    """One minus the normalised edit distance between answer and reference, white space removed from both."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """1 - Levenshtein(a, b) / max(|a|, |b|), in [0, 1], where |.| counts code points; 1.0 for equal texts alone.

        Both sides are NFKC normalised first, by choice: composed and decomposed accents, full-width forms and ligatures look
        alike in an image, and so do not tell readers apart; that a superscript 2 then equals a 2 is the price. White space
        goes after that. Degenerate cases: both empty 1.0, one of them empty 0.0. Raises ValueError: the reference is no text.
        """
        if not isinstance(prompt.reference, str):
            raise ValueError(f"the reference is {prompt.reference!r}, expected a text")
        answer, reference = glyphs(answer_text(episode)), glyphs(prompt.reference)
        longest = max(len(answer), len(reference))
        return 1 - Levenshtein.distance(answer, reference) / longest if longest else 1.0


def glyphs(text: str) -> str:
    """`text` in NFKC without any white space; an empty text stays empty."""
    # NFKC writes some accents as a space and a mark, so white space goes after it; what then meets its mark is composed by NFC.
    return unicodedata.normalize("NFC", "".join(unicodedata.normalize("NFKC", text).split()))
