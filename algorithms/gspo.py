"""GSPO: Group Sequence Policy Optimization (arXiv 2507.18071)."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from posttrain.algorithms.grpo import GrpoConfig

if TYPE_CHECKING:
    from posttrain.algorithms.losses import Objective


@dataclass
class GspoConfig(GrpoConfig):
    """The paper's settings: one ratio an episode, clipped within ten-thousandths, no KL penalty."""

    name: str = "gspo"
    kl_coefficient: float = 0.0  # weight of k3 to the model as it was at the start; above 0 a frozen copy is loaded
    clip_low: float = 3e-4  # the episode's ratio has no gradient below 1 - clip_low where the advantage is negative
    clip_high: float = 4e-4  # nor above 1 + clip_high where it is positive

    def loss(self) -> "Objective":
        """The clipped ratio of the whole episode."""
        from posttrain.algorithms import losses

        return partial(losses.gspo, clip_low=self.clip_low, clip_high=self.clip_high)
