"""Where the time of the default run goes: `python benchmarks/default_run.py [RUN_DIR]` prints JSON.

Without a folder of a finished run, it makes one: `python -m posttrain.run algo=sapo eval.every=15`. Start-up and the end are what the
command took beyond its steps and evaluations.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from posttrain.metrics import read_rows

PHASES = ("rollout", "reward", "pack", "learn", "publish", "other")


def main(folder: Path, wall_s: float | None) -> None:
    """Prints seconds by phase, and what a step took in each third of the run."""
    rows = read_rows(folder / "metrics.jsonl")
    seconds = {phase: sum(row[f"time/{phase}_s"] for row in rows) for phase in PHASES}
    seconds["evaluation"] = sum(row.get("time/eval_s", 0.0) for row in rows)
    if wall_s is not None:
        seconds["start and end"] = wall_s - sum(seconds.values())
    third = len(rows) // 3
    parts = [rows[start : start + third] for start in (0, third, 2 * third)]
    by_third = [{phase: sum(row[f"time/{phase}_s"] for row in part) / third for phase in ("rollout", "learn", "publish")} for part in parts]
    print(json.dumps({"seconds": seconds, "seconds_a_step_by_third": by_third}))


def run(folder: Path) -> float:
    """The default run; returns its wall time."""
    started = time.monotonic()
    command = [sys.executable, "-m", "posttrain.run", "algo=sapo", "eval.every=15", f"run.dir={folder}"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else None)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch) / "run", run(Path(scratch) / "run"))
