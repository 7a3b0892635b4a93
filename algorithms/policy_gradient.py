"""The loop of every algorithm that samples groups and follows the gradient of their rewards.

prompts -> groups -> scores -> advantages -> batches -> optimizer steps -> publish -> evaluation -> metrics -> checkpoint

The first half, up to the advantages, is in `rollouts.py`. The algorithm (a `PolicyGradientConfig`) gives the objective and
how rewards are compared. One rollout batch makes `train.minibatches` optimizer steps; the engines get new weights after the
last of them. Everything random follows from run.seed and the step, so a run that was killed continues as if it had not been.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posttrain.algorithms.base import PolicyGradientConfig
from posttrain.algorithms.corrections import kept_tokens
from posttrain.algorithms.rollouts import RolloutBatch, Rollouts
from posttrain.checkpoint import CheckpointStore
from posttrain.cluster import Cluster
from posttrain.config import Config
from posttrain.console import Console
from posttrain.episodes import write_episodes
from posttrain.fleet import Engines, Learners, Teachers, publish
from posttrain.inputs import Inputs, prepare, tools_and_environments
from posttrain.judge_service import JudgeService
from posttrain.learner_spec import Distillation, LearnerSpec, TeacherSpec
from posttrain.metrics import MetricsWriter
from posttrain.packing import leave_out, pack
from posttrain.rollout.engine import EngineSpec
from posttrain.rundir import run_folder, write_config
from posttrain.sight import check_sight, prompts_to_look_at
from posttrain.stats import Row, Timer, with_evaluation
from posttrain.teacher_inputs import TeacherInputs, prepare_teachers
from posttrain.types import Batch, Group


@dataclass(slots=True, kw_only=True)
class Run:
    """What the loop holds on to."""

    config: Config
    algo: PolicyGradientConfig
    inputs: Inputs
    folder: Path
    learners: Learners
    teachers: Teachers
    rollouts: Rollouts
    console: Console
    checkpoints: CheckpointStore
    timer: Timer
    step: int = 0


def train(config: Config, algo: PolicyGradientConfig) -> None:
    """Trains a policy; see the module's text for what happens in a step.

    Raises:
        UserError: something in the configuration, the data or the model cannot work; nothing was started or written.
        RunError: a part failed on the way.
    """
    judge = JudgeService(config.rewards.judge_model, deadline_s=config.cluster.deadline_s)
    inputs = prepare(config)
    teacher_inputs = prepare_teachers(config, inputs, algo.teacher_paths(inputs.tasks))
    folder = run_folder(config)
    logs = folder.absolute() / "logs"
    room = Cluster(config.cluster, logs, num_teachers=len(teacher_inputs))
    with closing(inputs), judge, room as cluster, Console(config.train.steps) as console:
        write_config(folder, config)
        console.plan(config, inputs, cluster, folder)
        console.phase("starting the judge")
        judge.start(logs)
        timer = Timer()
        engines = Engines(cluster, lambda threads: engine_spec(config, inputs, threads))
        run = Run(
            config=config,
            algo=algo,
            inputs=inputs,
            folder=folder,
            learners=Learners(cluster, lambda threads: _learner_spec(config, algo, inputs, threads)),
            teachers=Teachers(cluster, teacher_inputs, lambda teacher, threads: _teacher_spec(config, algo, teacher, threads)),
            rollouts=Rollouts(config=config, algo=algo, inputs=inputs, engines=engines, console=console, timer=timer),
            console=console,
            checkpoints=CheckpointStore(folder, config.run.keep_checkpoints),
            timer=timer,
        )
        console.phase("loading models")
        starting = [*engines.begin_start(), *run.learners.begin_start(), *run.teachers.begin_start()]
        console.placed(cluster)
        cluster.wait(starting)
        run.teachers.give_heads(run.learners)
        _restore(run)
        publish_weights(run)
        with MetricsWriter(folder, resumed_step=run.step) as metrics:
            loop(run, metrics)


def loop(run: Run, metrics: MetricsWriter) -> None:
    """Steps until train.steps."""
    config = run.config
    if run.step >= config.train.steps:
        run.console.say(f"this run has its {run.step} steps already; raise train.steps to go on")
        return
    looked_at = prompts_to_look_at(run.inputs)
    before = {**check_sight(run.learners, looked_at), **(run.rollouts.evaluate(0) if run.step == 0 else {})}
    run.timer.take()
    while run.step < config.train.steps:
        take_busy_seconds(run)  # an evaluation's are not the step's
        started = time.monotonic()
        rollout = run.rollouts.collect(run.step)
        with run.timer("pack"):
            minibatches = make_minibatches(run, rollout.groups)
        rows = optimize(run, minibatches)
        busy = take_busy_seconds(run)
        with run.timer("publish"):
            publish_weights(run)
        write_episodes(run.folder, run.step, rollout.sampled)
        _finish_rows(rows, rollout, run.timer.take(), time.monotonic() - started)
        rows[-1] |= busy
        rows[0] = {**before, **rows[0]}
        before = {}
        last = run.step >= config.train.steps
        if last or _is_due(config.eval.every, run.step, config.train.minibatches):
            rows[-1] = with_evaluation(rows[-1], run.rollouts.evaluate(run.step))
            run.timer.take()
        if _is_due(config.checks.every, run.step, config.train.minibatches):
            rows[-1] |= check_sight(run.learners, looked_at)
            run.timer.take()
        for row in rows:
            metrics.write(row)
        run.console.step(rows[-1])
        if last or _is_due(config.run.checkpoint_every, run.step, config.train.minibatches):
            path = save_checkpoint(run)
    run.console.done(path)


def take_busy_seconds(run: Run) -> Row:
    """Seconds that engines and learners have computed since the last time."""
    return {"time/engine_busy_s": run.rollouts.engines.take_busy_seconds(), "time/learner_busy_s": run.learners.take_busy_seconds()}


def make_minibatches(run: Run, groups: Sequence[Group]) -> list[list[Batch]]:
    """Cuts a rollout batch into the micro-batches of each of its optimizer steps."""
    train, normalization = run.config.train, run.algo.normalization
    parts = np.array_split(np.arange(len(groups)), train.minibatches)
    minibatches = [
        pack(
            [groups[i] for i in part],
            normalization=run.config.rollout.max_completion_tokens if normalization == "constant" else normalization,
            microbatch_tokens=train.microbatch_tokens,
            shared_prefix=train.shared_prefix,
            skip_zero_advantage=not run.algo.needs_every_episode,
            geometry=run.inputs.geometry,
        )
        for part in parts
    ]
    return [[part for batch in batches for part in run.teachers.part(batch)] for batches in minibatches]


def optimize(run: Run, minibatches: Sequence[Sequence[Batch]]) -> list[Row]:
    """One optimizer step a minibatch; with several, the old policy is scored once before the first."""
    objective, rows = run.algo.objective(), []
    with run.timer("learn"):
        left_out = score_before(run, minibatches)
    if run.teachers.members:
        run.console.phase(f"step {run.step + 1}: scoring by teachers")
        with run.timer("teacher"):
            run.teachers.score([batch for batches in minibatches for batch in batches])
    with run.timer("learn"):
        for batches in minibatches:
            run.console.phase(f"step {run.step + 1}: learning")
            stats = run.learners.step(batches, objective)
            run.rollouts.learned(stats)
            run.step += 1
            rows.append({"step": run.step, "policy_version": run.step - 1, **stats.row(), **left_out})
    return rows


def score_before(run: Run, minibatches: Sequence[Sequence[Batch]]) -> Row:
    """What has to be known before the first step: the reference's log-probabilities, the old policy's, and the mask they make."""
    batches = [batch for batches in minibatches for batch in batches]
    temperature = run.config.rollout.temperature
    if run.algo.kl_coefficient:
        run.console.phase(f"step {run.step + 1}: scoring the reference")
        run.learners.score_reference(batches, temperature)
    if len(minibatches) > 1 or run.algo.masks_mismatch:
        run.console.phase(f"step {run.step + 1}: scoring the old policy")
        run.learners.score_old(batches, temperature)
    if not run.algo.masks_mismatch:
        return {}
    num_before = sum(np.count_nonzero(batch.loss_weights) for batch in batches)
    for part in minibatches:
        leave_out(part, [kept_tokens(batch, run.algo.mismatch_correction()) for batch in part], run.algo.normalization)
    num_after = sum(np.count_nonzero(batch.loss_weights) for batch in batches)
    return {"mismatch/left_out_fraction": 1 - num_after / max(1, num_before)}


def publish_weights(run: Run) -> None:
    """The engines get the learner's weights, with proof."""
    run.console.phase(f"step {run.step}: publishing weights")
    canary, tolerance = run.inputs.canary, run.inputs.canary_tolerance
    publish(run.learners, run.rollouts.engines, policy_version=run.step, canary=canary, tolerance=tolerance)


