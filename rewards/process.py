"""A scoring process: `python -m posttrain.rewards.process FD MEMORY_GB NAME...` constructs rewards once and judges episodes.

It is started, watched and killed by `posttrain.rewards.pool`, and is a process of a lane (`posttrain.lane_process`). A reward that hangs,
crashes, prints or eats memory does so here, and here its exceptions become failures.

Its greeting is how many episodes each reward takes at a time, by name. A request is (prompt, episode); the answers are one (judgement,
usage) for each reward in order, ending early after the first that is not a `Score`. Where every reward takes several episodes at a time,
they run in threads, and answers come in any order.
"""

import asyncio
import inspect
import json
import math
import sys
import threading
import time
from collections.abc import Sequence
from numbers import Real
from typing import Any

from posttrain import plugins
from posttrain.errors import UserError
from posttrain.lane_process import Answering, Send, construct_plugin, serve
from posttrain.lanes import Failure
from posttrain.rewards.base import Abstain, Judgement, Reward, Score
from posttrain.types import Episode, Prompt

ENTRY_POINTS = "posttrain.rewards"


def prepare(names: Sequence[str]) -> tuple[dict[str, int], Answering, int]:
    """Constructs the rewards; how many episodes each takes at a time, what judges, and how many episodes it judges at a time."""
    rewards = [construct(name) for name in names]
    takes = {name: reward.concurrency for name, reward in zip(names, rewards, strict=True)}
    return takes, _Desk(rewards).answer, min(takes.values())


class _Desk:
    """Judges episodes, for several threads at once where the rewards allow it."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._rewards = rewards
        self._counted = [dict(reward.usage()) for reward in rewards]
        self._lock = threading.Lock()

    def answer(self, request: tuple[Prompt, Episode], send: Send) -> None:
        """Sends the judgements of one episode."""
        for index, reward in enumerate(self._rewards):
            started = time.monotonic()
            judgement = judge(reward, *request)
            seconds = time.monotonic() - started
            with self._lock:
                usage = {"seconds": seconds, **self._new_usage(index)}
                send((judgement, usage))
            if not isinstance(judgement, Score):
                return

    def _new_usage(self, index: int) -> dict[str, float]:
        """What the reward has counted since the last time: sums are right, whichever episode they are told with."""
        before, total = self._counted[index], dict(self._rewards[index].usage())
        self._counted[index] = total
        return {name: float(value) - before.get(name, 0.0) for name, value in total.items()}


def construct(name: str) -> Reward:
    """The reward registered as `name`.

    Raises UserError: there is none, or its distribution is broken.
    """
    reward: Reward = construct_plugin(ENTRY_POINTS, name, Reward)
    if not (isinstance(reward.concurrency, int) and reward.concurrency > 0):
        raise UserError(f"{plugins.describe(ENTRY_POINTS, name)} has concurrency={reward.concurrency!r}, expected a whole number above 0")
    return reward


def judge(reward: Reward, prompt: Prompt, episode: Episode) -> Judgement:
    """One reward's judgement as plain data: a Score has a finite float and details that are JSON."""
    try:
        judgement: Any = reward.score(prompt, episode)
        if inspect.isawaitable(judgement):
            judgement = asyncio.run(_result_of(judgement))
        return Abstain(str(judgement.reason)) if isinstance(judgement, Abstain) else _score(judgement)
    except UserError as error:
        return Failure("error", str(error), is_mistake=True)
    except Exception as error:  # somebody else's code on the policy's text: anything can happen, and one episode is not the run
        return Failure("error", f"{type(error).__name__}: {' '.join(str(error).split())}")


async def _result_of(judgement: Any) -> Any:
    return await judgement


def _score(judgement: object) -> Score:
    value, details = (judgement.value, judgement.details) if isinstance(judgement, Score) else (judgement, {})
    if not isinstance(value, Real):
        raise TypeError(f"the score is {value!r}, expected a number, a Score or an Abstain")
    if not math.isfinite(value):
        raise ValueError(f"the score is {value}, expected a finite number")
    return Score(float(value), json.loads(json.dumps(details, default=str)))


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]), lambda: prepare(sys.argv[3:]))
