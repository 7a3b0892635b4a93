"""The sampling half of a step: prompts -> groups -> scores -> advantages (`Rollouts`), and evaluation, which stops at the
scores (`Sampler`).

What is sampled follows from run.seed, the step and the round alone, so a resumed run samples what the killed one would have.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from posttrain.algorithms.advantages import EntropyControl
from posttrain.algorithms.base import PolicyGradientConfig
from posttrain.algorithms.tool_metrics import check_failures, tools_row, turns_row
from posttrain.config import Config
from posttrain.console import Console
from posttrain.data.mixture import Mixture
from posttrain.errors import RunError
from posttrain.fleet import Engines
from posttrain.inputs import Inputs
from posttrain.rewards.manager import COUNTED
from posttrain.stats import LearnerStats, Row, Timer
from posttrain.types import Episode, Group, RenderedPrompt

TRAIN_SEED, EVAL_SEED = 0, 1


@dataclass(slots=True, kw_only=True)
class RolloutBatch:
    """What one round of training is made of: `groups` are trained on, `sampled` are they and those they replaced."""

    groups: list[Group]
    sampled: list[Group]
    row: Row


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Samples groups and has them scored, and evaluates in that way."""

    config: Config
    inputs: Inputs
    engines: Engines
    console: Console
    timer: Timer

    def sample(self, prompts: Sequence[RenderedPrompt], group_size: int, *, seed: tuple[int, ...], label: str) -> list[Group]:
        """Groups of scored episodes, one a prompt; a group is scored while others are still being sampled."""
        generated = np.random.SeedSequence([self.config.run.seed, *seed]).generate_state(1)
        groups: dict[int, Group] = {}
        started = time.monotonic()
        for index, group in self.engines.sample(prompts, group_size, int(generated[0])):
            self.inputs.tasks[group.prompt.task].rewards.submit(group)
            groups[index] = group
            self.console.phase(f"{label}: {len(groups)}/{len(prompts)} groups sampled")
        self.timer.seconds["rollout"] += time.monotonic() - started
        self.console.phase(f"{label}: waiting for rewards")
        with self.timer("reward"):
            for task in self.inputs.tasks.values():
                task.rewards.finish()
        episodes = [episode for group in groups.values() for episode in group.episodes]
        check_failures(episodes, self.config.rewards.max_failure_fraction)
        if not any(group.num_counted for group in groups.values()):
            failures = [episode.failure for episode in episodes if episode.failure]
            raise RunError(f"{label}: no episode of the rollout batch can be used; {failures[0] if failures else 'all met a limit'}")
        return [groups[index] for index in range(len(prompts))]

    def sample_heldout(self, step: int) -> dict[str, list[Group]]:
        """By task, groups of its first held-out prompts under the weights after `step`, from which the seed follows."""
        prompts = [prompt for task in self.inputs.tasks.values() for prompt in task.heldout[: self.config.eval.num_prompts]]
        label = f"evaluation after step {step}"
        groups = self.sample(prompts, self.config.eval.samples_per_prompt, seed=(EVAL_SEED, step), label=label)
        return {name: [group for group in groups if group.prompt.task == name] for name in self.inputs.tasks}

    def evaluate(self, step: int) -> Row:
        """Mean reward on held-out prompts under the current weights."""
        self.console.phase(f"step {step}: evaluating")
        started = time.monotonic()
        groups = self.sample_heldout(step)
        self.take_counts()  # these are not the next rollout batch's
        values = {"eval/policy_version": step, **heldout_row(groups)}
        self.console.evaluation(f"held out, after step {step}", values)
        values["time/eval_s"] = time.monotonic() - started
        return values

    def take_counts(self) -> Row:
        """What the scoring processes met since the last time, all tasks together."""
        total: Counter[str] = Counter()
        for task in self.inputs.tasks.values():
            total.update(task.rewards.take_counts())
        values = {**dict.fromkeys(COUNTED, 0.0), **total}
        return {_metric_name(name): float(value) for name, value in values.items()}


