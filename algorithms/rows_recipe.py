"""What the recipes that learn from rows share: the tasks' rows, planned into steps, with every row that is not used named.

Left out on purpose: what a row is and how rows become micro-batches; that is each recipe's own (sft_recipe.py,
reward_model_recipe.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from posttrain.algorithms.losses import Objective
from posttrain.algorithms.stages import Stage, StepRows, plan_steps
from posttrain.algorithms.supervised_config import StageConfig, SupervisedConfig
from posttrain.config import Config, TaskConfig
from posttrain.data.messages import digest_of, is_heldout
from posttrain.data.rendered import RenderedRows
from posttrain.errors import UserError
from posttrain.inputs import ModelInputs, prepare_model
from posttrain.learner_spec import Distillation
from posttrain.model import check_freeze
from posttrain.stats import Row
from posttrain.types import Batch, IntArray, SoftTargets

MAX_NAMED = 20
"""Rows that a refusal names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRows:
    """All rows of a task that could be read, and a line about each that cannot be used.

    places: of each row in its source. digests: what decides whether a row is held out. lengths: a row's tokens, 0 where it
    cannot be used; longest: tokens of its longest document; int64; both as the model reads them, images included. soft_targets: of
    each row, where they are learned from.
    """

    rendered: RenderedRows
    places: list[str]
    digests: list[bytes]
    lengths: IntArray
    longest: IntArray
    problems: list[str]
    soft_targets: Sequence[SoftTargets] = ()

    def is_used(self, row: int, max_tokens: int, overlong: str) -> bool:
        """Whether a row is trained on where documents have at most `max_tokens` tokens; one with images is never split."""
        return bool(self.longest[row] <= max_tokens) or (overlong == "split" and not self.rendered.images[row])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRows:
    """A task's rows, and which of them are trained on and which are held out."""

    rows: ReadRows
    train: list[int]
    heldout: list[int]


@dataclass(slots=True, kw_only=True)
class RowsRecipe(ABC):
    """A recipe of `posttrain.algorithms.supervised` but for what its rows are."""

    is_reward_model: ClassVar[bool] = False

    config: Config
    algo: Any
    model: ModelInputs
    model_path: str = field(init=False)
    tasks: dict[str, TaskRows]
    steps: list[StepRows]
    counts: Row
    remarks: list[str]

    @classmethod
    def prepare(cls, config: Config, algo: SupervisedConfig) -> Self:
        """Reads, checks and renders all rows.

        Raises:
            UserError: whatever of model and data is missing or malformed, or a row that `algo.bad_rows` or
            `algo.overlong` refuses.
        """
        model = prepare_model(config)
        check_freeze(model.path, config.model.freeze, is_reward_model=cls.is_reward_model)
        read = {task.name: cls.read(task, model, algo) for task in config.tasks}
        problems = [line for rows in read.values() for line in rows.problems]
        _settle(problems, algo.bad_rows, "of no use", "algo.bad_rows=skip leaves them out")
        tasks = {task.name: _part(task, read[task.name]) for task in config.tasks}
        stages, overlong = _stages(config, algo, tasks)
        ways = " or ".join(algo.overlong_choices[1:])
        _settle(overlong, algo.overlong, "too long", f"algo.overlong={ways} keeps the run, model.context_tokens the rows")
        steps = plan_steps(
            stages,
            {name: task.rows.lengths for name, task in tasks.items()},
            seed=config.run.seed,
            rows_per_step=algo.rows_per_step,
            tokens_per_step=algo.tokens_per_step,
            num_steps=config.train.steps if stages[-1].epochs is None else None,
        )
        counts: Row = {"data/train_rows": sum(len(task.train) for task in tasks.values())}
        counts |= {"data/heldout_rows": sum(len(task.heldout) for task in tasks.values())}
        counts |= {"data/bad_rows": len(problems), "data/overlong_rows": len(overlong)}
        recipe = cls(config=config, algo=algo, model=model, tasks=tasks, steps=steps, counts=counts, remarks=[*problems, *overlong])
        recipe._heldout_rows()
        return recipe

    @classmethod
    @abstractmethod
    def read(cls, task: TaskConfig, model: ModelInputs, algo: Any) -> ReadRows:
        """All rows of a task, rendered."""

    @abstractmethod
    def objective(self) -> Objective:
        """The loss that is trained on; picklable."""

    @abstractmethod
    def pack(self, rows: Sequence[tuple[str, int]], max_tokens: int) -> list[Batch]:
        """Micro-batches of (task, row) pairs that make up one step."""

    @abstractmethod
    def loss_in_words(self) -> str:
        """For the run's table."""

    def __post_init__(self) -> None:
        """The loop wants the path alone."""
        self.model_path = self.model.path

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.steps)

    @property
    def data_key(self) -> str:
        """Follows from all rows and what rendered them."""
        return digest_of([task.rows.rendered.key for task in self.tasks.values()]).hex()

    def distillation(self) -> Distillation | None:
        """There is no teacher."""
        return None

    def measures(self) -> Mapping[str, Objective]:
        """What is told of held-out rows: the loss."""
        return {"loss": self.objective()}

    def batches(self, step: int) -> tuple[list[Batch], Row]:
        """The micro-batches of optimizer step `step`, from 0, and what is in them."""
        planned = self.steps[step]
        batches = self.pack(planned.rows, planned.max_tokens)
        row: Row = {
            "data/epoch": planned.epoch,
            "data/stage": planned.stage + 1,
            "data/rows": len(planned.rows),
            "data/tokens": sum(batch.num_tokens for batch in batches),
        }
        return batches, row

    def pack_heldout(self, rows: Sequence[tuple[str, int]], max_tokens: int) -> list[Batch]:
        """As `pack`, weighed as held-out rows are."""
        return self.pack(rows, max_tokens)

    def heldout(self) -> dict[str, list[Batch]]:
        """Held-out rows of each task."""
        return {name: self.pack_heldout(rows, self._max_tokens()) for name, rows in self._heldout_rows().items()}

    def plan(self) -> dict[str, str]:
        """Lines of the run's table."""
        lines = {}
        for name, task in self.tasks.items():
            tokens = int(task.rows.lengths[task.train].sum())
            lines[f"task {name}"] = f"{len(task.train)} training rows of {tokens} tokens, {len(task.heldout)} held out"
        lines["rows left out"] = f"{self.counts['data/bad_rows']} bad, {self.counts['data/overlong_rows']} too long ({self.algo.overlong})"
        for stage in sorted({step.stage for step in self.steps}):
            own = [step for step in self.steps if step.stage == stage]
            lines[f"stage {stage + 1}"] = f"{len(own)} steps, {own[-1].epoch:.2f} epochs, documents up to {own[-1].max_tokens} tokens"
        per_step = f"up to {self.algo.tokens_per_step} tokens" if self.algo.tokens_per_step else f"{self.algo.rows_per_step} rows"
        lines["step"] = f"{per_step}, {self.loss_in_words()}"
        return lines

    def _max_tokens(self) -> int:
        return max(step.max_tokens for step in self.steps)

    def _heldout_rows(self) -> dict[str, list[tuple[str, int]]]:
        """The first eval.num_prompts rows of each task that fit the longest stage.

        Raises UserError: none does.
        """
        found = {}
        for name, task in self.tasks.items():
            fitting = [row for row in task.heldout if task.rows.is_used(row, self._max_tokens(), self.algo.overlong)]
            if not fitting:
                raise UserError(
                    f"task {name}: no held-out row has at most {self._max_tokens()} tokens; give it more rows or a longer stage"
                )
            found[name] = [(name, row) for row in fitting[: self.config.eval.num_prompts]]
        return found


