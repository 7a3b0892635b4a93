r"""The reward `function_call`: the policy called the right functions with the right arguments, in any order.

Left out on purpose: running the calls, JSON Schema of the arguments, and tolerance: 5 and 5.0 are equal in JSON's sense, and
"5" is neither. What the policy says around its calls does not count.
"""

import json
from typing import Any

from posttrain.rewards.base import Reward, answer_text
from posttrain.tool_calls import written_calls
from posttrain.types import Episode, Prompt

Call = dict[str, Any]
"""{"name": the function, "arguments": {name: value}}"""


class FunctionCall(Reward):
    """From 0.0 to 1.0: the mean share of arguments that agree, over the calls of the reference (ToolRM's)."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """Compares the episode's calls with the reference, a list of {"name", "arguments"}.

        The calls are those of all turns; when there are none, what stands in `<tool_call>{json}</tool_call>` after any thinking of the
        last turn. One that is not JSON of this form makes the score 0.0.
        Raises ValueError: the reference is not such a list, or one of its calls repeats, so that no answer could be right.
        """
        gold = _reference(prompt.reference)
        turned = [call for turn in episode.turns for call in turn.tool_calls]
        written = [] if turned else written_calls(answer_text(episode))
        if any(call.status == "invalid" for call in turned) or any(call.error for call in written):
            return 0.0
        try:
            return call_score([{"name": call.name, "arguments": call.arguments} for call in turned or written], gold)
        except RecursionError:  # arguments that nest deeper than anybody means
            return 0.0


def call_score(predicted: list[Call], gold: list[Call]) -> float:
    """How well `predicted` matches `gold`, from 0.0 to 1.0.

    0 when their numbers differ or a predicted call repeats, else
        1/G sum over gold calls g of max over predicted p of the same name of |{k: p_k = g_k}| / |keys(p) or keys(g)|
    with G gold calls, and 0 for a gold call without a predicted one of its name (ToolRM). Two calls without arguments agree
    entirely. Where no call is expected, making none is 1.0. The order of calls and of arguments does not matter.
    """
    if len(predicted) != len(gold) or len({identity(call) for call in predicted}) != len(predicted):
        return 0.0
    if not gold:
        return 1.0
    return sum(max((_agreement(p, g) for p in predicted if p["name"] == g["name"]), default=0.0) for g in gold) / len(gold)


def is_call(value: Any) -> bool:
    """Whether `value` has a name and a mapping of arguments; further keys, such as an id, are not looked at."""
    return isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("arguments"), dict)


def _agreement(predicted: Call, gold: Call) -> float:
    ours, theirs = ({key: _canonical(value) for key, value in call["arguments"].items()} for call in (predicted, gold))
    keys = ours.keys() | theirs.keys()
    return len(ours.items() & theirs.items()) / len(keys) if keys else 1.0


def identity(call: Call) -> str:
    """A text that two calls share when their names and, as JSON, their arguments are equal.

    Raises RecursionError: arguments that nest deeper than anybody means.
    """
    return _canonical([call["name"], call["arguments"]])


def _canonical(value: Any) -> str:
    """A text that two values share when they are equal as JSON: true is not 1, and 5.0 is 5."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _reference(reference: Any) -> list[Call]:
    if not isinstance(reference, list) or not all(is_call(call) for call in reference):
        raise ValueError(f"the reference is {reference!r}, expected a list of {{'name': ..., 'arguments': {{...}}}}")
    if len({identity(call) for call in reference}) != len(reference):
        raise ValueError(f"the reference repeats a call, and calls that repeat score 0: {reference!r}")
    return reference
