"""The reward `tool_calling`: the policy called tools about as often as its prompt is estimated to need.

Without it a policy settles on a single call, whatever the prompt needs (Qwen3-VL report, section 4.5, which leaves the formula open).
"""

from posttrain.rewards.base import Reward, Score
from posttrain.rewards.function_call import identity
from posttrain.types import Episode, Prompt, ToolCall


class ToolCalling(Reward):
    """How near the number of useful calls is to the prompt's estimate."""

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """max(0, 1 - |n - n*| / max(n*, 1)), in [0, 1]; 1.0 where n = n* alone.

        n: calls that a tool answered, each only once however often it was repeated. n*: `metadata.num_calls`, a whole number >= 0.
        The details hold both, and how many calls there were in all. Raises ValueError: there is no such estimate.
        """
        target = prompt.metadata.get("num_calls")
        if isinstance(target, bool) or not isinstance(target, int) or target < 0:
            raise ValueError(f"metadata.num_calls is {target!r}, expected the estimated number of calls, a whole number, at least 0")
        calls = [call for turn in episode.turns for call in turn.tool_calls]
        useful = len(distinct_answered(calls))
        value = max(0.0, 1 - abs(useful - target) / max(target, 1))
        return Score(value, {"useful_calls": useful, "estimated_calls": target, "calls": len(calls)})


def distinct_answered(calls: list[ToolCall]) -> list[ToolCall]:
    """The calls that a tool answered, without those that an earlier one equals in name and arguments as JSON."""
    found: dict[str, ToolCall] = {}
    for call in calls:
        if call.status == "answered":
            found.setdefault(_identity(call), call)
    return list(found.values())


def _identity(call: ToolCall) -> str:
    try:
        return identity({"name": call.name, "arguments": call.arguments})
    except RecursionError:  # an argument that the tool does not look at, nested deeper than anybody means: these are all alike
        return call.name
