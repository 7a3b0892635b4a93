"""The reward `thinking_length`: whether the thinking is as long as the prompt's data asks for.

    low <= length <= high     1
    length < low              (length - low/2) / (low/2), at least 0: 0 at half the low bound
    length > high             (2 high - length) / high, at least 0: 0 at twice the high bound

Lengths are words, a Chinese character or a kana being one. Left out on purpose: tokens, of which a reward sees only the sum of
thinking and answer, and a bound that depends on how hard the prompt turned out to be.
"""

import math
from typing import Any

from posttrain.rewards.base import Reward, Score
from posttrain.rewards.texts import thinking_text, words
from posttrain.types import Episode, Prompt


class ThinkingLength(Reward):
    """1.0 for thinking of a length within `prompt.metadata["thinking_words"]` = [low, high], falling linearly to 0.0 outside."""

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """Counts the words before the last `</think>` of the last turn; a thought never closed counts as far as it goes.

        An episode without thinking has the length 0. Raises ValueError: the metadata have no bounds, or no such bounds.
        """
        low, high = _bounds(prompt.metadata.get("thinking_words"))
        length = len(words(thinking_text(episode.text)))
        return Score(length_score(length, low, high), {"thinking_words": length, "bounds": [low, high]})


def length_score(length: float, low: float, high: float) -> float:
    """The trapezoid of the module's formula, in [0, 1], for 0 <= low <= high; all in words.

    Degenerate: low = 0 asks for nothing, so length 0 scores 1; high = 0 asks for none, so any thinking scores 0.
    """
    if length < low:
        return max(0.0, (length - low / 2) / (low / 2))
    if length > high:
        return max(0.0, (2 * high - length) / high) if high else 0.0
    return 1.0


def _bounds(value: Any) -> tuple[float, float]:
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(bound, int | float) for bound in value)
    low, high = value if is_pair else (math.nan, math.nan)
    if not 0 <= low <= high < math.inf:  # false for nan too
        raise ValueError(f"metadata.thinking_words is {value!r}, expected [low, high] in words with 0 <= low <= high")
    return low, high
