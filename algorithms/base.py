"""What the policy-gradient algorithms share: their configuration, and how a loss becomes an objective.

An algorithm is a loss and the defaults of these keys; the loop (`policy_gradient.py`) asks for nothing else. This file and
the algorithms' files import torch only inside methods: configurations load without it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

from posttrain.config import AlgoConfig, Config
from posttrain.errors import UserError, nearest
from posttrain.learner_spec import Distillation
from posttrain.packing import NORMALIZATIONS

if TYPE_CHECKING:
    from posttrain.algorithms.advantages import Advantages
    from posttrain.algorithms.losses import Objective

ADVANTAGES = ("group_normalized", "group_centered", "leave_one_out", "whitened", "task_normalized", "per_reward_normalized")
CORRECTIONS = ("none", "token_tis", "sequence_tis", "icepop", "sequence_mask")
MASKS = ("icepop", "sequence_mask")


@dataclass
class PolicyGradientConfig(AlgoConfig):
    """Keys of every algorithm that samples groups and follows the gradient of their rewards."""

    group_size: int = 8  # episodes a prompt
    advantage: str = "group_normalized"  # or group_centered, leave_one_out, whitened, task_normalized, per_reward_normalized
    normalization: str = "sequence_mean"  # tokens' weights; or token_mean, sequence_sum, constant (1 / max_completion_tokens)
    correction: str = "token_tis"  # for what engine and learner differ in; or none, sequence_tis, icepop, sequence_mask
    correction_cap: float = 2.0  # tis: largest importance weight
    correction_range: list[float] = field(default_factory=lambda: [0.5, 5.0])  # icepop, sequence_mask: what is outside leaves the loss
    kl_coefficient: float = 0.0  # weight of k3 to the model as it was at the start; above 0 a frozen copy is loaded
    opsm_delta: float | None = None  # off-policy sequence masking: drift, nats a token, past which negative episodes go
    entropy_band: list[float] = field(default_factory=list)  # AEPO: [low, high] nats; negative advantages are left out above, until below
    refill: int = 0  # further sampling rounds a batch that replace groups whose outcomes are all equal
    overlong_buffer: float = 0.0  # share of max_completion_tokens at its end over which a penalty grows to -1
    mask_truncated: bool = False  # leave answers cut by length out of statistics and loss

    def loss(self) -> "Objective":
        """The loss of a token; picklable."""
        raise NotImplementedError(f"{type(self).__name__} has no loss()")

    def objective(self) -> "Objective":
        """The loss with corrections and KL penalty, as the keys say; picklable."""
        from posttrain.algorithms.corrections import opsm
        from posttrain.algorithms.losses import PolicyLoss

        corrections = [] if self.correction == "none" else [self.mismatch_correction()]
        if self.opsm_delta is not None:
            corrections.append(partial(opsm, delta=self.opsm_delta))
        return PolicyLoss(self.loss(), tuple(corrections), self.kl_coefficient)

    def mismatch_correction(self) -> "Objective":
        """The factor for the difference between the learner before the step and the engine that sampled."""
        from posttrain.algorithms import corrections

        low, high = self.correction_range
        return {
            "token_tis": partial(corrections.token_tis, cap=self.correction_cap),
            "sequence_tis": partial(corrections.sequence_tis, cap=self.correction_cap),
            "icepop": partial(corrections.icepop, low=low, high=high),
            "sequence_mask": partial(corrections.sequence_mask, low=low, high=high),
        }[self.correction]

    def advantages(self) -> "Advantages":
        """The function that compares rewards."""
        from posttrain.algorithms import advantages

        return {
            "group_normalized": advantages.group_normalized,
            "group_centered": advantages.group_centered,
            "leave_one_out": advantages.leave_one_out,
            "whitened": advantages.whitened,
            "task_normalized": advantages.task_normalized,
            "per_reward_normalized": advantages.per_reward_normalized,
        }[self.advantage]

    def distillation(self) -> Distillation | None:
        """What the loss wants of teachers, if anything."""
        return None

    def teacher_paths(self, tasks: Iterable[str]) -> dict[str, str]:
        """The teacher of each task; empty where there is none."""
        return {}

    @property
    def masks_mismatch(self) -> bool:
        """Whether tokens may leave the loss before the step, which needs the old policy's log-probabilities."""
        return self.correction in MASKS

    @property
    def needs_every_episode(self) -> bool:
        """Whether an episode with advantage 0 matters: to a KL penalty, to a normaliser under masks, to measured entropy."""
        return self.kl_coefficient > 0 or self.masks_mismatch or bool(self.entropy_band)

    def validate(self) -> None:
        """Raises UserError: with the key, what was got and what was expected."""
        choices = {"advantage": ADVANTAGES, "normalization": NORMALIZATIONS, "correction": CORRECTIONS}
        for key, known in choices.items():
            if (got := vars(self)[key]) not in known:
                raise UserError(f"algo.{key}={got}: unknown; {nearest(got, known)}")
        rules = {
            "group_size": (self.group_size >= 2, "at least 2, because an advantage compares episodes of one prompt"),
            "correction_cap": (isfinite(self.correction_cap) and self.correction_cap > 0, "a positive number"),
            "correction_range": (_is_range(self.correction_range), "two numbers [low, high] with 0 <= low < high"),
            "kl_coefficient": (isfinite(self.kl_coefficient) and self.kl_coefficient >= 0, "0 or more"),
            "opsm_delta": (self.opsm_delta is None or self.opsm_delta >= 0, "null, or 0 or more"),
            "entropy_band": (not self.entropy_band or _is_range(self.entropy_band), "[] or two numbers [low, high] with 0 <= low < high"),
            "refill": (self.refill >= 0, "0 or more"),
            "overlong_buffer": (0 <= self.overlong_buffer <= 1, "a share from 0 to 1"),
        }
        for key, (holds, expected) in rules.items():
            self.check(key, holds, expected)

    def check(self, key: str, holds: bool, expected: str) -> None:
        """Raises UserError about one of the algorithm's keys unless `holds`."""
        if not holds:
            raise UserError(f"algo.{key}={vars(self)[key]}: expected {expected}")

    def run(self, config: Config) -> None:
        """Trains."""
        from posttrain.algorithms.policy_gradient import train

        train(config, self)


def _is_range(values: list[float]) -> bool:
    return len(values) == 2 and 0 <= values[0] < values[1]
