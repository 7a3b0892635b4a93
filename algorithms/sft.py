"""SFT: supervised fine-tuning on conversations; the objective is minus the log-probability of what the assistant says."""

from dataclasses import dataclass

from posttrain.algorithms.supervised_config import SupervisedConfig
from posttrain.config import Config
from posttrain.errors import UserError


@dataclass
class SftConfig(SupervisedConfig):
    """Learns what the assistant says in the tasks' conversations; every trained token weighs the same."""

    name: str = "sft"
    normalization: str = "token_mean"  # tokens' weights; or sequence_mean, sequence_sum
    trained_turns: str = "all"  # assistant turns that are learned: all, or the last of each conversation
    rewriting: str = "split"  # where a chat template changes earlier messages: split by turns, or refuse the row
    soft_targets: float = 0.0  # weight of KL(teacher, student) over rows' soft_targets; the rest, to 1, is -log p

    def validate(self) -> None:
        """Raises UserError: with the key, what was got and what was expected."""
        super().validate()
        self.check_choice("normalization", ("token_mean", "sequence_mean", "sequence_sum"))
        self.check_choice("trained_turns", ("all", "last"))
        self.check_choice("rewriting", ("split", "refuse"))
        if not 0 <= self.soft_targets <= 1:
            raise UserError(f"algo.soft_targets={self.soft_targets}: expected a weight from 0 to 1")

    def run(self, config: Config) -> None:
        """Trains."""
        self.check_tasks(config)
        from posttrain.algorithms.sft_recipe import SftRecipe
        from posttrain.algorithms.supervised import train

        train(config, SftRecipe.prepare(config, self))
