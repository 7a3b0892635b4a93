"""Off-policy distillation, its sampling half: a teacher's answers that rewards and rules let through, as rows for algo=sft."""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from posttrain.config import AlgoConfig, Config
from posttrain.errors import UserError


@dataclass
class DistillOffpolicyConfig(AlgoConfig):
    """A teacher answers the training prompts; what rewards and rules let through becomes dataset.jsonl."""

    unused: ClassVar[tuple[str, ...]] = ("model.freeze", "checks")
    makes: ClassVar[tuple[str, ...]] = ("dataset",)

    name: str = "distill_offpolicy"
    teacher: str | None = None  # folder, hub name or builtin:<name>; null: model.path
    group_size: int = 8  # answers a prompt
    min_reward: float = 1.0  # answers below it are left out
    keep_per_prompt: int = 2  # different answers of a prompt that are kept, the best first
    top_k: int = 0  # above 0: rows hold the teacher's most likely tokens, which algo.soft_targets learns

    def validate(self) -> None:
        """Raises UserError: with the key, what was got and what was expected."""
        rules = {
            "group_size": (self.group_size >= 1, "at least 1"),
            "min_reward": (isfinite(self.min_reward), "a number"),
            "keep_per_prompt": (self.keep_per_prompt >= 1, "at least 1"),
            "top_k": (self.top_k >= 0, "0 or more"),
        }
        for key, (holds, expected) in rules.items():
            if not holds:
                raise UserError(f"algo.{key}={vars(self)[key]}: expected {expected}")

    def run(self, config: Config) -> None:
        """Samples."""
        from posttrain.algorithms.teacher_answers import collect

        collect(config, self)
