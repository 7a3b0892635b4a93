"""The sampling half of off-policy distillation: prompts -> a teacher's answers -> scores -> rules -> dataset.jsonl.

Prompts go to the engines `train.prompts_per_step` at a time. Each such batch is a file of rows as soon as it is scored, so a
run that was killed continues with the next one, and ends with the same dataset. What is left out, and why, is counted.
"""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.algorithms.distill_offpolicy import DistillOffpolicyConfig
from posttrain.algorithms.policy_gradient import engine_spec
from posttrain.algorithms.rollouts import TRAIN_SEED, Sampler, rollout_row
from posttrain.cluster import Cluster
from posttrain.config import Config
from posttrain.console import Console
from posttrain.data.images import give_images
from posttrain.episodes import write_episodes
from posttrain.errors import RunError
from posttrain.files import whole
from posttrain.fleet import Engines
from posttrain.inputs import prepare
from posttrain.metrics import MetricsWriter
from posttrain.rundir import run_folder, write_config
from posttrain.stats import Timer
from posttrain.types import Episode, Group, RenderedPrompt

REASONS = ("failed", "unfinished", "low_reward", "same_answer", "enough")
"""Why an answer is left out, in the order in which it is asked."""


def collect(config: Config, algo: DistillOffpolicyConfig) -> None:
    """Writes `dataset.jsonl` into the run's folder.

    Raises:
        UserError: something in the configuration, the data or the model cannot work; nothing was started or written.
        RunError: a part failed on the way, or no answer was good enough.
    """
    named = algo.teacher or config.model.path
    inputs = prepare(replace(config, model=replace(config.model, path=named)))
    folder = run_folder(config)
    prompts = [prompt for task in inputs.tasks.values() for prompt in task.train]
    size = config.train.prompts_per_step
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    room = Cluster(replace(config.cluster, num_learners=0, learner_cpus=1), folder.absolute() / "logs")
    with closing(inputs), room as cluster, Console(len(batches)) as console:
        write_config(folder, config)
        console.say(
            f"{named} answers {len(prompts)} training prompts of {', '.join(inputs.tasks)}, {algo.group_size} times each; at most "
            f"{algo.keep_per_prompt} answers a prompt with a reward of {algo.min_reward:g} or more are kept"
        )
        engines = Engines(cluster, lambda threads: engine_spec(config, inputs, threads))
        console.phase("loading the model")
        cluster.wait(engines.begin_start())
        sampler = Sampler(config=config, inputs=inputs, engines=engines, console=console, timer=Timer())
        sample(sampler, algo, folder, batches)
        path, num_rows = join(folder, len(batches))
        console.say(f"{num_rows} rows for algo=sft: {path}")


def sample(sampler: Sampler, algo: DistillOffpolicyConfig, folder: Path, batches: Sequence[Sequence[RenderedPrompt]]) -> None:
    """Writes the rows of every batch that has none yet."""
    num_done = next((number for number in range(len(batches)) if not _part(folder, number).exists()), len(batches))
    with MetricsWriter(folder, resumed_step=num_done) as metrics:
        for number in range(num_done, len(batches)):
            label = f"batch {number + 1}/{len(batches)}"
            groups = sampler.sample(batches[number], algo.group_size, seed=(TRAIN_SEED, number), label=label)
            rows, left_out = keep(groups, algo.min_reward, algo.keep_per_prompt)
            write_episodes(folder, number + 1, groups)
            seconds = sampler.timer.take()
            metrics.write(
                {
                    "step": number + 1,
                    **rollout_row(groups),
                    **sampler.take_counts(),
                    **{f"distill/left_out_{reason}": left_out[reason] for reason in REASONS},
                    "distill/rows": len(rows),
                    "time/rollout_s": seconds["rollout"],
                    "time/reward_s": seconds["reward"],
                }
            )
            with whole(_part(folder, number)) as draft:
                draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            counts = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in left_out.items())
            sampler.console.say(f"{label}: {len(rows)} of {sum(left_out.values(), len(rows))} answers kept; left out: {counts or 'none'}")


def keep(groups: Sequence[Group], min_reward: float, keep_per_prompt: int) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows of what is kept, and how many answers were left out for which of `REASONS`.

    A group's best come first, in the order in which they were asked for where rewards are equal. Texts that differ in white
    space at their ends alone are the same answer.
    """
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for group in groups:
        taken: set[str] = set()
        for index, episode in sorted(enumerate(group.episodes), key=lambda pair: -pair[1].outcome):
            text = episode.text.strip()
            reason = _reason(episode, min_reward, text in taken, len(taken) == keep_per_prompt)
            if reason:
                left_out[reason] += 1
                continue
            taken.add(text)
            messages = [*give_images(group.prompt.messages, group.prompt.images), {"role": "assistant", "content": text}]
            rows.append(
                {"id": f"{group.prompt.id}#{index}", "messages": messages, "answer": group.prompt.reference, "reward": episode.outcome}
            )
    return rows, left_out


def _reason(episode: Episode, min_reward: float, is_same: bool, is_enough: bool) -> str | None:
    asked = (
        episode.status == "failed",
        episode.status != "complete" or not episode.text.strip(),
        episode.outcome < min_reward,
        is_same,
        is_enough,
    )
    return next((reason for reason, holds in zip(REASONS, asked, strict=True) if holds), None)


def _part(folder: Path, number: int) -> Path:
    return folder / "rows" / f"batch_{number:06d}.jsonl"


def join(folder: Path, num_batches: int) -> tuple[Path, int]:
    """The dataset of all batches, and its number of rows."""
    text = "".join(_part(folder, number).read_text() for number in range(num_batches))
    if not text:
        raise RunError(f"no answer was kept; the counts are in {folder / 'metrics.jsonl'}, every answer in {folder / 'episodes'}")
    with whole(folder / "dataset.jsonl") as draft:
        draft.write_text(text)
    return folder / "dataset.jsonl", text.count("\n")
