"""A reward in a package of its own: one class here, one entry point in setup.cfg."""

from itertools import pairwise

from posttrain.rewards.base import Reward, Score
from posttrain.types import Episode, Prompt

ENOUGH = 15


class VowelPairs(Reward):
    """How many different pairs of neighbouring vowels an answer has, as a share of 15; more than that is 1.

    A model with random weights scores a little above 0, so it can learn from nothing, and writing the same thing again
    earns nothing.
    """

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """Never fails: any text has a number of pairs."""
        pairs = {first + second for first, second in pairwise(episode.text.lower()) if {first, second} <= set("aeiou")}
        return Score(min(1.0, len(pairs) / ENOUGH), {"pairs": sorted(pairs)})
