"""A scoring process: `python -m posttrain.rewards.process FD MEMORY_GB NAME...` constructs rewards once and judges episodes.

It is started, watched and killed by `posttrain.rewards.pool`, over the socket with the file descriptor FD. What it sends is
plain data, so that the driver never imports a reward's module. A reward that hangs, crashes, prints or eats memory does so
here, and here its exceptions become failures.

Protocol: first None, or a `Failure` to construct a reward; then, for each (prompt, episode) that comes, one (judgement, usage) for
each reward in order, ending early after the first that is not a `Score`.
"""

import asyncio
import inspect
import json
import math
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from numbers import Real
from typing import Any

from posttrain import plugins
from posttrain.errors import UserError
from posttrain.rewards.base import Abstain, Failure, Judgement, Reward, Score
from posttrain.rewards.sandbox_kernel import die_with_parent
from posttrain.types import Episode, Prompt

ENTRY_POINTS = "posttrain.rewards"


def main(descriptor: int, memory_gb: float, names: list[str]) -> None:
    """Judges until the other end is closed."""
    die_with_parent(signal.SIGKILL)  # a reward that hangs must not outlive a driver that was killed
    limit = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    connection: Connection[Any, Any] = Connection(descriptor)
    try:
        rewards = [construct(name) for name in names]
    except UserError as error:
        connection.send(Failure("error", str(error), is_mistake=True))
        return
    connection.send(None)
    while True:
        try:
            prompt, episode = connection.recv()
        except EOFError:
            return
        for reward in rewards:
            judgement, usage = measured(reward, prompt, episode)
            connection.send((judgement, usage))
            if not isinstance(judgement, Score):
                break


def construct(name: str) -> Reward:
    """The reward registered as `name`.

    Raises UserError: there is none, or its distribution is broken.
    """
    plugin = plugins.load(ENTRY_POINTS, name)
    if not (isinstance(plugin, type) and issubclass(plugin, Reward)):
        raise UserError(f"{plugins.describe(ENTRY_POINTS, name)} is not a subclass of posttrain.rewards.base.Reward")
    try:
        return plugin()
    except UserError:
        raise
    except Exception as error:  # as in plugins.load: a plug-in that cannot start is its author's to mend
        text = " ".join(str(error).split())
        raise UserError(f"{plugins.describe(ENTRY_POINTS, name)} cannot be constructed: {type(error).__name__}: {text}") from error


def measured(reward: Reward, prompt: Prompt, episode: Episode) -> tuple[Judgement, dict[str, float]]:
    """A judgement, the seconds that it took, and what else the reward counts."""
    before, started = reward.usage(), time.monotonic()
    judgement = judge(reward, prompt, episode)
    spent = {name: float(total) - before.get(name, 0.0) for name, total in reward.usage().items()}
    return judgement, {"seconds": time.monotonic() - started, **spent}


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
