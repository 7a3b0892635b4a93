"""The loop of every algorithm that samples groups and follows the gradient of their rewards.

prompts -> groups -> scores -> advantages -> batches -> optimizer steps -> publish -> evaluation -> metrics -> checkpoint

The algorithm (a `PolicyGradientConfig`) gives the objective, the advantages and the normalisation. One rollout batch makes
`train.minibatches` optimizer steps; the engines get new weights after the last of them. Everything random follows from
run.seed and the step, so a run that was killed continues as if it had not been.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.algorithms.base import PolicyGradientConfig
from posttrain.checkpoint import CheckpointStore
from posttrain.cluster import Cluster
from posttrain.config import Config
from posttrain.console import Console
from posttrain.data.cursor import PromptCursor
from posttrain.episodes import write_episodes
from posttrain.errors import RunError
from posttrain.fleet import Engines, Learners, publish
from posttrain.inputs import Inputs, prepare
from posttrain.learner_spec import LearnerSpec
from posttrain.metrics import MetricsWriter
from posttrain.packing import pack
from posttrain.rollout.engine import EngineSpec
from posttrain.rollout.env import SingleTurn
from posttrain.rundir import run_folder, write_config
from posttrain.stats import Row
from posttrain.types import Batch, Group, RenderedPrompt

TRAIN_SEED, EVAL_SEED = 0, 1


@dataclass(slots=True)
class Timer:
    """Seconds a phase, added up until they are taken."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Counts the block's time as `phase`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - started

    def take(self) -> dict[str, float]:
        """What was counted since the last time."""
        taken, self.seconds = self.seconds, {}
        return taken


@dataclass(slots=True, kw_only=True)
class Run:
    """What the loop holds on to."""

    config: Config
    algo: PolicyGradientConfig
    inputs: Inputs
    folder: Path
    learners: Learners
    engines: Engines
    console: Console
    checkpoints: CheckpointStore
    cursor: PromptCursor
    timer: Timer = field(default_factory=Timer)
    step: int = 0


def train(config: Config, algo: PolicyGradientConfig) -> None:
    """Trains a policy; see the module's text for what happens in a step.

    Raises:
        UserError: something in the configuration, the data or the model cannot work; nothing was started or written.
        RunError: a part failed on the way.
    """
    inputs = prepare(config)
    folder = run_folder(config)
    with Cluster(config.cluster, folder.absolute() / "logs") as cluster, Console(config.train.steps) as console:
        write_config(folder, config)
        console.plan(config, inputs, cluster, folder)
        run = Run(
            config=config,
            algo=algo,
            inputs=inputs,
            folder=folder,
            learners=Learners(cluster, lambda threads: _learner_spec(config, inputs, threads)),
            engines=Engines(cluster, lambda threads: _engine_spec(config, inputs, threads)),
            console=console,
            checkpoints=CheckpointStore(folder, config.run.keep_checkpoints),
            cursor=PromptCursor(len(inputs.train), config.run.seed),
        )
        console.phase("loading models")
        starting = [*run.engines.begin_start(), *run.learners.begin_start()]
        console.placed(cluster)
        cluster.wait(starting)
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
    before = evaluate(run) if run.step == 0 else {}
    run.timer.take()
    while run.step < config.train.steps:
        groups = collect(run)
        with run.timer("pack"):
            minibatches = make_minibatches(run, groups)
        rows = optimize(run, minibatches)
        with run.timer("publish"):
            rows[-1]["sync/canary_abs_max"] = publish_weights(run)
        _add_times(rows, run.timer.take())
        rows[0]["rollout/tokens_per_s"] = sum(e.num_completion_tokens for g in groups for e in g.episodes) / rows[0]["time/rollout_s"]
        rows[0] = {**before, **rows[0]}
        before = {}
        last = run.step >= config.train.steps
        if last or _is_due(config.eval.every, run.step, config.train.minibatches):
            rows[-1] = _with_evaluation(rows[-1], evaluate(run))
        write_episodes(run.folder, run.step, groups)
        for row in rows:
            metrics.write({"step": row.pop("step"), **rollout_row(groups), **row})
        run.console.step({**rollout_row(groups), **rows[-1], "step": run.step})
        if last or _is_due(config.run.checkpoint_every, run.step, config.train.minibatches):
            path = save_checkpoint(run)
    run.console.done(path)


