"""The reward `repetition`: minus the share of an episode's word sequences that it had written before.

    rate = 1 - unique n-grams / all n-grams        n = 4 words, lower case, a Chinese character or a kana being a word
    reward = -rate                                 0 (nothing repeated) down to almost -1 (one phrase over and over)

With n = 3, any long text repeats itself a little; 4 is this module's choice. It is a penalty already: give it a positive weight.
Left out on purpose: a length below which repetition is free, and any difference between prose, tables and code; a table of
equal cells counts as repetition.
"""

from posttrain.rewards.base import Reward, Score
from posttrain.rewards.texts import words
from posttrain.types import Episode, Prompt

NGRAM_WORDS = 4


class Repetition(Reward):
    """Minus the share of repeated 4-grams of words in what the last turn wrote, thinking included; from -1 (excluded) to 0."""

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """Scores all of the last turn, since a policy that loops does so in its thinking first; fewer than 4 words score 0.0."""
        rate = repetition_rate(episode.text, NGRAM_WORDS)
        return Score(0.0 - rate, {"repetition_rate": rate, "ngram_words": NGRAM_WORDS})


def repetition_rate(text: str, ngram_words: int) -> float:
    """1 - unique / total n-grams of `ngram_words` words, without regard to case: in [0, 1), and 0.0 where there is no n-gram.

    Raises ValueError for n-grams of less than one word.
    """
    if ngram_words < 1:
        raise ValueError(f"n-grams of {ngram_words} words, expected at least 1")
    sequence = words(text.lower())
    ngrams = list(zip(*(sequence[offset:] for offset in range(ngram_words)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
