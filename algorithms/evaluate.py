"""Evaluation alone: a model on the held-out prompts of its tasks, without training."""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from posttrain.config import AlgoConfig, Config
from posttrain.errors import UserError


@dataclass
class EvaluateConfig(AlgoConfig):
    """Samples eval.samples_per_prompt answers to each held-out prompt and counts; no learner is started."""

    unused: ClassVar[tuple[str, ...]] = ("model.freeze", "checks")
    makes: ClassVar[tuple[str, ...]] = ()

    name: str = "evaluate"
    solved_at: float = 1.0  # reward from which an answer counts as solved, for pass@k

    def validate(self) -> None:
        """Raises UserError for a threshold that is no number."""
        if not isfinite(self.solved_at):
            raise UserError(f"algo.solved_at={self.solved_at}: expected a number")

    def run(self, config: Config) -> None:
        """Evaluates."""
        from posttrain.algorithms.evaluation import evaluate

        evaluate(config, self)
