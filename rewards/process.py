"""A scoring process: `python -m posttrain.rewards.process FD MEMORY_GB NAME...` constructs rewards once and judges episodes.

It is started, watched and killed by `posttrain.rewards.pool`, over the socket with the file descriptor FD. What it sends is
plain data, so that the driver never imports a reward's module. A reward that hangs, crashes, prints or eats memory does so
here, and here its exceptions become failures.

Protocol: first how many episodes each reward takes at a time, by name, or a `Failure` to construct one; then, for each (number,
prompt, episode) that comes, one (number, (judgement, usage)) for each reward in order, ending early after the first that is not a
`Score`. Where every reward takes several episodes at a time, they run in threads, and answers come in any order.
"""

import asyncio
import inspect
import json
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from numbers import Real
from typing import Any

from posttrain import plugins
from posttrain.errors import UserError
from posttrain.rewards.base import Abstain, Failure, Judgement, Reward, Score
from posttrain.rewards.sandbox_kernel import die_with_parent
from posttrain.types import Episode, Prompt

ENTRY_POINTS = "posttrain.rewards"
NICENESS = 5
"""Scoring runs beside engines that are still sampling; a reward that loops for ever should not slow them down much."""


def main(descriptor: int, memory_gb: float, names: list[str]) -> None:
    """Judges until the other end is closed."""
    die_with_parent(signal.SIGKILL)  # a reward that hangs must not outlive a driver that was killed
    os.nice(NICENESS)
    limit = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    connection: Connection[Any, Any] = Connection(descriptor)
    try:
        rewards = [construct(name) for name in names]
    except UserError as error:
        connection.send(Failure("error", str(error), is_mistake=True))
        return
    connection.send({name: reward.concurrency for name, reward in zip(names, rewards, strict=True)})
    desk = _Desk(connection, rewards)
    concurrency = min(reward.concurrency for reward in rewards)
    threads = ThreadPoolExecutor(concurrency) if concurrency > 1 else None
    while True:
        try:
            number, prompt, episode = connection.recv()
        except EOFError:
            os._exit(0)  # without waiting for threads whose answers nobody wants
        if threads is None:
            desk.answer(number, prompt, episode)
        else:
            threads.submit(desk.answer, number, prompt, episode)


class _Desk:
    """Judges episodes, for several threads at once where the rewards allow it."""

    def __init__(self, connection: "Connection[Any, Any]", rewards: Sequence[Reward]) -> None:
        self._connection = connection
        self._rewards = rewards
        self._counted = [dict(reward.usage()) for reward in rewards]
        self._lock = threading.Lock()

    def answer(self, number: int, prompt: Prompt, episode: Episode) -> None:
        """Sends the judgements of one episode."""
        for index, reward in enumerate(self._rewards):
            started = time.monotonic()
            judgement = judge(reward, prompt, episode)
            seconds = time.monotonic() - started
            with self._lock:
                usage = {"seconds": seconds, **self._new_usage(index)}
                self._connection.send((number, (judgement, usage)))
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
    plugin = plugins.load(ENTRY_POINTS, name)
    if not (isinstance(plugin, type) and issubclass(plugin, Reward)):
        raise UserError(f"{plugins.describe(ENTRY_POINTS, name)} is not a subclass of posttrain.rewards.base.Reward")
    try:
        reward = plugin()
    except UserError:
        raise
    except Exception as error:  # as in plugins.load: a plug-in that cannot start is its author's to mend
        text = " ".join(str(error).split())
        raise UserError(f"{plugins.describe(ENTRY_POINTS, name)} cannot be constructed: {type(error).__name__}: {text}") from error
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
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
