"""Scoring rate and memory of the scoring processes: `python benchmarks/rewards.py [NUM_SCORES]` prints JSON.

Rule rewards on short answers, a group of 8 at a time as a run submits them, on two scoring processes. Worker milliseconds are
the wall time times the number of processes over the number of scores: what a process needs for one.
"""

import json
import sys
import time

import numpy as np
import psutil

from posttrain.config import RewardsConfig
from posttrain.rewards.manager import RewardManager
from posttrain.types import Episode, Group, Prompt, Turn

NUM_PROCESSES = 2
GROUP_SIZE = 8
CASES = {"numeric": ("the sum is {}", "{}"), "math": (r"so it is \boxed{{\frac{{{}}}{{7}}}}", r"\frac{{{}}}{{7}}"), "exact": ("{}", "{}")}


def main(num_scores: int) -> None:
    """Prints {reward: {worker_ms, memory at the start and end}}."""
    print(json.dumps({name: measure(name, answer, reference, num_scores) for name, (answer, reference) in CASES.items()}))


def measure(name: str, answer: str, reference: str, num_scores: int) -> dict[str, float]:
    """One reward; every second answer is wrong."""
    with RewardManager({name: 1.0}, RewardsConfig(num_processes=NUM_PROCESSES)) as manager:
        for index in range(NUM_PROCESSES * 8):
            manager.submit(group(answer, reference, index))
        manager.finish()  # both processes run, and libraries are loaded
        memory_before = memory_mb()
        started = time.monotonic()
        right = 0.0
        for first in range(0, num_scores, 512):
            groups = [group(answer, reference, index) for index in range(first, min(first + 512, num_scores), GROUP_SIZE)]
            for one in groups:
                manager.submit(one)
            manager.finish()
            right += sum(episode.reward for one in groups for episode in one.episodes)
        seconds = time.monotonic() - started
        assert right == num_scores / 2
        return {
            "scores": num_scores,
            "worker_ms": 1e3 * seconds * NUM_PROCESSES / num_scores,
            "memory_before_mb": memory_before,
            "memory_after_mb": memory_mb(),
        }


def group(answer: str, reference: str, index: int) -> Group:
    """Eight answers to one prompt, half of them right."""
    prompt = Prompt(id=str(index), task="t", messages=[], reference=reference.format(index))
    turns = [
        Turn(
            token_ids=np.zeros(1, np.int64),
            logprobs=np.zeros(1, np.float32),
            text=answer.format(index + k % 2),
            stop_reason="stop",
            policy_version=0,
        )
        for k in range(GROUP_SIZE)
    ]
    episodes = [Episode(prompt_id=prompt.id, turns=[turn], status="complete") for turn in turns]
    return Group(prompt=prompt, prompt_token_ids=np.zeros(1, np.int64), episodes=episodes)


def memory_mb() -> float:
    """Resident memory of this process and the scoring processes."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_info().rss for process in family) / 1e6


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
