"""The reward `exact`: the answer is the reference, word for word."""

from posttrain.rewards.base import Reward, answer_text
from posttrain.types import Episode, Prompt


class Exact(Reward):
    """1.0 when the answer equals `str(reference)`, 0.0 otherwise; runs of white space count as one space on both sides."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """Compares the text after any thinking; an empty reference matches an empty answer."""
        return float(answer_text(episode).split() == str(prompt.reference).split())
