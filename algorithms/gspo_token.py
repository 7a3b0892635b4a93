"""GSPO-token (arXiv 2507.18071): GSPO for advantages that differ inside an episode."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from posttrain.algorithms.gspo import GspoConfig

if TYPE_CHECKING:
    from posttrain.algorithms.losses import Objective


@dataclass
class GspoTokenConfig(GspoConfig):
    """GSPO's settings."""

    name: str = "gspo_token"

    def loss(self) -> "Objective":
        """The clipped ratio of the whole episode, with each token's own gradient."""
        from posttrain.algorithms import losses

        return partial(losses.gspo_token, clip_low=self.clip_low, clip_high=self.clip_high)
