"""The steps `final_answer` and `response_score`: what an installed reward says of a row's response.

Both score with a reward in the processes that score a run's episodes; they differ in what the number means. A row whose response
the reward cannot score (it abstains, or fails on that row) is not a row with a bad response: what becomes of it is `unscored`.
A judge reward asks the judge that the POSTTRAIN_JUDGE_ variables name, and its answers are cached.

Rows without a response stay. Left out on purpose: what the rewards compute.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from posttrain import plugins
from posttrain.config import RewardsConfig
from posttrain.curate.base import Bench, Drop, Outcome, Step, require, sift
from posttrain.curate.rows import Row
from posttrain.rewards.manager import RewardManager
from posttrain.rewards.process import ENTRY_POINTS as REWARDS
from posttrain.types import Episode

JUDGES = ("JUDGE", "GUARD")


@dataclass
class Scored(Step):
    """What the steps have in common that score responses with a reward."""

    UNKEYED: ClassVar[tuple[str, ...]] = ("num_processes", "timeout_s", "max_failure_fraction")
    REASON: ClassVar[str] = "low score"

    reward: str = "judge_rubric"  # an installed reward, see python -m posttrain.rewards list
    minimum: float = 0.5  # a response that scores less goes
    unscored: str = "drop"  # what becomes of a row that the reward cannot score: drop or keep
    num_processes: int = 4  # processes that score
    timeout_s: float = 30.0  # one response; a process that takes longer is killed
    max_failure_fraction: float = 0.1  # a larger share of failures among the latest 500 rows ends the curation

    def validate(self) -> None:
        """The reward is installed."""
        plugins.describe(REWARDS, self.reward)
        require("unscored", self.unscored, self.unscored in ("drop", "keep"), "drop or keep")
        for name in ("num_processes", "timeout_s"):
            require(name, vars(self)[name], vars(self)[name] > 0, "a number above 0")

    def depends_on(self, bench: Bench) -> dict[str, str]:
        """The reward's distribution, and the judge's name where it asks one."""
        return fingerprints({self.reward: 1.0})

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Every scored row gets `scores.<reward>`; one that cannot be scored has the reason `not scored`."""
        settings = RewardsConfig(
            num_processes=self.num_processes, timeout_s=self.timeout_s, retries=1, max_failure_fraction=self.max_failure_fraction
        )
        episodes: dict[str, Episode] = {}
        with RewardManager({self.reward: 1.0}, settings) as manager:
            for row in rows:
                group = row.group()
                manager.submit(group)
                if group.episodes:
                    episodes[row.where] = group.episodes[0]
            manager.finish()
        outcome = sift(rows, lambda row: self._look(row, episodes.get(row.where)))
        values = [episode.scores[self.reward] for episode in episodes.values() if episode.scores]
        outcome.counts["rows without a response"] = len(rows) - len(episodes)
        outcome.counts["rows not scored"] = len(episodes) - len(values)
        outcome.counts["mean score"] = round(sum(values) / max(1, len(values)), 6)
        return outcome

    def _look(self, row: Row, episode: Episode | None) -> Row | Drop:
        if episode is None:
            return row
        if not episode.scores:
            return row if self.unscored == "keep" else Drop("not scored", episode.failure or "")
        value = episode.scores[self.reward]
        if value < self.minimum:
            return Drop(self.REASON, f"{self.reward} {value:g}")
        return row.having(scores={**row.data.get("scores", {}), self.reward: value})


@dataclass
class ResponseScore(Scored):
    """Rows whose response a judge, or any other reward, scores below a minimum go."""


@dataclass
class FinalAnswer(Scored):
    """Rows whose response comes to another answer than the row's go."""

    REASON: ClassVar[str] = "wrong answer"

    reward: str = "math"  # the reward that compares the final answer with the reference
    minimum: float = 1.0  # a response that scores less is wrong


def fingerprints(rewards: Mapping[str, float]) -> dict[str, str]:
    """Which code, and which judge, these rewards are; a judge is known by its model's name, not by its address."""
    found = {name: plugins.describe(REWARDS, name) for name in rewards}
    judges = {f"{role} model": os.environ.get(f"POSTTRAIN_{role}_MODEL", "") for role in JUDGES}
    return found | {name: model for name, model in judges.items() if model and any(map(_may_ask, rewards))}


def _may_ask(reward: str) -> bool:
    """Whether the model's name may matter to the reward: no reward of the toolkit asks unless its name says so."""
    return reward.startswith("judge") or reward == "safety" or "posttrain.rewards." not in plugins.describe(REWARDS, reward)
