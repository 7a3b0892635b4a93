"""The sampling half of off-policy distillation: prompts -> a teacher's answers -> scores -> rules -> dataset.jsonl.

An episode with tools or an environment is one row, whole: every turn, what came back, and the tools; its images lie beside the dataset.
Where a task wants both formats (`task.thinking` below 1), the chat template asks for thinking before some of its prompts and for
none before the others. Prompts go to the engines `train.prompts_per_step` at a time. Each such batch is a file of rows as soon as
it is scored, so a run that was killed continues with the next one, and ends with the same dataset. What is left out, and why,
is counted.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.algorithms.distill_offpolicy import DistillOffpolicyConfig
from posttrain.algorithms.policy_gradient import engine_spec
from posttrain.algorithms.rollouts import TRAIN_SEED, Sampler, rollout_row
from posttrain.cluster import Cluster
from posttrain.config import Config
from posttrain.console import Console
from posttrain.data import soft_targets
from posttrain.data.conversations import has_thinking
from posttrain.data.messages import digest_of
from posttrain.episodes import conversation, write_episodes
from posttrain.errors import RunError, UserError
from posttrain.files import whole
from posttrain.fleet import Engines
from posttrain.inputs import Inputs, check_lengths, prepare
from posttrain.judge_service import JudgeService
from posttrain.metrics import MetricsWriter
from posttrain.model import load_tokenizer
from posttrain.rollout.render import Renderer
from posttrain.rundir import run_folder, write_config
from posttrain.stats import Timer
from posttrain.types import Group, RenderedPrompt

REASONS = ("failed", "unfinished", "other_format", "low_reward", "same_answer", "enough")
"""Why an answer is left out, in the order in which it is asked."""


def collect(config: Config, algo: DistillOffpolicyConfig) -> None:
    """Writes `dataset.jsonl` into the run's folder.

    Raises:
        UserError: something in the configuration, the data or the model cannot work; nothing was started or written.
        RunError: a part failed on the way, or no answer was good enough.
    """
    named = algo.teacher or config.model.path
    judge = JudgeService(config.rewards.judge_model, deadline_s=config.cluster.deadline_s)
    config_of_teacher = replace(config, model=replace(config.model, path=named))
    inputs = prepare(config_of_teacher)
    prompts, formats = both_formats(inputs, named)
    check_lengths(prompts, config_of_teacher, inputs.geometry)
    folder = run_folder(config)
    size = config.train.prompts_per_step
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    logs = folder.absolute() / "logs"
    room = Cluster(replace(config.cluster, num_learners=0, learner_cpus=1), logs)
    with closing(inputs), judge, room as cluster, Console(len(batches)) as console:
        write_config(folder, config)
        console.say(
            f"{named} answers {len(prompts)} training prompts of {', '.join(inputs.tasks)}, {algo.group_size} times each; at most "
            f"{algo.keep_per_prompt} answers a prompt with a reward of {algo.min_reward:g} or more are kept"
        )
        console.phase("starting the judge")
        judge.start(logs)
        engines = Engines(cluster, lambda threads: replace(engine_spec(config, inputs, threads), top_logprobs=algo.top_k))
        console.phase("loading the model")
        cluster.wait(engines.begin_start())
        sampler = Sampler(config=config, inputs=inputs, engines=engines, console=console, timer=Timer())
        sample(sampler, algo, folder, batches, formats)
        path, num_rows = join(folder, len(batches))
        console.say(f"{num_rows} rows for algo=sft: {path}")


def both_formats(inputs: Inputs, named: str) -> tuple[list[RenderedPrompt], dict[str, bool]]:
    """All training prompts, and by id whether they ask for thinking, where the task has `thinking` below 1.

    Exactly that share of a task's prompts asks for it, chosen by content. named: the teacher, for the line.

    Raises UserError: the chat template does not tell the two apart.
    """
    renderer = Renderer(load_tokenizer(inputs.model_path, "algo.teacher"))
    prompts: list[RenderedPrompt] = []
    thinks: dict[str, bool] = {}
    for task in inputs.tasks.values():
        share = task.config.thinking
        if share == 1:
            prompts += task.train
            continue
        by_content = sorted((prompt for prompt, _ in task.train), key=lambda prompt: digest_of(prompt.messages)[8:])
        thinks |= {prompt.id: place < round(share * len(by_content)) for place, prompt in enumerate(by_content)}
        for prompt, _ in task.train:
            without, with_ = (renderer.prompt(prompt.messages, enable_thinking=asked) for asked in (False, True))
            if np.array_equal(without, with_):
                raise UserError(
                    f"task {task.config.name}: thinking={share:g} wants answers with and without thinking, but the chat template of "
                    f"{named} does not take enable_thinking; expected thinking=1"
                )
            prompts.append((prompt, with_ if thinks[prompt.id] else without))
    return prompts, thinks


def sample(
    sampler: Sampler,
    algo: DistillOffpolicyConfig,
    folder: Path,
    batches: Sequence[Sequence[RenderedPrompt]],
    formats: Mapping[str, bool],
) -> None:
    """Writes the rows of every batch that has none yet. formats: as `both_formats` has them."""
    num_done = next((number for number in range(len(batches)) if not _part(folder, number).exists()), len(batches))
    with MetricsWriter(folder, resumed_step=num_done) as metrics:
        for number in range(num_done, len(batches)):
            label = f"batch {number + 1}/{len(batches)}"
            groups = sampler.sample(batches[number], algo.group_size, seed=(TRAIN_SEED, number), label=label)
            write_episodes(folder, number + 1, groups)
            rows, left_out = keep(groups, algo, formats, folder)
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


def keep(
    groups: Sequence[Group], algo: DistillOffpolicyConfig, formats: Mapping[str, bool], folder: Path
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows of what is kept, and how many answers were left out for which of `REASONS`.

    A group's best come first, in the order in which they were asked for where rewards are equal. Episodes whose texts differ in
    white space at their ends alone are the same answer. formats: as `both_formats` has them; folder: where images are written.
    """
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for group in groups:
        taken: set[tuple[str, ...]] = set()
        wanted = formats.get(group.prompt.id)
        for index, episode in sorted(enumerate(group.episodes), key=lambda pair: -pair[1].outcome):
            learned = replace(episode, turns=[replace(turn, text=_whole_thought(turn.text.strip())) for turn in episode.turns])
            texts = tuple(turn.text for turn in learned.turns)
            asked = (
                episode.status == "failed",
                episode.status != "complete" or not learned.text,
                wanted is not None and wanted != has_thinking({"role": "assistant", "content": learned.text}),
                episode.outcome < algo.min_reward,
                texts in taken,
                len(taken) == algo.keep_per_prompt,
            )
            reason = next((reason for reason, holds in zip(REASONS, asked, strict=True) if holds), None)
            if reason:
                left_out[reason] += 1
                continue
            taken.add(texts)
            row = {"id": f"{group.prompt.id}#{index}", "answer": group.prompt.reference, "reward": episode.outcome}
            row |= conversation(group.prompt, learned, folder)
            if wanted is not None:
                row["thinking"] = wanted
            if episode.turns[-1].top_ids is not None:
                row[soft_targets.FIELD] = soft_targets.to_field(episode.turns[-1])
            rows.append(row)
    return rows, left_out


def _whole_thought(text: str) -> str:
    """A thought that the chat template opened, and the turn only closes, is a whole block in the row."""
    return f"<think>\n{text}" if "</think>" in text and "<think>" not in text else text


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
