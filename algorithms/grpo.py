"""GRPO: Group Relative Policy Optimization (arXiv 2402.03300)."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from posttrain.algorithms.base import PolicyGradientConfig

if TYPE_CHECKING:
    from posttrain.algorithms.losses import Objective


@dataclass
class GrpoConfig(PolicyGradientConfig):
    """The paper's settings: PPO's clip at 0.2 and a KL penalty of 0.04. Its group of 64 is left to the machine."""

    name: str = "grpo"
    kl_coefficient: float = 0.04  # weight of k3 to the model as it was at the start; above 0 a frozen copy is loaded
    clip_low: float = 0.2  # the ratio has no gradient below 1 - clip_low where the advantage is negative
    clip_high: float = 0.2  # nor above 1 + clip_high where it is positive

    def loss(self) -> "Objective":
        """The clipped surrogate."""
        from posttrain.algorithms import losses

        return partial(losses.clipped, clip_low=self.clip_low, clip_high=self.clip_high)

    def validate(self) -> None:
        """Raises UserError for a bound that clips nothing or everything."""
        super().validate()
        self.check("clip_low", 0 < self.clip_low <= 1, "a number above 0 and at most 1")
        self.check("clip_high", self.clip_high > 0, "a positive number")