@dataclass(slots=True, kw_only=True)
class Rollouts(Sampler):
    """Samples rollout batches; holds what that depends on between steps."""

    algo: PolicyGradientConfig
    mixture: Mixture = field(init=False)
    control: EntropyControl | None = None

    def __post_init__(self) -> None:
        """Starts at the first prompt."""
        tasks = self.inputs.tasks
        self.mixture = Mixture(
            {name: len(task.train) for name, task in tasks.items()},
            {name: task.config.share for name, task in tasks.items()},
            self.config.run.seed,
        )
        if self.algo.entropy_band:
            self.control = EntropyControl(low=self.algo.entropy_band[0], high=self.algo.entropy_band[1])

    def collect(self, step: int) -> RolloutBatch:
        """Samples and scores one rollout batch; groups in the order of the mixture, advantages set."""
        wanted = self.config.train.prompts_per_step
        sampled: list[Group] = []
        kept: list[Group] = []
        for round_ in range(1 + self.algo.refill):
            prompts = [self.inputs.tasks[name].train[index] for name, index in self.mixture.take(wanted - len(kept))]
            groups = self.sample(prompts, self.algo.group_size, seed=(TRAIN_SEED, step, round_), label=f"step {step + 1}")
            for episode in (episode for group in groups for episode in group.episodes):
                self._shape(episode)
            sampled += groups
            kept += [group for group in groups if group.has_signal or not self.algo.refill]
            if len(kept) == wanted:
                break
        left = [group for group in sampled if not group.has_signal] if self.algo.refill else []
        spare = wanted - len(kept)
        for group in left[spare:]:
            for episode in group.episodes:
                episode.is_masked = True
        kept += left[:spare]
        num_left_out = self._set_advantages(kept)
        row = {**rollout_row(sampled), **turns_row(sampled), **self._tools_row(step, sampled), **self.take_counts()}
        if self.engines.canary_gap is not None:
            row["sync/canary_abs_max"] = self.engines.canary_gap
        if self.algo.refill:
            row |= {"rollout/rounds": round_ + 1, "rollout/replaced_groups": len(sampled) - wanted}
        if self.control:
            row |= {"rollout/negatives_left_out_fraction": num_left_out / max(1, sum(group.num_counted for group in kept))}
        return RolloutBatch(groups=kept, sampled=sampled, row=row)

    def learned(self, stats: LearnerStats) -> None:
        """Takes in what an optimizer step measured."""
        if self.control:
            self.control.update(stats.episode_entropy)

    def state(self) -> dict[str, Any]:
        """What the next rollout batch depends on, besides the seed and the weights."""
        return {"mixture": self.mixture.state(), "leaves_out_negatives": bool(self.control and self.control.is_active)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a `state`."""
        self.mixture.restore(state["mixture"])
        if self.control:
            self.control.is_active = state["leaves_out_negatives"]

    def _tools_row(self, step: int, groups: Sequence[Group]) -> Row:
        """The metrics of tools, and a warning when they are hardly used."""
        floor = self.config.rollout.tool_rate_floor
        row = tools_row(groups, floor)
        if row.get("tools/below_floor"):
            share = f"{row['tools/rate']:.1%} of the episodes call a tool"
            self.console.say(f"warning: step {step + 1}: {share}, less than rollout.tool_rate_floor={floor:g}")
        return row

    def _shape(self, episode: Episode) -> None:
        """The algorithm's own additions to the reward, and what it leaves out."""
        if self.algo.overlong_buffer:
            episode.scores["overlong"] = overlong_penalty(
                episode.num_completion_tokens, self.config.rollout.max_completion_tokens, self.algo.overlong_buffer
            )
            episode.reward = episode.outcome + episode.scores["overlong"]
        episode.is_masked = self.algo.mask_truncated and episode.is_cut

    def _set_advantages(self, groups: Sequence[Group]) -> int:
        """Sets every counted episode's advantage; returns how many negative ones the entropy control left out."""
        num_left_out = 0
        for group, advantages in zip(groups, self.algo.advantages()(groups), strict=True):
            for episode, advantage in zip(group.counted, advantages, strict=True):
                is_left_out = self.control is not None and self.control.is_active and advantage < 0
                episode.advantage = 0.0 if is_left_out else float(advantage)
                num_left_out += is_left_out
        return num_left_out


def _metric_name(counted: str) -> str:
    """What a reward took is a time; everything else that rewards count stands under rewards/."""
    reward, _, what = counted.rpartition("/")
    return f"time/rewards/{reward}_s" if what == "seconds" else f"rewards/{counted}"


def heldout_row(groups: Mapping[str, Sequence[Group]]) -> Row:
    """The metrics of an evaluation, from each task's groups."""
    failed = [episode.status == "failed" for sampled in groups.values() for group in sampled for episode in group.episodes]
    row: Row = {"eval/failed_fraction": float(np.mean(failed))}
    for name, sampled in groups.items():
        row |= evaluation_row(name, sampled)
    return row


def evaluation_row(name: str, groups: Sequence[Group]) -> Row:
    """A task's held-out metrics: the mean reward, half the width of its 95 % interval, and the mean of each prompt's best sample.

    The interval is 1.96 standard errors over prompts' means, because samples of one prompt are not independent. For rewards of
    0 and 1 the best of k samples is pass@k. A prompt whose samples all failed is left out; without any the task has no metric.
    """
    outcomes = scored_outcomes(groups)
    if not outcomes:
        return {}
    return {
        f"eval/{name}/reward_mean": float(np.mean([value for values in outcomes for value in values])),
        f"eval/{name}/reward_ci95": ci95([float(np.mean(values)) for values in outcomes]),
        f"eval/{name}/best_of_k": float(np.mean([max(values) for values in outcomes])),
    }


def scored_outcomes(groups: Sequence[Group]) -> list[list[float]]:
    """Each prompt's outcomes without failed episodes; prompts that have no other are left out."""
    outcomes = [[episode.outcome for episode in group.episodes if episode.status != "failed"] for group in groups]
    return [values for values in outcomes if values]


def ci95(values: Sequence[float]) -> float:
    """Half the width of the mean's 95 % interval: 1.96 standard errors; 0 for a single value, which says nothing of its spread."""
    return float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def overlong_penalty(num_tokens: int, max_tokens: int, buffer: float) -> float:
    """DAPO's soft penalty (arXiv 2503.14476, equation 13): 0 up to where the buffer begins, then straight down to -1 at the limit.

    An answer that was cut has max_tokens tokens and so gets -1. buffer: share of max_tokens.
    """
    begin = max_tokens * (1 - buffer)
    return -max(0.0, num_tokens - begin) / (max_tokens * buffer)


def rollout_row(groups: Sequence[Group]) -> Row:
    """What a rollout batch looked like, before anything was replaced."""
    episodes = [episode for group in groups for episode in group.episodes]
    scored = [episode for episode in episodes if episode.status != "failed"]
    names = sorted({name for episode in scored for name in episode.scores})
    outcomes = np.array([episode.outcome for episode in scored])
    return {
        "reward/mean": float(outcomes.mean()),
        "reward/std": float(outcomes.std()),
        **{f"reward/{name}": float(np.mean([e.scores[name] for e in scored if name in e.scores])) for name in names},
        **_task_rows(groups),
        "rollout/completion_tokens_mean": float(np.mean([episode.num_completion_tokens for episode in scored])),
        "rollout/truncated_fraction": float(np.mean([episode.status == "truncated" for episode in scored])),
        "rollout/groups_without_signal_fraction": float(np.mean([not group.has_signal for group in groups])),
        "rollout/episodes": len(episodes),
        "rollout/failed_fraction": 1 - len(scored) / len(episodes),
    }


def _task_rows(groups: Sequence[Group]) -> Row:
    """The mean reward of each task, where there are several."""
    outcomes: dict[str, list[float]] = {}
    for group in groups:
        outcomes.setdefault(group.prompt.task, []).extend(e.outcome for e in group.episodes if e.status != "failed")
    if len(outcomes) < 2:
        return {}
    return {f"reward/task/{task}": float(np.mean(values)) for task, values in sorted(outcomes.items()) if values}
