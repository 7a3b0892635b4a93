"""SAPO: Soft Adaptive Policy Optimization (arXiv 2511.20347), the default algorithm."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from posttrain.algorithms.base import PolicyGradientConfig

if TYPE_CHECKING:
    from posttrain.algorithms.losses import Objective


@dataclass
class SapoConfig(PolicyGradientConfig):
    """The paper's settings: no KL term, and a slightly steeper gate for negative advantages."""

    name: str = "sapo"
    tau_pos: float = 1.0  # steepness of the gate where the advantage is positive
    tau_neg: float = 1.05  # and where it is not

    def loss(self) -> "Objective":
        """The soft gate."""
        from posttrain.algorithms import losses

        return partial(losses.sapo, tau_pos=self.tau_pos, tau_neg=self.tau_neg)

    def validate(self) -> None:
        """Raises UserError for a temperature of the gate that is not positive."""
        super().validate()
        self.check("tau_pos", self.tau_pos > 0, "a positive number")
        self.check("tau_neg", self.tau_neg > 0, "a positive number")
