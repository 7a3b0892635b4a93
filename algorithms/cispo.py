"""CISPO: clipped importance-sampling weights (MiniMax-M1, arXiv 2506.13585)."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from posttrain.algorithms.base import PolicyGradientConfig

if TYPE_CHECKING:
    from posttrain.algorithms.losses import Objective


@dataclass
class CispoConfig(PolicyGradientConfig):
    """No KL term, every token of the batch alike. The paper leaves the cap open; 5 is what ScaleRL (2510.13786) settled on."""

    name: str = "cispo"
    normalization: str = "token_mean"  # every token of the batch weighs the same
    ratio_cap: float = 5.0  # largest weight of a token; its gradient stays

    def loss(self) -> "Objective":
        """The capped weight times the log-probability."""
        from posttrain.algorithms import losses

        return partial(losses.cispo, ratio_cap=self.ratio_cap)

    def validate(self) -> None:
        """Raises UserError for a cap that is not positive."""
        super().validate()
        self.check("ratio_cap", self.ratio_cap > 0, "a positive number")
