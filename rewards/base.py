"""What a reward is: one method that looks at a prompt and an episode and says how good the episode is.

A judgement is one of three things, and they are never mixed up:

- **a score**: a finite number, plain or as a `Score` with details. A wrong answer is a score (0.0, usually).
- **an abstention**: `Abstain("...")`. The reward has no opinion: a judge that answered off-scale, a question without a key.
- **a failure**: any exception. Something is broken: data, a service, the reward itself.

An episode that any of its rewards abstained from or failed on leaves its group; it is never trained on as a 0. When failures
pass a set fraction the run stops. So raise on what is broken and return 0.0 for what the policy got wrong, and do not catch
what you cannot mend.

A reward of your own, in a package of your own:

    # my_rewards/brevity.py
    from posttrain.rewards.base import Abstain, Reward, answer_text
    from posttrain.types import Episode, Prompt

    class Brevity(Reward):
        \"\"\"1 for an answer of at most `word_limit` words (a field of the reference), 0 for a longer one.\"\"\"

        def score(self, prompt: Prompt, episode: Episode) -> float | Abstain:
            words = answer_text(episode).split()
            if not words:
                return Abstain("nothing was answered")
            return float(len(words) <= prompt.reference["word_limit"])  # KeyError, a failure, when the data has no limit

    # setup.cfg of my-rewards
    [options.entry_points]
    posttrain.rewards =
        brevity = my_rewards.brevity:Brevity

After `pip install`, `task.rewards={brevity: 0.5, numeric: 1.0}` uses it. A reward is constructed without arguments, once in each
scoring process, and scores that process's episodes one after another, in no order that it may rely on; what it keeps between
them is its own. `score` may be a coroutine function. One that takes longer than `rewards.timeout_s` on an episode, or whose
process dies, has failed on that episode.

A reward that mostly waits sets `concurrency`: so many episodes are then scored at a time, in threads of one process, which share
what becomes of it. One that is cheaper for many episodes than for each is a `posttrain.rewards.batched.BatchedReward`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from posttrain.lanes import Failure
from posttrain.types import Episode, Prompt


@dataclass(frozen=True, slots=True)
class Score:
    """A number with the reasons for it.

    details: what the number is made of; kept as JSON in the episode file. What JSON cannot say becomes its text.
    """

    value: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Abstain:
    """No opinion on this episode, and why."""

    reason: str


Judgement = Score | Abstain | Failure
"""Rewards raise; the `Failure` is what becomes of that."""


class Reward(ABC):
    """Scores episodes; a subclass is a plug-in under the entry-point group `posttrain.rewards`.

    concurrency: episodes that one object scores at a time; above 1, `score` is called by as many threads, and episodes get here
    only when all rewards that take one at a time have scored them.
    """

    concurrency: int = 1

    @abstractmethod
    def score(self, prompt: Prompt, episode: Episode) -> float | Score | Abstain:
        """Judges one episode, which may be truncated but has not failed; it is a copy.

        Raises whatever shows that something is broken; UserError where only the user can mend it (this ends the run).
        """

    def usage(self) -> Mapping[str, float]:
        """Running totals that a run should report beside the time, such as a judge's requests and tokens; none by default."""
        return {}


def answer_text(episode: Episode) -> str:
    """The episode's last text without its thinking: what follows the last `</think>`, stripped.

    A thought that was opened and never closed (a truncated episode) is no answer: what follows `<think>` is left out.
    """
    return episode.text.rpartition("</think>")[2].partition("<think>")[0].strip()
