"""What tools and environments did in a rollout batch: metrics, and the end of a run whose tools are broken."""

from collections.abc import Sequence

import numpy as np

from posttrain.errors import RunError
from posttrain.rollout.desk import ENVIRONMENT_FAILED
from posttrain.stats import Row
from posttrain.types import Episode, Group

MIN_ANSWERS = 20  # before a share of failures means anything


def turns_row(groups: Sequence[Group]) -> Row:
    """How many turns episodes took and which limits ended them; nothing where every episode is one turn by design."""
    episodes = [episode for group in groups if group.prompt.tools or group.prompt.environment is not None for episode in group.episodes]
    if not episodes:
        return {}
    limits = ("turn_limit", "token_limit", "image_limit")
    return {
        "rollout/turns_mean": float(np.mean([len(episode.turns) for episode in episodes])),
        **{f"rollout/{limit}_fraction": float(np.mean([episode.status == limit for episode in episodes])) for limit in limits},
    }


def tools_row(groups: Sequence[Group], rate_floor: float) -> Row:
    """How tools were called, over the episodes that had any; nothing where none had.

    tools/rate is the share of episodes with a call, tools/calls_mean calls an episode, tools/seconds a call's mean. Shares of the calls:
    tools/invalid_fraction never reached a tool, tools/errors_fraction reached one and got an error (tools/failed_fraction of them the
    tool's own). tools/below_floor is 1 where the rate is under a floor above 0.
    """
    episodes = [episode for group in groups if group.prompt.tools for episode in group.episodes]
    if not episodes:
        return {}
    calls = [call for episode in episodes for turn in episode.turns for call in turn.tool_calls]
    rate = float(np.mean([any(turn.tool_calls for turn in episode.turns) for episode in episodes]))
    row: Row = {"tools/rate": rate, "tools/calls_mean": len(calls) / len(episodes)}
    if rate_floor:
        row["tools/below_floor"] = int(rate < rate_floor)
    statuses = [call.status for call in calls]
    shares = {"errors": ("refused", "failed"), "invalid": ("invalid",), "failed": ("failed",)}
    row |= {f"tools/{name}_fraction": sum(map(kinds.__contains__, statuses)) / max(1, len(calls)) for name, kinds in shares.items()}
    return {**row, "tools/seconds": sum(call.seconds for call in calls) / max(1, len(calls))}


def check_failures(episodes: Sequence[Episode], max_fraction: float) -> None:
    """Ends the run when tools or environments are broken.

    Raises RunError: a larger share of a rollout batch's answers than `max_fraction` were their own failures; from 20 answers on.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    called = [call for turn in turns for call in turn.tool_calls]
    failed = [f"a call of {call.name}, after {call.seconds:.1f} s" for call in called if call.status == "failed"]
    lost = [episode.failure for episode in episodes if episode.failure and episode.failure.startswith(ENVIRONMENT_FAILED)]
    num_answers = len(called) + len(lost) + sum(turn.observation is not None and not turn.tool_calls for turn in turns)
    failed += lost
    if num_answers >= MIN_ANSWERS and len(failed) > max_fraction * num_answers:
        raise RunError(
            f"tools or environments failed on {len(failed)} of {num_answers} answers of a rollout batch, more than "
            f"rewards.max_failure_fraction={max_fraction:g}; the last: {failed[-1]}"
        )
