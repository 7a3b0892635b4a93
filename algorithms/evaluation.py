"""The run of `algo=evaluate`: engines and rewards, no learner; one row of metrics and one file of episodes.

Held-out prompts and their seed are those of an evaluation before a run's first step. The engines load the model themselves,
so there is no publish to prove. pass@k is made here, the other metrics as in training (`rollouts.py`).
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from math import comb

import numpy as np

from posttrain.algorithms.evaluate import EvaluateConfig
from posttrain.algorithms.policy_gradient import engine_spec
from posttrain.algorithms.rollouts import Sampler, ci95, heldout_row, scored_outcomes
from posttrain.cluster import Cluster
from posttrain.config import Config
from posttrain.console import Console
from posttrain.episodes import write_episodes
from posttrain.fleet import Engines
from posttrain.inputs import prepare
from posttrain.judge_service import JudgeService
from posttrain.metrics import MetricsWriter, read_rows
from posttrain.rundir import run_folder, write_config
from posttrain.stats import Row, Timer, with_interval


def evaluate(config: Config, algo: EvaluateConfig) -> None:
    """Evaluates model.path; an evaluation that was killed before its end is made anew by run.resume=true.

    Raises:
        UserError: something in the configuration, the data or the model cannot work; nothing was started or written.
        RunError: a part failed on the way.
    """
    folder = run_folder(config)
    if read_rows(folder / "metrics.jsonl"):
        Console(0).say(f"{folder} holds this evaluation already")
        return
    judge = JudgeService(config.rewards.judge_model, deadline_s=config.cluster.deadline_s)
    inputs = prepare(replace(config, train=replace(config.train, prompts_per_step=1)))  # no batch of training prompts is needed
    logs = folder.absolute() / "logs"
    engines_only = replace(config.cluster, num_learners=0)
    with closing(inputs), judge, Cluster(engines_only, logs) as cluster, Console(0) as console:
        write_config(folder, config)
        console.plan(config, inputs, cluster, folder)
        console.phase("starting the judge")
        judge.start(logs)
        engines = Engines(cluster, lambda threads: engine_spec(config, inputs, threads))
        console.phase("loading the model")
        starting = engines.begin_start()
        console.placed(cluster)
        cluster.wait(starting)
        sampler = Sampler(config=config, inputs=inputs, engines=engines, console=console, timer=Timer())
        started = time.monotonic()
        groups = sampler.sample_heldout(0)
        row = heldout_row(groups)
        for name, sampled in groups.items():
            row |= pass_row(name, scored_outcomes(sampled), algo.solved_at)
            kinds = ["reward_mean", *(f"pass@{k}" for k in range(1, 1 + config.eval.samples_per_prompt))]
            found = [f"{kind} {with_interval(row, key)}" for kind in kinds if (key := f"eval/{name}/{kind}") in row]
            console.say(f"held out, {name}: {', '.join(found)}")
        write_episodes(folder, 0, [group for sampled in groups.values() for group in sampled])
        with MetricsWriter(folder, resumed_step=0) as metrics:
            metrics.write({"step": 0, **row, **sampler.take_counts(), "time/eval_s": time.monotonic() - started})
        console.say(f"done; the numbers are in {folder / 'metrics.jsonl'}")


def pass_row(name: str, outcomes: Sequence[Sequence[float]], solved_at: float) -> Row:
    """pass@k of a task with its 95 % interval over prompts, for k = 1, 2, 4, ... up to the most samples that a prompt has.

    outcomes: of each prompt's samples. A prompt with fewer than k samples (others failed) is left out of pass@k.
    """
    row: Row = {}
    num_samples = max((len(values) for values in outcomes), default=0)
    powers = {2**power for power in range(num_samples.bit_length())}
    for k in sorted(powers | {num_samples}) if num_samples else ():
        solved = [pass_at_k(len(values), sum(value >= solved_at for value in values), k) for values in outcomes if len(values) >= k]
        row |= {f"eval/{name}/pass@{k}": float(np.mean(solved)), f"eval/{name}/pass@{k}_ci95": ci95(solved)}
    return row


def pass_at_k(num_samples: int, num_solved: int, k: int) -> float:
    """The chance that k samples hold a solved one, unbiased (arXiv 2107.03374, equation 1): 1 - C(n - c, k) / C(n, k); k <= n."""
    return 1 - comb(num_samples - num_solved, k) / comb(num_samples, k)
