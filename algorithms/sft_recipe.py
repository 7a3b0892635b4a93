"""What an SFT run trains on: the tasks' conversations as documents, planned into steps, with every row that is not used named."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from posttrain.algorithms.losses import Objective, negative_logprob
from posttrain.algorithms.sft import SftConfig
from posttrain.algorithms.stages import Stage, StepRows, cut, plan_steps
from posttrain.algorithms.supervised_config import StageConfig
from posttrain.builtin_models import cache_folder, resolve
from posttrain.config import Config, TaskConfig
from posttrain.data.conversations import load_conversations
from posttrain.data.messages import digest_of, is_heldout
from posttrain.data.rendered import RenderedRows, render_rows, tokenizer_digest
from posttrain.errors import UserError
from posttrain.model import load_tokenizer, max_context_tokens
from posttrain.packing import pack_documents
from posttrain.rollout.transcript import Transcriber
from posttrain.stats import Row
from posttrain.types import Batch, Document, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRows:
    """A task's rows: which are trained on and which are held out, and where each stands in its source."""

    rendered: RenderedRows
    places: list[str]
    lengths: IntArray
    longest: IntArray
    train: list[int]
    heldout: list[int]


@dataclass(slots=True, kw_only=True)
class SftRecipe:
    """The recipe of `posttrain.algorithms.supervised` for algo=sft."""

    config: Config
    algo: SftConfig
    model_path: str
    tasks: dict[str, TaskRows]
    steps: list[StepRows]
    counts: Row
    remarks: list[str]

    @classmethod
    def prepare(cls, config: Config, algo: SftConfig) -> Self:
        """Reads, checks and renders all rows.

        Raises:
            UserError: whatever of model and data is missing or malformed, or a row that `algo.bad_rows` or
            `algo.overlong` refuses.
        """
        model_path = resolve(config.model.path)
        tokenizer = load_tokenizer(model_path)
        longest = max_context_tokens(model_path)
        if config.model.context_tokens > longest:
            raise UserError(f"model.context_tokens={config.model.context_tokens}: {config.model.path} takes {longest} at most")
        transcriber = Transcriber(tokenizer, last_turn_only=algo.trained_turns == "last", may_cut=algo.rewriting == "split")
        rendered_by = [tokenizer_digest(tokenizer), algo.trained_turns, algo.rewriting]
        problems: list[str] = []
        tasks = {task.name: _load(task, transcriber, rendered_by, problems) for task in config.tasks}
        _settle(problems, algo.bad_rows, "cannot be used", "algo.bad_rows=skip leaves them out")
        for name, task in tasks.items():
            if not (task.train and task.heldout):
                raise UserError(
                    f"task {name}: {len(task.train)} rows to train on and {len(task.heldout)} held out, expected at least 1 of each; "
                    "give it more rows or another heldout_fraction"
                )
        stages, overlong = _stages(config, algo, tasks)
        _settle(overlong, algo.overlong, "are too long", "algo.overlong=drop or split keeps the run, model.context_tokens the rows")
        steps = plan_steps(
            stages,
            {name: task.lengths for name, task in tasks.items()},
            seed=config.run.seed,
            rows_per_step=algo.rows_per_step,
            tokens_per_step=algo.tokens_per_step,
            num_steps=config.train.steps if stages[-1].epochs is None else None,
        )
        counts: Row = {"data/train_rows": sum(len(task.train) for task in tasks.values())}
        counts |= {"data/heldout_rows": sum(len(task.heldout) for task in tasks.values())}
        counts |= {"data/bad_rows": len(problems), "data/overlong_rows": len(overlong)}
        recipe = cls(
            config=config, algo=algo, model_path=model_path, tasks=tasks, steps=steps, counts=counts, remarks=[*problems, *overlong]
        )
        recipe._heldout_documents()
        return recipe

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.steps)

    @property
    def data_key(self) -> str:
        """Follows from all rows and what rendered them."""
        return digest_of([task.rendered.key for task in self.tasks.values()]).hex()

    def objective(self) -> Objective:
        """Minus the log-probability."""
        return negative_logprob

    def batches(self, step: int) -> tuple[list[Batch], Row]:
        """The micro-batches of optimizer step `step`, from 0, and what is in them."""
        planned = self.steps[step]
        documents = self._documents(planned.rows, planned.max_tokens)
        row: Row = {
            "data/epoch": planned.epoch,
            "data/stage": planned.stage + 1,
            "data/rows": len(planned.rows),
            "data/tokens": sum(len(document.token_ids) for document in documents),
        }
        return self._pack(documents, self.algo.normalization), row

    def heldout(self) -> dict[str, list[Batch]]:
        """Held-out rows of each task, whose loss is the mean over their tokens."""
        return {name: self._pack(documents, "token_mean") for name, documents in self._heldout_documents().items()}

    def plan(self) -> dict[str, str]:
        """Lines of the run's table."""
        lines = {}
        for name, task in self.tasks.items():
            tokens = int(task.lengths[task.train].sum())
            lines[f"task {name}"] = f"{len(task.train)} training rows of {tokens} tokens, {len(task.heldout)} held out"
        lines["rows left out"] = f"{self.counts['data/bad_rows']} bad, {self.counts['data/overlong_rows']} too long ({self.algo.overlong})"
        for stage in sorted({step.stage for step in self.steps}):
            own = [step for step in self.steps if step.stage == stage]
            lines[f"stage {stage + 1}"] = f"{len(own)} steps, {own[-1].epoch:.2f} epochs, documents up to {own[-1].max_tokens} tokens"
        per_step = f"up to {self.algo.tokens_per_step} tokens" if self.algo.tokens_per_step else f"{self.algo.rows_per_step} rows"
        lines["step"] = f"{per_step}, {self.algo.normalization} over {self.algo.trained_turns} assistant turns"
        return lines

    def _heldout_documents(self) -> dict[str, list[Document]]:
        """Of the first eval.num_prompts rows of each task that fit the longest stage.

        Raises UserError: none does.
        """
        max_tokens = max(step.max_tokens for step in self.steps)
        documents = {}
        for name, task in self.tasks.items():
            rows = task.heldout if self.algo.overlong == "split" else [row for row in task.heldout if task.longest[row] <= max_tokens]
            if not rows:
                raise UserError(f"task {name}: no held-out row has at most {max_tokens} tokens; give it more rows or a longer stage")
            documents[name] = self._documents([(name, row) for row in rows[: self.config.eval.num_prompts]], max_tokens)
        return documents

    def _documents(self, rows: Iterable[tuple[str, int]], max_tokens: int) -> list[Document]:
        whole = (document for name, row in rows for document in self.tasks[name].rendered.documents(row))
        return [piece for document in whole for piece in cut(document, max_tokens)]

    def _pack(self, documents: Sequence[Document], normalization: str) -> list[Batch]:
        return pack_documents(documents, normalization=normalization, microbatch_tokens=self.config.train.microbatch_tokens)


