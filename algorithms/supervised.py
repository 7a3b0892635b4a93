"""The loop of every algorithm that learns from fixed batches: batches -> optimizer step -> evaluation -> metrics -> checkpoint.

What is trained on and by which objective is a `Recipe`'s; the loop knows neither rows nor losses. No engines are started.
The batches of a step follow from its number, so a run that was killed continues as if it had not been.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from posttrain.algorithms.losses import Objective
from posttrain.checkpoint import CheckpointStore
from posttrain.cluster import Cluster
from posttrain.config import Config
from posttrain.console import Console
from posttrain.errors import UserError
from posttrain.fleet import Learners
from posttrain.learner_spec import Distillation, LearnerSpec
from posttrain.metrics import MetricsWriter
from posttrain.rundir import run_folder, write_config
from posttrain.sight import check_sight, first_with_images
from posttrain.stats import Row, Timer, with_evaluation
from posttrain.types import Batch

REMARKS_SHOWN = 20


class Recipe(Protocol):
    """What a supervised run trains on.

    counts: metrics of the first row. remarks: one line about each row of the data that is not used as it is. data_key:
    follows from the data; a run is continued with the same data only. is_reward_model: whether the model scores answers.
    """

    is_reward_model: ClassVar[bool]
    model_path: str
    counts: Row
    remarks: list[str]

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""

    @property
    def data_key(self) -> str:
        """Follows from the data."""

    def objective(self) -> Objective:
        """The loss of a token; picklable."""

    def distillation(self) -> Distillation | None:
        """How the batches' teacher is learned from, if they have one."""

    def measures(self) -> Mapping[str, Objective]:
        """What is told of held-out batches, as eval/<task>/<name>; `loss` is one of them."""

    def batches(self, step: int) -> tuple[list[Batch], Row]:
        """The micro-batches of optimizer step `step`, from 0, and metrics about them, `data/tokens` among them."""

    def heldout(self) -> Mapping[str, Sequence[Batch]]:
        """For each <name> of metrics eval/<name>/loss the batches that they speak of."""

    def plan(self) -> dict[str, str]:
        """Lines of the run's table."""


@dataclass(slots=True, kw_only=True)
class Run:
    """What the loop holds on to. best: the step and loss of the checkpoint with the lowest held-out loss so far."""

    config: Config
    recipe: Recipe
    folder: Path
    learners: Learners
    console: Console
    checkpoints: CheckpointStore
    timer: Timer = field(default_factory=Timer)
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)


def train(config: Config, recipe: Recipe) -> None:
    """Trains a model on a recipe.

    Raises:
        UserError: something in the configuration cannot work; nothing was started or written.
        RunError: a part failed on the way.
    """
    folder = run_folder(config)
    logs = folder.absolute() / "logs"
    config = replace(config, train=replace(config.train, steps=recipe.num_steps))
    with Cluster(replace(config.cluster, num_engines=0), logs) as cluster, Console(recipe.num_steps) as console:
        write_config(folder, config)
        console.table(f"posttrain {config.algo.name}", _plan(config, recipe, cluster, folder))
        _report(recipe.remarks, folder, console)
        learners = Learners(cluster, lambda threads: _learner_spec(config, recipe, threads))
        run = Run(
            config=config,
            recipe=recipe,
            folder=folder,
            learners=learners,
            console=console,
            checkpoints=CheckpointStore(folder, config.run.keep_checkpoints),
        )
        console.phase("loading the model")
        starting = learners.begin_start()
        console.placed(cluster)
        cluster.wait(starting)
        _restore(run)
        with MetricsWriter(folder, resumed_step=run.step) as metrics:
            loop(run, metrics)


def loop(run: Run, metrics: MetricsWriter) -> None:
    """Steps until the recipe's last."""
    config, num_steps = run.config, run.recipe.num_steps
    if run.step >= num_steps:
        run.console.say(f"this run has all of its {run.step} steps already")
        return
    looked_at = first_with_images(batch for batches in run.recipe.heldout().values() for batch in batches)
    before = check_sight(run.learners, looked_at)
    before |= {**run.recipe.counts, **evaluate(run)} if run.step == 0 else {}
    while run.step < num_steps:
        row = {**before, **optimize(run)}
        before = {}
        last = run.step == num_steps
        is_best = False
        if last or (config.eval.every and run.step % config.eval.every == 0):
            row = with_evaluation(row, evaluate(run))
            is_best = not run.best or row["eval/loss"] < run.best["loss"]
        if config.checks.every and run.step % config.checks.every == 0:
            row |= check_sight(run.learners, looked_at)
        metrics.write(row)
        run.console.supervised_step(row)
        if is_best:
            run.best = {"step": run.step, "loss": row["eval/loss"]}
        if last or is_best or run.step % config.run.checkpoint_every == 0:
            path = save_checkpoint(run)
    run.console.say(f"the lowest held-out loss, {run.best['loss']:.4f}, is of step {run.best['step']}: {run.checkpoints.folder / 'best'}")
    run.console.done(path)


