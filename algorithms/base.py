"""What the policy-gradient algorithms share: their configuration and what each one has to say.

An algorithm is its keys, an objective, advantages and a normalisation; the loop (`policy_gradient.py`) asks for nothing
else. This file and the algorithms' files import torch only inside methods: configurations load without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.config import AlgoConfig, Config
from posttrain.errors import UserError

if TYPE_CHECKING:
    from posttrain.algorithms.losses import Objective
    from posttrain.packing import Normalization


@dataclass
class PolicyGradientConfig(AlgoConfig):
    """Keys of every algorithm that samples groups and follows the gradient of their rewards."""

    group_size: int = 8  # episodes a prompt
    tis_cap: float = 2.0  # token importance weight of learner over engine is cut here

    def objective(self) -> "Objective":
        """The loss of a token, correction for the engine/learner mismatch included; picklable."""
        raise NotImplementedError

    def advantages(self, rewards: Sequence[float]) -> Sequence[float]:
        """One advantage for each reward of a group."""
        raise NotImplementedError

    def normalization(self) -> "Normalization":
        """How tokens are weighted in the step's loss."""
        raise NotImplementedError

    def skips_zero_advantage(self) -> bool:
        """Whether an episode with advantage 0 adds exactly nothing to the gradient."""
        return True

    def validate(self) -> None:
        """Raises UserError for a group that cannot have a baseline, or a cap that is not positive."""
        if self.group_size < 2:
            raise UserError(f"algo.group_size={self.group_size}: expected at least 2, because an advantage compares episodes of one prompt")
        if not self.tis_cap > 0:
            raise UserError(f"algo.tis_cap={self.tis_cap}: expected a positive number")

    def run(self, config: Config) -> None:
        """Trains."""
        from posttrain.algorithms.policy_gradient import train

        train(config, self)
