"""Scores groups with the rewards of a task, and keeps out of them whatever is not a score.

This is the one place where a reward's exceptions are caught. Left out on purpose: worker processes, deadlines and judges.
"""

import math
from collections import deque
from numbers import Real

from posttrain import plugins
from posttrain.errors import RunError, UserError
from posttrain.rewards.base import Abstain, Reward, Score
from posttrain.types import Episode, Group, Prompt

ENTRY_POINTS = "posttrain.rewards"
MIN_JUDGED = 20  # episodes before a share of failures means anything
WINDOW = 500  # the latest episodes only, so that an outage shows as soon late in a run as at its start


class RewardManager:
    """Fills in `scores`, `outcome` and `reward`; an episode without a score from every reward is failed, never a 0.

    weights: reward name -> weight in the sum; with weight 0 the score is recorded and the reward is without it.
    max_failure_fraction: a larger share of failures among the latest 500 episodes ends the run, once there were 20.
    Abstentions are counted, not limited. `num_scored`, `num_failed` and `num_abstained` count episodes since construction.
    """

    def __init__(self, weights: dict[str, float], max_failure_fraction: float = 0.1) -> None:
        if not weights:
            raise UserError(f"task.rewards is empty, expected a reward's name and weight; known: {', '.join(plugins.names(ENTRY_POINTS))}")
        self.weights = dict(weights)
        self.max_failure_fraction = max_failure_fraction
        self.num_scored = 0
        self.num_failed = 0
        self.num_abstained = 0
        self._rewards = {name: _construct(name) for name in weights}
        self._latest_failed: deque[bool] = deque(maxlen=WINDOW)
        self._last_failure = ""
        self._last_error: Exception | None = None

    def score(self, group: Group) -> None:
        """Scores the group's episodes; one that has failed already is left as it is.

        Raises RunError: too many failures. UserError: a reward found something that the user has to mend.
        """
        for episode in group.episodes:
            if episode.status != "failed":
                self._score(group.prompt, episode)
                self._check_failures()

    def _score(self, prompt: Prompt, episode: Episode) -> None:
        scores: dict[str, float] = {}
        for name, reward in self._rewards.items():
            judgement = _judge(reward, prompt, episode)
            if isinstance(judgement, float):
                scores[name] = judgement
                continue
            self._leave_out(episode, name, judgement)
            return
        episode.scores = scores
        episode.outcome = episode.reward = math.fsum(self.weights[name] * score for name, score in scores.items())
        self.num_scored += 1
        self._latest_failed.append(False)

    def _leave_out(self, episode: Episode, name: str, why: Abstain | Exception) -> None:
        episode.status = "failed"
        self._latest_failed.append(not isinstance(why, Abstain))
        if isinstance(why, Abstain):
            self.num_abstained += 1
            episode.failure = f"reward {name} abstained: {why.reason}"
            return
        self.num_failed += 1
        self._last_error = why
        self._last_failure = episode.failure = f"reward {name}: {type(why).__name__}: {' '.join(str(why).split())}"

    def _check_failures(self) -> None:
        num_judged, num_failed = len(self._latest_failed), sum(self._latest_failed)
        if num_judged >= MIN_JUDGED and num_failed > self.max_failure_fraction * num_judged:
            raise RunError(
                f"rewards failed on {num_failed} of the latest {num_judged} episodes, more than {self.max_failure_fraction:.0%} "
                f"(since the start: {self.num_scored} scored, {self.num_abstained} abstained, {self.num_failed} failed); "
                f"the last failure: {self._last_failure}"
            ) from self._last_error


def _judge(reward: Reward, prompt: Prompt, episode: Episode) -> float | Abstain | Exception:
    try:
        judgement = reward.score(prompt, episode)
        return judgement if isinstance(judgement, Abstain) else _number(judgement)
    except UserError:
        raise
    except Exception as error:  # somebody else's code on the policy's text: anything can happen, and one episode is not the run
        return error


def _number(judgement: object) -> float:
    value = judgement.value if isinstance(judgement, Score) else judgement
    if not isinstance(value, Real):
        raise TypeError(f"the score is {value!r}, expected a number, a Score or an Abstain")
    if not math.isfinite(value):
        raise ValueError(f"the score is {value}, expected a finite number")
    return float(value)


def _construct(name: str) -> Reward:
    plugin = plugins.load(ENTRY_POINTS, name)
    if not (isinstance(plugin, type) and issubclass(plugin, Reward)):
        raise UserError(f"{plugins.describe(ENTRY_POINTS, name)} is not a subclass of posttrain.rewards.base.Reward")
    try:
        return plugin()
    except Exception as error:  # as in plugins.load: a plug-in that cannot start is its author's to mend
        raise UserError(f"{plugins.describe(ENTRY_POINTS, name)} cannot be constructed: {type(error).__name__}: {error}") from error