def save_checkpoint(run: Run) -> Path:
    """Writes a checkpoint of everything that resuming needs."""
    run.console.phase(f"step {run.step}: writing a checkpoint")
    state = {"step": run.step, **run.rollouts.state()}
    return run.checkpoints.write(run.step, state, lambda draft: run.learners.save(str(Path(draft).absolute())))


def _restore(run: Run) -> None:
    latest = run.checkpoints.latest() if run.config.run.resume else None
    if latest is None:
        return
    path, state = latest
    run.learners.load(str(path.absolute()))
    run.rollouts.restore(state)
    run.step = int(state["step"])
    run.console.say(f"resumed from {path}")


def _is_due(every: int, step: int, minibatches: int) -> bool:
    """Whether a multiple of `every` lies in the last rollout batch's steps."""
    return every > 0 and step // every > (step - minibatches) // every


def _finish_rows(rows: list[Row], rollout: RolloutBatch, seconds: dict[str, float], wall_s: float) -> None:
    """Adds what the rollout batch looked like, and times, which add up to the wall time of the whole.

    Sampling belongs to the first row of a rollout batch, publishing and what is in no phase to the last, learning to all in
    equal parts.
    """
    other_s = wall_s - sum(seconds.values())
    for index, row in enumerate(rows):
        first, last = index == 0, index == len(rows) - 1
        times = {
            "time/rollout_s": seconds["rollout"] * first,
            "time/reward_s": seconds["reward"] * first,
            "time/pack_s": seconds["pack"] * first,
            **({"time/teacher_s": seconds["teacher"] * first} if "teacher" in seconds else {}),
            "time/learn_s": seconds["learn"] / len(rows),
            "time/publish_s": seconds["publish"] * last,
            "time/other_s": other_s * last,
        }
        row |= {**rollout.row, **times, "time/step_s": sum(times.values())}
    num_tokens = sum(episode.num_completion_tokens for group in rollout.sampled for episode in group.episodes)
    rows[0]["rollout/tokens_per_s"] = num_tokens / seconds["rollout"]


