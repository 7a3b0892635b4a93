"""The reward `instructions`: which share of a prompt's verifiable constraints the answer satisfies.

    reference = {"constraints": [{"type": "words", "max": 50}, {"type": "no_commas"}, {"type": "starts_with", "prefix": "Dear"}]}
    score = constraints that hold / constraints

A constraint's type is a name in `constraints.CONSTRAINTS`, and what stands beside it are that function's parameters. The
thinking is no part of what is judged. Left out on purpose: weights of constraints, the all-or-nothing variant (a
prompt has all of its constraints satisfied where the score is 1.0), and a judgement of whether the answer is any good.
"""

from typing import Any

from posttrain.errors import nearest
from posttrain.rewards.base import Reward, Score, answer_text
from posttrain.rewards.constraints import CONSTRAINTS
from posttrain.rewards.constraints_base import check_parameters
from posttrain.types import Episode, Prompt


class Instructions(Reward):
    """The fraction of the reference's constraints that the answer satisfies, from 0.0 to 1.0."""

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """Judges the text after any thinking; details hold each constraint with whether it `holds`, in the reference's order.

        An empty answer satisfies nothing, not even `no_commas`. Raises ValueError, whatever the answer: the reference is not
        {"constraints": [...]} with at least one, or a constraint's type or parameters are wrong.
        """
        constraints = _constraints(prompt.reference)
        for constraint in constraints:
            check_parameters(constraint["type"], CONSTRAINTS[constraint["type"]], _parameters(constraint))
        text = answer_text(episode)
        verdicts = [bool(text) and CONSTRAINTS[one["type"]](text, **_parameters(one)) for one in constraints]
        details = [{**constraint, "holds": holds} for constraint, holds in zip(constraints, verdicts, strict=True)]
        return Score(sum(verdicts) / len(verdicts), {"constraints": details})


def _constraints(reference: Any) -> list[dict[str, Any]]:
    constraints = reference.get("constraints") if isinstance(reference, dict) else None
    if not isinstance(constraints, list) or not constraints:
        raise ValueError(f'the reference is {reference!r}, expected {{"constraints": [...]}} with at least one constraint')
    for constraint in constraints:
        if not isinstance(constraint, dict) or not isinstance(constraint.get("type"), str):
            raise ValueError(f'a constraint is {constraint!r}, expected {{"type": ..., and its parameters}}')
        if constraint["type"] not in CONSTRAINTS:
            raise ValueError(f"unknown constraint {constraint['type']!r}; {nearest(constraint['type'], CONSTRAINTS)}")
    return constraints


def _parameters(constraint: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the type; None is what tables write where a row has no such parameter."""
    return {key: value for key, value in constraint.items() if key != "type" and value is not None}