def _load(task: TaskConfig, transcriber: Transcriber, rendered_by: list[str], problems: list[str]) -> TaskRows:
    conversations, unreadable = load_conversations(task)
    rendered = render_rows(conversations, transcriber.documents, rendered_by, cache_folder() / "documents")
    problems += [*unreadable, *(f"{conversations[row].where}{why}" for row, why in rendered.problems.items())]
    lengths, longest = rendered.lengths()
    usable = np.flatnonzero(lengths).tolist()
    heldout = [row for row in usable if is_heldout(conversations[row].digest, task.heldout_fraction)]
    return TaskRows(
        rendered=rendered,
        places=[conversation.where for conversation in conversations],
        lengths=lengths,
        longest=longest,
        train=sorted(set(usable) - set(heldout)),
        heldout=heldout,
    )


def _stages(config: Config, algo: SftConfig, tasks: dict[str, TaskRows]) -> tuple[list[Stage], list[str]]:
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
            fits = task.longest <= max_tokens
            rows[name] = [row for row in task.train if fits[row] or algo.overlong == "split"]
            for row in (row for row in (*task.train, *task.heldout) if not fits[row]):
                line = f"{task.places[row]}: {task.longest[row]} tokens, more than the {max_tokens} of stage {index + 1}"
                overlong.setdefault((name, row), line)
            if not rows[name]:
                raise UserError(f"algo.stages[{index}]: no row of task {name} has at most {max_tokens} tokens")
        epochs = settings.epochs if algo.stages else algo.epochs
        stages.append(Stage(max_tokens=max_tokens, epochs=epochs, rows=rows, shares=shares))
    return stages, list(overlong.values())


def _settle(lines: Sequence[str], policy: str, what: str, instead: str) -> None:
    """Raises UserError: there are such rows, and they are refused."""
    if lines and policy == "refuse":
        others = f" (and {len(lines) - 1} more rows {what})" if len(lines) > 1 else ""
        raise UserError(f"{lines[0]}{others}; {instead}")