def _part(task: TaskConfig, rows: ReadRows) -> TaskRows:
    """Raises UserError: nothing to train on, or nothing held out."""
    usable = np.flatnonzero(rows.lengths).tolist()
    heldout = [row for row in usable if is_heldout(rows.digests[row], task.heldout_fraction)]
    train = sorted(set(usable) - set(heldout))
    if not (train and heldout):
        raise UserError(
            f"task {task.name}: {len(train)} rows to train on and {len(heldout)} held out, expected at least 1 of each; "
            "give it more rows or another heldout_fraction"
        )
    return TaskRows(rows=rows, train=train, heldout=heldout)


def _stages(config: Config, algo: SupervisedConfig, tasks: dict[str, TaskRows]) -> tuple[list[Stage], list[str]]:
    """The stages, and a line about each row that is too long for one of them.

    Raises UserError: a stage that names an unknown task, is longer than the model's context, or has no rows.
    """
    context_tokens = config.model.context_tokens
    own_shares = {task.name: task.share for task in config.tasks}
    stages: list[Stage] = []
    overlong: dict[tuple[str, int], str] = {}
    for index, settings in enumerate(algo.stages or [StageConfig()]):
        max_tokens, shares = settings.max_tokens or context_tokens, settings.shares or own_shares
        if unknown := set(shares) - set(tasks):
            raise UserError(f"algo.stages[{index}].shares: there is no task {min(unknown)}; known: {', '.join(tasks)}")
        if not 2 <= max_tokens <= context_tokens:
            raise UserError(f"algo.stages[{index}].max_tokens={max_tokens}: expected 2 to model.context_tokens={context_tokens}")
        rows = {}
        for name in shares:
            task = tasks[name]
            rows[name] = [row for row in task.train if task.rows.is_used(row, max_tokens, algo.overlong)]
            for row in (row for row in (*task.train, *task.heldout) if task.rows.longest[row] > max_tokens):
                line = f"{task.rows.places[row]}: {task.rows.longest[row]} tokens, more than the {max_tokens} of stage {index + 1}"
                line += "" if task.rows.is_used(row, max_tokens, "split") else ", and a row with images is not split"
                overlong.setdefault((name, row), line)
            if not rows[name]:
                raise UserError(f"algo.stages[{index}]: no row of task {name} has at most {max_tokens} tokens")
        epochs = settings.epochs if algo.stages else algo.epochs
        stages.append(Stage(max_tokens=max_tokens, epochs=epochs, rows=rows, shares=shares))
    return stages, list(overlong.values())


def _settle(lines: Sequence[str], policy: str, what: str, instead: str) -> None:
    """Raises UserError: there are such rows, and they are refused; it names the first of them."""
    if lines and policy == "refuse":
        others = [f"and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
        if len(lines) == 1:
            raise UserError(f"{lines[0]}; {instead}")
        raise UserError(f"{len(lines)} rows are {what}; {instead}", [*lines[:MAX_NAMED], *others])
