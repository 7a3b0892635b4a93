"""Draws the examples of a reasoning-gym family, in an interpreter of its own: a script that `sources.py` runs.

The same request has to give the same examples in every process, or a resumed run would train on what was held out. Some
families go through sets of strings, and some use Python's global generator instead of their seed, so that the examples follow
from the seed only where PYTHONHASHSEED is fixed, which has to happen before an interpreter starts.

Reads {"family", "params", "num_examples"} as JSON from standard input; writes a pickled `Reply` to standard output (pickled,
because the scorers of some families tell tuples from lists). An exception of the family ends the script: the traceback's last
line is what the user sees. Imports nothing of posttrain: it is run by its path.
"""

import contextlib
import dataclasses
import json
import pickle
import random
import sys
from typing import Any, TypedDict

import reasoning_gym
from reasoning_gym.factory import DATASETS

SEED = 0  # never the run's seed: another run.seed must not move a question into or out of the held-out half


class Reply(TypedDict, total=False):
    """Exactly one of: what was drawn; the names of all families; the names of the family's parameters."""

    entries: list[dict[str, Any]]
    families: list[str]
    params: list[str]


def draw(family: str, params: dict[str, Any], num_examples: int) -> Reply:
    """The first `num_examples` entries of the family, or the names to choose from where one is unknown."""
    if family not in DATASETS:
        return {"families": sorted(DATASETS)}
    known = {field.name for field in dataclasses.fields(DATASETS[family][1])} - {"seed", "size"}
    if not known.issuperset(params):
        return {"params": sorted(known)}
    random.seed(SEED)
    dataset = reasoning_gym.create_dataset(family, seed=SEED, size=num_examples, **params)
    return {"entries": [dataset[i] for i in range(num_examples)]}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        reply = draw(**json.load(sys.stdin))
    pickle.dump(reply, sys.stdout.buffer)
