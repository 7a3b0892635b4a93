"""What is neither engine, reward nor learner in a SmolLM2 run: `python benchmarks/overhead.py` prints JSON.

Two runs of a few steps: the 64 completions of up to 48 tokens that are measured against TRL, and the default run, whose answers are
about half as long. Their metrics say how long a step took on the wall, and how long vLLM, the rewards and the learner's steps took of
it. The rest is Ray, packing, files, and publishing the weights.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from against_trl import CASES, our_rows, run_rows, write_prompts

PHASES = ("rollout", "reward", "pack", "learn", "publish", "other")
STEPS = 12


def main() -> None:
    """Prints {run: medians over all steps but the first two}."""
    case = {**CASES["64 completions"], "seed": 0, "steps": STEPS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        default = {"algo": "sapo", "train.steps": STEPS, "eval.num_prompts": 1, "eval.samples_per_prompt": 1}
        runs = {
            "64 completions of up to 48 tokens": our_rows(write_prompts(folder, ""), case, folder / "completions", []),
            "default run": run_rows(default, folder / "default", []),
        }
    print(json.dumps({name: medians(rows[2:]) for name, rows in runs.items()}))


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the seconds of each phase, and of the share that is overhead."""
    for row in rows:
        computed = row["time/engine_busy_s"] + row["time/reward_s"] + row["time/learner_busy_s"]
        row["overhead"] = 1 - computed / row["time/step_s"]
        row["overhead_without_publish"] = row["overhead"] - row["time/publish_s"] / row["time/step_s"]
    names = [f"time/{phase}_s" for phase in (*PHASES, "step", "engine_busy", "learner_busy")]
    return {name: statistics.median(row[name] for row in rows) for name in (*names, "overhead", "overhead_without_publish")}


if __name__ == "__main__":
    main()
