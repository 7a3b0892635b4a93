"""Advantages: pure functions from the rewards of a rollout batch to one number an episode. Float64 throughout, no torch.

Each function takes the groups of a rollout batch and returns one array a group, over its `counted` episodes in order.
Equal rewards give exactly 0, never division noise, wherever they are compared.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.types import Group

Values = NDArray[np.float64]
Advantages = Callable[[Sequence[Group]], list[Values]]

STD_EPSILON = 1e-6
"""Added to a standard deviation."""
STD_FLOOR = 1e-2
"""Least standard deviation of a task's batch: a task that is nearly solved is not blown up."""


def group_normalized(groups: Sequence[Group]) -> list[Values]:
    """(R - mean) / (std + 1e-6) over a group, with the sample standard deviation (n - 1).

    Source: GRPO (arXiv 2402.03300, section 4.1.2), as SAPO, GSPO, DAPO and CISPO use it.
    """
    return [_normalized(_rewards(group)) for group in groups]


def group_centered(groups: Sequence[Group]) -> list[Values]:
    """R - mean over a group, without the division that favours easy and hard prompts (Dr.GRPO, arXiv 2503.20783)."""
    return [_centered(_rewards(group)) for group in groups]


def leave_one_out(groups: Sequence[Group]) -> list[Values]:
    """R minus the mean of the group's other episodes (RLOO, arXiv 2402.14740): G / (G - 1) times the centred reward."""
    return [_centered(_rewards(group)) * (group.num_counted / max(1, group.num_counted - 1)) for group in groups]


def whitened(groups: Sequence[Group]) -> list[Values]:
    """(R - mean) / (std + 1e-6) over the whole rollout batch (REINFORCE++, arXiv 2501.03262)."""
    return _split(_normalized(_joined([_rewards(group) for group in groups])), groups)


def task_normalized(groups: Sequence[Group]) -> list[Values]:
    """(R - group mean) / std over all rewards of the same task in the batch (QwenLong-L1.5, arXiv 2512.12967).

    The standard deviation is at least 0.01; a task with one episode gives 0.
    """
    pooled: dict[str, list[Values]] = defaultdict(list)
    for group in groups:
        pooled[group.prompt.task].append(_rewards(group))
    spreads = {task: max(STD_FLOOR, _std(_joined(rewards))) for task, rewards in pooled.items()}
    return [_centered(_rewards(group)) / spreads[group.prompt.task] for group in groups]


def per_reward_normalized(groups: Sequence[Group]) -> list[Values]:
    """GDPO (arXiv 2601.05242): each reward normalised inside its group, then their weighted sum whitened over the batch.

    Keeps apart what a sum of rewards would mix up: (1, 0) and (0, 1) differ although their sums do not. A score that the
    algorithm added, such as the length penalty, weighs 1.
    """
    sums = []
    for group in groups:
        weights = {name: episode.weights.get(name, 1.0) for episode in group.counted for name in episode.scores}
        total = np.zeros(group.num_counted)
        for name in sorted(weights):
            total += weights[name] * _normalized(np.array([episode.scores[name] for episode in group.counted], dtype=np.float64))
        sums.append(total)
    return _split(_normalized(_joined(sums)), groups)


@dataclass(slots=True)
class EntropyControl:
    """AEPO (QwenLong-L1.5, arXiv 2512.12967): keeps the policy's entropy in a band by leaving out negative advantages.

    Above `high` nats negative advantages are left out, below `low` they count again, in between nothing changes. Entropy is
    the mean over episodes of the mean over tokens, from the latest optimizer step.
    """

    low: float
    high: float
    is_active: bool = False

    def update(self, entropy: float) -> None:
        """Takes in the entropy of a step."""
        self.is_active = entropy > self.high or (self.is_active and entropy >= self.low)


def _rewards(group: Group) -> Values:
    return np.array([episode.reward for episode in group.counted], dtype=np.float64)


def _joined(parts: Sequence[Values]) -> Values:
    return np.concatenate([np.zeros(0), *parts])


def _split(values: Values, groups: Sequence[Group]) -> list[Values]:
    return np.split(values, np.cumsum([group.num_counted for group in groups])[:-1]) if groups else []


def _centered(values: Values) -> Values:
    if len(values) < 2 or np.all(values == values[0]):
        return np.zeros_like(values)
    return np.asarray(values - values.mean())


def _std(values: Values) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _normalized(values: Values) -> Values:
    return np.asarray(_centered(values) / (_std(values) + STD_EPSILON))
