"""Reward models: a head that gives an answer one number, learned from preference pairs by the Bradley-Terry loss."""

from dataclasses import dataclass
from typing import ClassVar

from posttrain.algorithms.supervised_config import SupervisedConfig
from posttrain.config import Config


@dataclass
class RewardModelConfig(SupervisedConfig):
    """Learns which of two answers to a prompt was preferred; the trained folder is a reward (POSTTRAIN_REWARD_MODEL)."""

    unused: ClassVar[tuple[str, ...]] = (*SupervisedConfig.unused, "task.thinking", "train.head_chunk_mb")
    overlong_choices: ClassVar[tuple[str, ...]] = ("refuse", "drop")
    example_task: ClassVar[str] = "preferences"

    name: str = "reward_model"

    def run(self, config: Config) -> None:
        """Trains."""
        self.check_tasks(config)
        from posttrain.algorithms.reward_model_recipe import RewardModelRecipe
        from posttrain.algorithms.supervised import train

        train(config, RewardModelRecipe.prepare(config, self))
