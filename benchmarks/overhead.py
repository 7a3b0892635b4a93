"""What is neither engine, reward nor learner in the default run: `python benchmarks/overhead.py` prints JSON.

The default SmolLM2 run for a few steps; its metrics say how long a step took on the wall, and how long vLLM's steps, the
rewards and the learner's steps took of it. The rest is Ray, packing, files, and publishing the weights.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from posttrain.metrics import read_rows

PHASES = ("rollout", "reward", "pack", "learn", "publish", "other")


def main(steps: int = 12) -> None:
    """Prints medians over all steps but the first two."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        overrides = ["algo=sapo", f"train.steps={steps}", f"run.dir={run}", "eval.num_prompts=1", "eval.samples_per_prompt=1"]
        command = [sys.executable, "-m", "posttrain.run", *overrides]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"posttrain failed:\n{result.stderr[-3000:]}")
        rows = read_rows(run / "metrics.jsonl")[2:]
    for row in rows:
        computed = row["time/engine_busy_s"] + row["time/reward_s"] + row["time/learner_busy_s"]
        row["overhead"] = 1 - computed / row["time/step_s"]
        row["overhead_without_publish"] = row["overhead"] - row["time/publish_s"] / row["time/step_s"]
    names = [f"time/{phase}_s" for phase in (*PHASES, "step", "engine_busy", "learner_busy")]
    print(json.dumps({name: statistics.median(row[name] for row in rows) for name in (*names, "overhead", "overhead_without_publish")}))


if __name__ == "__main__":
    main()