def collect(run: Run) -> list[Group]:
    """Samples and scores one rollout batch; groups in the order of the cursor, advantages set."""
    prompts = [run.inputs.train[index] for index in run.cursor.take(run.config.train.prompts_per_step)]
    groups = sample(run, prompts, run.algo.group_size, purpose=TRAIN_SEED)
    for group in groups:
        for episode, advantage in zip(group.episodes, run.algo.advantages(group.rewards), strict=True):
            episode.advantage = advantage
    return groups


def sample(run: Run, prompts: Sequence[RenderedPrompt], group_size: int, *, purpose: int) -> list[Group]:
    """Groups of scored episodes, one a prompt; a group is scored while others are still being sampled.

    Episodes that failed, or were stopped by the turn limit, leave their group: they are not zeros.
    """
    seed = int(np.random.SeedSequence([run.config.run.seed, purpose, run.step]).generate_state(1)[0])
    groups: dict[int, Group] = {}
    started, reward_s = time.monotonic(), run.timer.seconds.get("reward", 0.0)
    for index, group in run.engines.sample(prompts, group_size, SingleTurn(), seed):
        with run.timer("reward"):
            run.inputs.rewards.score(group)
        group.episodes = [episode for episode in group.episodes if episode.status not in ("failed", "turn_limit")]
        groups[index] = group
        run.console.phase(f"step {run.step + 1}: {len(groups)}/{len(prompts)} groups sampled")
    scored_s = run.timer.seconds.get("reward", 0.0) - reward_s
    run.timer.seconds["rollout"] = time.monotonic() - started - scored_s
    if not any(group.episodes for group in groups.values()):
        raise RunError(f"step {run.step + 1}: every episode of the rollout batch failed; see the engine's log in {run.folder / 'logs'}")
    return [groups[index] for index in range(len(prompts))]


def make_minibatches(run: Run, groups: Sequence[Group]) -> list[list[Batch]]:
    """Cuts a rollout batch into the micro-batches of each of its optimizer steps."""
    train = run.config.train
    parts = np.array_split(np.arange(len(groups)), train.minibatches)
    minibatches = [
        pack(
            [groups[i] for i in part],
            normalization=run.algo.normalization(),
            microbatch_tokens=train.microbatch_tokens,
            shared_prefix=train.shared_prefix,
            skip_zero_advantage=run.algo.skips_zero_advantage(),
        )
        for part in parts
    ]
    return minibatches


def optimize(run: Run, minibatches: Sequence[Sequence[Batch]]) -> list[Row]:
    """One optimizer step a minibatch; with several, the old policy is scored once before the first."""
    objective, rows = run.algo.objective(), []
    with run.timer("learn"):
        if len(minibatches) > 1:
            run.console.phase(f"step {run.step + 1}: scoring the old policy")
            run.learners.score_in_place([batch for batches in minibatches for batch in batches], run.config.rollout.temperature)
        for batches in minibatches:
            run.console.phase(f"step {run.step + 1}: learning")
            stats = run.learners.step(batches, objective)
            run.step += 1
            rows.append({"step": run.step, "policy_version": run.step - 1, **stats.row()})
    return rows


def publish_weights(run: Run) -> float:
    """The engines get the learner's weights, with proof."""
    run.console.phase(f"step {run.step}: publishing weights")
    return publish(run.learners, run.engines, policy_version=run.step, canary=run.inputs.canary, tolerance=run.inputs.canary_tolerance)


