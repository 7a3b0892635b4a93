"""What a run prints: the plan, a line a step, and the result."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console as RichConsole
from rich.table import Table

from posttrain.cluster import Cluster
from posttrain.config import Config
from posttrain.inputs import Inputs
from posttrain.stats import Row


class Console:
    """Prints to standard output; on a terminal, a status line says what is going on right now."""

    def __init__(self, total_steps: int) -> None:
        """total_steps: optimizer steps of the whole run."""
        self.total_steps = total_steps
        self._out = RichConsole(highlight=False, soft_wrap=True)
        self._status = self._out.status("starting")
        self._started = time.monotonic()
        self._step_seconds: list[float] = []

    def __enter__(self) -> Self:
        """Starts the status line."""
        if self._out.is_terminal:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the status line."""
        self._status.stop()

    def plan(self, config: Config, inputs: Inputs, cluster: Cluster, folder: Path) -> None:
        """The table of what will happen, so that nobody has to guess what a batch is; without learners nothing of training."""
        actors = {"engine": cluster.engines, "learner": cluster.learners}
        rows = {
            "model": f"{config.model.path}, {config.model.dtype}",
            **_task_rows(inputs),
            "completion": f"up to {config.rollout.max_completion_tokens} tokens in {config.rollout.max_turns} turn(s), "
            f"temperature {config.rollout.temperature:g}",
            **(_training_rows(config) if cluster.learners.count else {}),
            "processes": ", ".join(f"{p.count} {kind}(s) x {p.cpus} threads {p.gpus} GPUs" for kind, p in actors.items() if p.count),
            "evaluation": f"{sum(min(config.eval.num_prompts, len(task.heldout)) for task in inputs.tasks.values())} prompts "
            f"x {config.eval.samples_per_prompt} samples",
            "seed": str(config.run.seed),
            "files": str(folder),
        }
        self.table(f"posttrain {config.algo.name}", rows)

    def table(self, title: str, rows: Mapping[str, str]) -> None:
        """A table of names and what is to be known of each."""
        table = Table(title=title, show_header=False)
        for name, value in rows.items():
            table.add_row(name, value)
        self._out.print(table)

    def placed(self, cluster: Cluster) -> None:
        """Where each actor has come to live."""
        for member in cluster.members:
            if member.info:
                self._out.print(f"{member.name} is process {member.info.pid} on {member.info.host}, node {member.info.node_id[:8]}")

    def phase(self, text: str) -> None:
        """What is going on right now; shown on a terminal only."""
        self._status.update(text)

    def step(self, row: Mapping[str, float | int]) -> None:
        """One line for a finished step of an algorithm that samples."""
        self._out.print(
            f"step {row['step']:>4}/{self.total_steps}  reward {row['reward/mean']:.3f}  "
            f"length {row['rollout/completion_tokens_mean']:.1f}  "
            f"mismatch {row['mismatch/logprob_abs_mean']:.4f} (max {row['mismatch/logprob_abs_max']:.3f})  "
            f"rollout {row['time/rollout_s']:.1f}s reward {row['time/reward_s']:.1f}s learn {row['time/learn_s']:.1f}s "
            f"publish {row['time/publish_s']:.1f}s  left {self._left(row)}"
        )

    def supervised_step(self, row: Mapping[str, float | int]) -> None:
        """One line for a finished step of an algorithm that learns from rows."""
        self._out.print(
            f"step {row['step']:>4}/{self.total_steps}  loss {row['loss/total']:.4f}  gradient {row['loss/grad_norm']:.2f}  "
            f"epoch {row['data/epoch']:.2f}  {row['data/tokens']} tokens, {row['data/tokens_per_s']:.0f} a second  left {self._left(row)}"
        )

    def _left(self, row: Mapping[str, float | int]) -> str:
        """The time that the remaining steps will take, from the latest ones."""
        self._step_seconds.append(float(row["time/step_s"]))
        recent = self._step_seconds[-20:]
        return _clock((self.total_steps - int(row["step"])) * sum(recent) / len(recent))

    def evaluation(self, when: str, values: Row) -> None:
        """One line for an evaluation."""
        text = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if name.startswith("eval/") and "version" not in name)
        self._out.print(f"{when}: {text}")

    def done(self, checkpoint: Path) -> None:
        """The last line."""
        self._out.print(f"done in {_clock(time.monotonic() - self._started)}; the trained model is {checkpoint / 'hf'}")

    def say(self, text: str) -> None:
        """A line of its own."""
        self._out.print(text)


def _task_rows(inputs: Inputs) -> dict[str, str]:
    """What is trained on: one line a task, with its share where there are several."""
    total = sum(task.config.share for task in inputs.tasks.values())
    rows = {}
    for name, task in inputs.tasks.items():
        share = f"{task.config.share / total:.0%} of each batch, " if len(inputs.tasks) > 1 else ""
        rewards = ", ".join(f"{weight:g} x {reward}" for reward, weight in task.config.rewards.items())
        tools = f"; tools: {', '.join(task.config.tools)}" if task.config.tools else ""
        environment = f"; against {task.config.environment}" if task.config.environment is not None else ""
        rows[f"task {name}"] = f"{share}{len(task.train)} training prompts, {len(task.heldout)} held out; {rewards}{tools}{environment}"
    return rows


def _training_rows(config: Config) -> dict[str, str]:
    train, group_size = config.train, config.algo.group_size
    return {
        "rollout batch": f"{train.prompts_per_step} prompts x group of {group_size} = {train.prompts_per_step * group_size} episodes",
        "optimizer": f"{train.steps} steps, {train.minibatches} a rollout batch, lr {train.lr:g} {train.lr_schedule}, "
        f"ZeRO {train.zero_stage}",
        "micro-batch": f"up to {train.microbatch_tokens} packed tokens"
        + (f", shared by {train.sequence_parallel} ranks" if train.sequence_parallel > 1 else ""),
    }


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
