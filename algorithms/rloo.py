"""RLOO: REINFORCE with a leave-one-out baseline (arXiv 2402.14740)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.algorithms.base import PolicyGradientConfig

if TYPE_CHECKING:
    from posttrain.algorithms.losses import Objective


@dataclass
class RlooConfig(PolicyGradientConfig):
    """The paper's settings: an episode is one action, so its tokens' log-probabilities are summed; one step a rollout batch."""

    name: str = "rloo"
    advantage: str = "leave_one_out"  # the reward minus the mean of the group's other episodes
    normalization: str = "sequence_sum"  # the sum over an episode's tokens, then the mean over episodes

    def loss(self) -> "Objective":
        """REINFORCE on whole episodes."""
        from posttrain.algorithms import losses

        return losses.reinforce