def evaluate(run: Run) -> Row:
    """Mean reward on held-out prompts under the current weights."""
    run.console.phase(f"step {run.step}: evaluating")
    started = time.monotonic()
    prompts = run.inputs.heldout[: run.config.eval.num_prompts]
    groups = sample(run, prompts, run.config.eval.samples_per_prompt, purpose=EVAL_SEED)
    rewards = [reward for group in groups for reward in group.rewards]
    values: Row = {f"eval/{run.config.task.name}/reward_mean": float(np.mean(rewards)), "eval/policy_version": run.step}
    run.console.evaluation(f"held out, after step {run.step}", values)
    values["time/eval_s"] = time.monotonic() - started
    return values


def rollout_row(groups: Sequence[Group]) -> Row:
    """What a rollout batch looked like."""
    episodes = [episode for group in groups for episode in group.episodes]
    rewards = np.array([episode.reward for episode in episodes])
    names = sorted({name for episode in episodes for name in episode.scores})
    without_signal = [group for group in groups if len(set(group.rewards)) < 2]
    return {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        **{f"reward/{name}": float(np.mean([episode.scores[name] for episode in episodes])) for name in names},
        "rollout/completion_tokens_mean": float(np.mean([episode.num_completion_tokens for episode in episodes])),
        "rollout/truncated_fraction": float(np.mean([episode.status == "truncated" for episode in episodes])),
        "rollout/groups_without_signal_fraction": len(without_signal) / len(groups),
        "rollout/episodes": len(episodes),
    }


def save_checkpoint(run: Run) -> Path:
    """Writes a checkpoint of everything that resuming needs."""
    run.console.phase(f"step {run.step}: writing a checkpoint")
    state: dict[str, Any] = {"step": run.step, "cursor": run.cursor.state()}
    return run.checkpoints.write(run.step, state, lambda draft: run.learners.save(str(Path(draft).absolute())))


def _restore(run: Run) -> None:
    latest = run.checkpoints.latest() if run.config.run.resume else None
    if latest is None:
        return
    path, state = latest
    run.learners.load(str(path.absolute()))
    run.cursor.restore(state["cursor"])
    run.step = int(state["step"])
    run.console.say(f"resumed from {path}")


def _is_due(every: int, step: int, minibatches: int) -> bool:
    """Whether a multiple of `every` lies in the last rollout batch's steps."""
    return every > 0 and step // every > (step - minibatches) // every


def _add_times(rows: list[Row], seconds: dict[str, float]) -> None:
    """Sampling belongs to the first row of a rollout batch, publishing to the last, learning to all in equal parts."""
    learn_s = seconds["learn"] / len(rows)
    for row in rows:
        row.update({"time/rollout_s": 0.0, "time/reward_s": 0.0, "time/pack_s": 0.0, "time/learn_s": learn_s, "time/publish_s": 0.0})
    rows[0].update({f"time/{phase}_s": seconds[phase] for phase in ("rollout", "reward", "pack")})
    rows[-1]["time/publish_s"] = seconds["publish"]
    for row in rows:
        row["time/step_s"] = sum(float(value) for name, value in row.items() if name.startswith("time/"))


def _with_evaluation(row: Row, values: Row) -> Row:
    """Where the run's only row holds the evaluation before training as well, that one is renamed."""
    kept = {f"{name}_before" if name in values and name.startswith("eval/") else name: value for name, value in row.items()}
    return {**kept, **values}


def _learner_spec(config: Config, inputs: Inputs, threads: int) -> LearnerSpec:
    return LearnerSpec(
        model_path=inputs.model_path,
        dtype=config.model.dtype,
        train=config.train,
        temperature=config.rollout.temperature,
        seed=config.run.seed,
        threads=threads,
    )


def _engine_spec(config: Config, inputs: Inputs, threads: int) -> EngineSpec:
    return EngineSpec(
        model_path=inputs.model_path,
        dtype=config.model.dtype,
        context_tokens=config.model.context_tokens,
        rollout=config.rollout,
        threads=threads,
    )
