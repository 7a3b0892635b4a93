"""What the algorithms that learn from a fixed set of rows share: their configuration. Loads without torch."""

from dataclasses import dataclass, field
from math import isfinite
from typing import ClassVar

from posttrain.config import DRAWN, AlgoConfig, Config
from posttrain.errors import UserError, nearest


@dataclass
class StageConfig:
    """A stretch of training with rows up to one length."""

    max_tokens: int = 0  # longest document; 0: model.context_tokens
    epochs: float = 1.0  # passes over as many rows as its tasks have
    shares: dict[str, float] = field(default_factory=dict)  # task -> share of the rows; {}: all tasks by their own shares


@dataclass
class SupervisedConfig(AlgoConfig):
    """Keys of every algorithm that learns from the rows of its tasks, without sampling."""

    unused: ClassVar[tuple[str, ...]] = (
        *("task.tools", "task.environment"),
        *("rollout", "rewards", "weights", "task.rewards", "eval.samples_per_prompt"),
        *("train.prompts_per_step", "train.minibatches", "train.shared_prefix"),
    )

    overlong_choices: ClassVar[tuple[str, ...]] = ("refuse", "drop", "split")
    example_task: ClassVar[str] = "conversations"

    rows_per_step: int = 16  # rows in an optimizer step
    tokens_per_step: int = 0  # above 0: a step takes rows up to this many tokens instead
    epochs: float | None = None  # passes over as many rows as there are; null: train.steps optimizer steps
    stages: list[StageConfig] = field(default_factory=list)  # [{max_tokens, epochs, shares}, ...] in turn; [] one of context_tokens
    bad_rows: str = "refuse"  # rows that cannot be used, each named: refuse ends the run, skip leaves them out
    overlong: str = "refuse"  # rows longer than a stage allows, each named: refuse, drop, or split into pieces

    def validate(self) -> None:
        """Raises UserError: with the key, what was got and what was expected."""
        self.check_choice("bad_rows", ("refuse", "skip"))
        self.check_choice("overlong", self.overlong_choices)
        rules = {
            "rows_per_step": (self.rows_per_step > 0, "a number above 0"),
            "tokens_per_step": (self.tokens_per_step >= 0, "0 or more"),
            "epochs": (self.epochs is None or _is_positive(self.epochs), "null or a number above 0"),
        }
        for key, (holds, expected) in rules.items():
            if not holds:
                raise UserError(f"algo.{key}={vars(self)[key]}: expected {expected}")
        if self.stages and self.epochs is not None:
            raise UserError(f"algo.epochs={self.epochs}: expected null beside algo.stages, which have epochs of their own")
        for index, stage in enumerate(self.stages):
            if not (stage.max_tokens >= 0 and _is_positive(stage.epochs) and all(map(_is_positive, stage.shares.values()))):
                raise UserError(f"algo.stages[{index}]={vars(stage)}: expected max_tokens of 0 or more, epochs and shares above 0")

    def check_choice(self, key: str, known: tuple[str, ...]) -> None:
        """Raises UserError unless one of the algorithm's keys is one of the known values."""
        if (got := vars(self)[key]) not in known:
            raise UserError(f"algo.{key}={got}: unknown; {nearest(got, known)}")

    def check_tasks(self, config: Config) -> None:
        """Raises UserError: a task that has prompts without answers to learn from."""
        for task in config.tasks:
            if task.source in DRAWN:
                raise UserError(
                    f"task {task.name} has source={task.source}: algo={self.name} learns from rows; "
                    f"expected task={self.example_task} task.path=<file>, or a task with source=file or source=dataset"
                )


def _is_positive(value: float) -> bool:
    return isfinite(value) and value > 0
