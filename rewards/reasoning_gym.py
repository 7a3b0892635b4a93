"""The reward `reasoning_gym`: a family of the reasoning-gym package judges with its own scorer.

It reads `prompt.metadata` as `posttrain.data.sources` fills it: {"dataset": the family, "params": its parameters,
"entry": what the family drew}. The package is imported at the first score (two seconds).

Left out on purpose: families that evaluate the answer as Python in full generality. Others do so for lists and sums; they get
to see an answer only when it is written in the letters of such a thing, because what the policy wrote is not to be trusted.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from posttrain.errors import UserError
from posttrain.rewards.base import Reward, answer_text
from posttrain.types import Episode, Prompt

Scorer = Callable[[str, dict[str, Any]], float]

# No lower case: no keyword, no built-in. No parenthesis after a name, no dot: no call, no attribute.
_LITERAL = re.compile(r"(?:[A-Z0-9_\s\[\],'\"]|-(?=\d))*")
# No power: the numbers stay as long as what was written.
_ARITHMETIC = re.compile(r"(?:[\d\s().+/-]|\*(?!\*))*")
_EVALUATED = {
    **dict.fromkeys(("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), _LITERAL),
    **dict.fromkeys(("countdown", "puzzle24"), _ARITHMETIC),
}
_REFUSED = ("intermediate_integration", "polynomial_multiplication", "simple_integration")


class ReasoningGym(Reward):
    """The family's score of the answer, from 0.0 to 1.0; many families give a part for an answer that is nearly right."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """Scores the text after any thinking; an answer that the family's scorer stumbles over scores 0.0.

        Raises UserError: the prompt is of another source, or its family evaluates answers as Python. KeyError, ValueError and
        so on: the scorer stumbles over the family's own answer too, so that the entry is broken.
        """
        if "entry" not in prompt.metadata:
            raise UserError(f"the reward reasoning_gym needs prompts of task.source=reasoning_gym, got {prompt.id}")
        family, entry = prompt.metadata["dataset"], prompt.metadata["entry"]
        if family in _REFUSED:
            raise UserError(f"the reward reasoning_gym does not judge {family}: its scorer would run what the policy wrote as Python")
        answer = answer_text(episode)
        if family in _EVALUATED and not _EVALUATED[family].fullmatch(answer):
            return 0.0
        scorer = _scorer(family, json.dumps(prompt.metadata["params"], sort_keys=True))
        try:
            return scorer(answer, entry)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            scorer(entry["answer"], entry)  # raises when it is not the policy's answer that is at fault
            return 0.0


@cache
def _scorer(family: str, params: str) -> Scorer:
    """The scorer of a family with its parameters as JSON (some families' scorers read them)."""
    import reasoning_gym

    scorer: Scorer = reasoning_gym.create_dataset(family, seed=0, **json.loads(params)).score_answer
    return scorer