def optimize(run: Run) -> Row:
    """One optimizer step."""
    run.learners.take_busy_seconds()  # an evaluation's are not the step's
    run.timer.take()
    started = time.monotonic()
    run.console.phase(f"step {run.step + 1}: learning")
    with run.timer("pack"):
        batches, described = run.recipe.batches(run.step)
    with run.timer("learn"):
        stats = run.learners.step(batches, run.recipe.objective())
    run.step += 1
    step_s, seconds = time.monotonic() - started, run.timer.take()
    return {
        "step": run.step,
        "policy_version": run.step - 1,
        **stats.step_row(),
        **described,
        "data/tokens_per_s": described["data/tokens"] / step_s,
        "time/step_s": step_s,
        "time/pack_s": seconds["pack"],
        "time/learn_s": seconds["learn"],
        "time/learner_busy_s": run.learners.take_busy_seconds(),
    }


def evaluate(run: Run) -> Row:
    """The held-out measures of every part, and their means over the parts, under the current weights."""
    run.console.phase(f"step {run.step}: evaluating")
    started = time.monotonic()
    measures = run.recipe.measures()
    found = {name: run.learners.evaluate(batches, measures) for name, batches in run.recipe.heldout().items()}
    values: Row = {"eval/policy_version": run.step}
    values |= {f"eval/{measure}": sum(own[measure] for own in found.values()) / len(found) for measure in measures}
    values |= {f"eval/{name}/{measure}": own[measure] for name, own in found.items() for measure in measures}
    run.console.evaluation(f"held out, after step {run.step}", values)
    values["time/eval_s"] = time.monotonic() - started
    return values


def save_checkpoint(run: Run) -> Path:
    """Writes the checkpoint of the current step; the best one stays beside the newest."""
    state = {"step": run.step, "best": run.best, "data": run.recipe.data_key}
    return run.checkpoints.write(run.step, state, lambda draft: run.learners.save(str(Path(draft).absolute())), best=run.best.get("step"))


def _restore(run: Run) -> None:
    latest = run.checkpoints.latest() if run.config.run.resume else None
    if latest is None:
        return
    path, state = latest
    if state["data"] != run.recipe.data_key:
        raise UserError(
            f"run.resume=true: the data differ from those that {path} was trained on; resume with the rows that the run began with"
        )
    run.learners.load(str(path.absolute()))
    run.step, run.best = int(state["step"]), state["best"]
    if run.best:
        run.checkpoints.name_best(run.best["step"])
    run.console.say(f"resumed from {path}")


def _report(remarks: Sequence[str], folder: Path, console: Console) -> None:
    """All remarks go to a file, the first to the screen as well."""
    if not remarks:
        return
    (folder / "rows.txt").write_text("".join(f"{remark}\n" for remark in remarks))
    for remark in remarks[:REMARKS_SHOWN]:
        console.say(remark)
    if len(remarks) > REMARKS_SHOWN:
        console.say(f"{len(remarks) - REMARKS_SHOWN} more such rows are named in {folder / 'rows.txt'}")


def _plan(config: Config, recipe: Recipe, cluster: Cluster, folder: Path) -> dict[str, str]:
    train, learners = config.train, cluster.learners
    return {
        "model": f"{config.model.path}, {config.model.dtype}",
        **recipe.plan(),
        "optimizer": f"{train.steps} steps, lr {train.lr:g} {train.lr_schedule}, ZeRO {train.zero_stage}",
        "micro-batch": f"up to {train.microbatch_tokens} packed tokens"
        + (f", shared by {train.sequence_parallel} ranks" if train.sequence_parallel > 1 else ""),
        "processes": f"{learners.count} learner(s) x {learners.cpus} threads {learners.gpus} GPUs",
        "seed": str(config.run.seed),
        "files": str(folder),
    }


def _learner_spec(config: Config, recipe: Recipe, threads: int) -> LearnerSpec:
    return LearnerSpec(
        model_path=recipe.model_path,
        is_reward_model=recipe.is_reward_model,
        dtype=config.model.dtype,
        attention=config.model.attention,
        freeze=tuple(config.model.freeze),
        distillation=recipe.distillation(),
        train=config.train,
        temperature=1.0,
        seed=config.run.seed,
        threads=threads,
    )
