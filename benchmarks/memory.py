"""Peak memory against length: `python benchmarks/memory.py [LONGEST]` prints JSON.

One SFT step on one document, half of it trained, SmolLM2, each length in a process of its own, with and without gradient
checkpointing. Lengths double from 1024 to LONGEST for as long as the next one would, by a straight line through the last two, stay
within the memory that is free.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
import psutil
from learner import make_learner

from posttrain.algorithms.losses import negative_logprob
from posttrain.builtin_models import resolve
from posttrain.packing import pack_documents
from posttrain.types import Batch, Document

SHORTEST = 1024
LONGEST = 8192
"""What the model was made for."""
FREE_SHARE = 0.8
"""Of the memory that is free at the start; the rest is the machine's own."""


def main(longest: int) -> None:
    """Prints {plain or checkpointed: {tokens: {peak_gb, step_s}}} and the memory that was free."""
    free_gb = psutil.virtual_memory().available / 1e9
    rows = {name: grown(checkpointed, longest, FREE_SHARE * free_gb) for name, checkpointed in (("plain", False), ("checkpointed", True))}
    print(json.dumps({"free_gb": free_gb, **rows}))


def grown(checkpointed: bool, longest: int, limit_gb: float) -> dict[int, dict[str, float]]:
    """One measurement a length, up to the longest that fits."""
    rows: dict[int, dict[str, float]] = {}
    tokens = SHORTEST
    while tokens <= longest:
        command = [sys.executable, __file__, "one", str(tokens), str(int(checkpointed))]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[tokens] = json.loads(result.stdout.splitlines()[-1])
        print(tokens, checkpointed, rows[tokens], file=sys.stderr, flush=True)
        before = rows.get(tokens // 2, {"peak_gb": 0.0})["peak_gb"]
        if rows[tokens]["peak_gb"] + 2 * (rows[tokens]["peak_gb"] - before) > limit_gb and len(rows) > 1:
            break
        tokens *= 2
    return rows


def one(tokens: int, checkpointed: bool) -> None:
    """Prints the peak resident memory of this process after a step, and its seconds; a short step before makes the optimizer's state."""
    learner = make_learner(resolve("builtin:smollm2"), gradient_checkpointing=checkpointed)
    learner.step(documents(SHORTEST // 4), negative_logprob)
    started = time.monotonic()
    learner.step(documents(tokens), negative_logprob)
    step_s = time.monotonic() - started
    print(json.dumps({"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "step_s": step_s}))


def documents(tokens: int) -> list[Batch]:
    """One document of so many random tokens, half of it trained."""
    token_ids = np.random.default_rng(0).integers(5, 40000, tokens)
    document = Document(token_ids=token_ids, is_trained=np.arange(tokens) >= tokens // 2)
    return pack_documents([document], normalization="token_mean", microbatch_tokens=tokens)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        one(int(sys.argv[2]), sys.argv[3] == "1")
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else LONGEST)