def _learner_spec(config: Config, algo: PolicyGradientConfig, inputs: Inputs, threads: int) -> LearnerSpec:
    return LearnerSpec(
        model_path=inputs.model_path,
        reference_path=inputs.model_path if algo.kl_coefficient else None,
        dtype=config.model.dtype,
        attention=config.model.attention,
        freeze=tuple(config.model.freeze),
        distillation=algo.distillation(),
        train=config.train,
        temperature=config.rollout.temperature,
        seed=config.run.seed,
        threads=threads,
    )


def engine_spec(config: Config, inputs: Inputs, threads: int) -> EngineSpec:
    """What an engine for the inputs' model is told."""
    tools, environments = tools_and_environments(config)
    return EngineSpec(
        model_path=inputs.model_path,
        geometry=inputs.geometry,
        dtype=config.model.dtype,
        context_tokens=config.model.context_tokens,
        rollout=config.rollout,
        threads=threads,
        tools=tuple(tools),
        environments=tuple(environments),
    )


def _teacher_spec(config: Config, algo: PolicyGradientConfig, teacher: TeacherInputs, threads: int) -> TeacherSpec:
    return TeacherSpec(
        model_path=teacher.path,
        dtype=config.model.dtype,
        attention=config.model.attention,
        output_rows=teacher.output_rows,
        head_chunk_mb=config.train.head_chunk_mb,
        temperature=config.rollout.temperature,
        distillation=algo.distillation() or Distillation(),
        threads=threads,
    )
