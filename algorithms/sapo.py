"""SAPO: Soft Adaptive Policy Optimization (arXiv 2511.20347), the default algorithm."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from posttrain.algorithms.base import PolicyGradientConfig
from posttrain.errors import UserError

if TYPE_CHECKING:
    from posttrain.algorithms.losses import Objective
    from posttrain.packing import Normalization


@dataclass
class SapoConfig(PolicyGradientConfig):
    """The paper's settings: no KL term, and a slightly steeper gate for negative advantages."""

    name: str = "sapo"
    tau_pos: float = 1.0  # steepness of the gate where the advantage is positive
    tau_neg: float = 1.05  # and where it is not

    def objective(self) -> "Objective":
        """The soft gate, times token TIS."""
        from posttrain.algorithms import losses

        gate = partial(losses.sapo, tau_pos=self.tau_pos, tau_neg=self.tau_neg)
        return losses.Corrected(gate, partial(losses.token_tis, cap=self.tis_cap))

    def advantages(self, rewards: Sequence[float]) -> Sequence[float]:
        """Group mean and standard deviation."""
        from posttrain.algorithms.advantages import group_normalized

        return [float(advantage) for advantage in group_normalized(rewards)]

    def normalization(self) -> "Normalization":
        """Mean over the tokens of a sequence, then over sequences."""
        return "sequence_mean"

    def validate(self) -> None:
        """Raises UserError for a temperature of the gate that is not positive."""
        super().validate()
        for key, value in {"tau_pos": self.tau_pos, "tau_neg": self.tau_neg}.items():
            if not value > 0:
                raise UserError(f"algo.{key}={value}: expected a positive number")
