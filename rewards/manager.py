"""Scores groups with the rewards of a task while others are still being sampled, and keeps out of them whatever is not a score.

Rewards run in processes of their own (`posttrain.rewards.pool`); here their judgements become an episode's scores and reward,
or its failure. Left out on purpose: what a reward computes, and judges' endpoints.
"""

import json
import math
from collections import Counter, deque
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from posttrain import plugins
from posttrain.config import RewardsConfig
from posttrain.errors import RunError, UserError
from posttrain.lanes import Failure
from posttrain.rewards.base import Abstain, Judgement, Score
from posttrain.rewards.pool import Judged, ScoringPool
from posttrain.rewards.process import ENTRY_POINTS
from posttrain.types import Episode, Group, Prompt

MIN_JUDGED = 20  # episodes before a share of failures means anything
COUNTED = ("scored", "abstained", "error", "timeout", "crash", "retried")
WINDOW = 500  # the latest episodes only, so that an outage shows as soon late in a run as at its start


class RewardManager:
    """Fills in `scores`, `details`, `outcome` and `reward`; an episode without a score from every reward is failed, never a 0.

    weights: reward name -> weight in the sum; with weight 0 the score is recorded and the reward is without it.
    A share of failures above `max_failure_fraction` among the latest 500 episodes ends the run, once there were 20.
    Abstentions are counted, not limited. counts: episodes since construction, by what became of them (`COUNTED`).
    """

    def __init__(self, weights: dict[str, float], settings: RewardsConfig | None = None) -> None:
        """Starts a first process, which shows that the rewards can be constructed.

        Raises UserError: one is unknown or broken.
        """
        if not weights:
            raise UserError(f"task.rewards is empty, expected a reward's name and weight; known: {', '.join(plugins.names(ENTRY_POINTS))}")
        self.weights = dict(weights)
        self.settings = settings or RewardsConfig()
        self.counts: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._under_way: list[tuple[Prompt, Episode, Future[dict[str, Judged]]]] = []
        self._latest_failed: deque[bool] = deque(maxlen=WINDOW)
        self._last_failure = ""
        for name in weights:
            plugins.describe(ENTRY_POINTS, name)
        self._pool = ScoringPool(
            list(weights),
            num_processes=self.settings.num_processes,
            timeout_s=self.settings.timeout_s,
            memory_gb=self.settings.memory_gb,
        )

    def __enter__(self) -> Self:
        """Nothing more to start."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Kills the processes."""
        self.close()

    def close(self) -> None:
        """Kills the processes."""
        self._pool.close()

    def score(self, group: Group) -> None:
        """Scores the group's episodes and waits for it; raises as `finish` does."""
        self.submit(group)
        self.finish()

    def submit(self, group: Group) -> None:
        """Begins to score the group's episodes; those that have failed already are left as they are."""
        for episode in group.episodes:
            if episode.status != "failed":
                self._under_way.append((group.prompt, episode, self._pool.submit(group.prompt, episode)))

    def finish(self) -> None:
        """Waits for everything submitted, and judges in that order.

        Raises RunError: too many failures. UserError: a reward found something that the user has to mend.
        """
        under_way, self._under_way = self._under_way, []
        judged = [self._use(future.result()) for _, _, future in under_way]
        for _ in range(self.settings.retries):
            failed = [i for i, judgements in enumerate(judged) if any(isinstance(one, Failure) for one in judgements.values())]
            self.counts["retried"] += len(failed)
            futures = [self._pool.submit(*under_way[i][:2]) for i in failed]
            for i, future in zip(failed, futures, strict=True):
                judged[i] = self._use(future.result())
        for (_, episode, _), judgements in zip(under_way, judged, strict=True):
            self._settle(episode, judgements)
            self._check_failures()

    def take_counts(self) -> Counter[str]:
        """Counts since the last time, and as <reward>/<what> its seconds of work and what else it counts."""
        total = self.counts + self.usage
        new = total - self._taken
        self._taken = total
        return new

    def _use(self, judged: dict[str, Judged]) -> dict[str, Judgement]:
        for name, (_, usage) in judged.items():
            self.usage.update({f"{name}/{key}": value for key, value in usage.items()})
        return {name: judgement for name, (judgement, _) in judged.items()}

    def _settle(self, episode: Episode, judgements: dict[str, Judgement]) -> None:
        scores = {name: judgement for name, judgement in judgements.items() if isinstance(judgement, Score)}
        if len(scores) < len(self.weights):
            name = next(name for name in judgements if name not in scores)
            self._leave_out(episode, name, judgements[name])
            return
        episode.scores = {name: score.value for name, score in scores.items()}
        episode.weights = dict(self.weights)
        episode.details = {name: json.dumps(score.details, ensure_ascii=False) for name, score in scores.items() if score.details}
        episode.outcome = episode.reward = math.fsum(self.weights[name] * score.value for name, score in scores.items())
        self.counts["scored"] += 1
        self._latest_failed.append(False)

    def _leave_out(self, episode: Episode, name: str, why: Judgement) -> None:
        episode.status = "failed"
        self._latest_failed.append(isinstance(why, Failure))
        if isinstance(why, Abstain):
            self.counts["abstained"] += 1
            episode.failure = f"reward {name} abstained: {why.reason}"
            return
        assert isinstance(why, Failure)
        if why.is_mistake:
            raise UserError(why.reason)
        self.counts[why.kind] += 1
        self._last_failure = episode.failure = f"reward {name}: {why.reason}"

    def _check_failures(self) -> None:
        num_judged, num_failed = len(self._latest_failed), sum(self._latest_failed)
        if num_judged < MIN_JUDGED or num_failed <= self.settings.max_failure_fraction * num_judged:
            return
        failures = sum(self.counts[kind] for kind in ("error", "timeout", "crash"))
        raise RunError(
            f"rewards failed on {num_failed} of the latest {num_judged} episodes, more than {self.settings.max_failure_fraction:.0%} "
            f"(since the start: {self.counts['scored']} scored, {self.counts['abstained']} abstained, {failures} failed); "
            f"the last failure: {self._last_failure}"
        )
