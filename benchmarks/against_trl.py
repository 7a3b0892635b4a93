"""TRL and posttrain in alternation: `python benchmarks/against_trl.py [--rounds 2] [--only 64]` prints seconds a step as JSON.

The same SmolLM2 weights in the dtype that the processor is fast in, prompts, number of completions, token limit and optimizer
steps, each in a process of its own, one after the other in turns. A step is the wall time from one optimizer step's end to the
next: sampling, scoring, learning, and whatever else the programme does. The first step of each process warms it up and is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from posttrain.builtin_models import resolve
from posttrain.metrics import read_rows
from posttrain.processor import fast_dtype

FILLER = "Read this note about numbers before you answer. " * 36
CASES = {
    "64 completions": {"prompts_per_step": 8, "group_size": 8, "filler": "", "per_device_batch": 8},
    "32 completions, 400-token prompt, group of 16": {"prompts_per_step": 2, "group_size": 16, "filler": FILLER, "per_device_batch": 16},
}
TRL_SETTINGS = {"trl": {"gradient_checkpointing": True}, "trl_without_checkpointing": {"gradient_checkpointing": False}}
"""As it comes, and with the one default turned off that costs time to save memory, of which there is plenty here."""
OUR_SETTINGS = {"ours": [], "ours_compiled": ["train.compile=true", "rollout.compile=true"]}
MAX_COMPLETION_TOKENS = 48


def main() -> None:
    """Prints {case: {seconds, medians and ratios of each side}}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="turns each of the two gets")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps a process, the first left out")
    parser.add_argument("--only", default="", help="cases whose names hold this text")
    options = parser.parse_args()
    results = {}
    for name, case in ((name, case) for name, case in CASES.items() if options.only in name):
        turns = [one_turn({**case, "seed": seed, "steps": options.steps, "threads": os.cpu_count()}) for seed in range(options.rounds)]
        seconds = {side: [value for turn in turns for value in turn[side][1:]] for side in turns[0]}
        medians = {side: statistics.median(values) for side, values in seconds.items()}
        ratios = {ours: {side: medians[side] / medians[ours] for side in TRL_SETTINGS} for ours in OUR_SETTINGS}
        results[name] = {"seconds": seconds, "medians": medians, "ratios": ratios}
        print(json.dumps({name: results[name]}), file=sys.stderr, flush=True)
    print(json.dumps(results))


def one_turn(settings: dict) -> dict[str, list[float]]:
    """Seconds of each step, the first included, of each side after the other."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = write_prompts(Path(folder), settings["filler"])
        theirs = {side: trl_steps(prompts, {**settings, **chosen, "folder": folder}) for side, chosen in TRL_SETTINGS.items()}
        ours = {side: our_steps(prompts, settings, Path(folder) / side, chosen) for side, chosen in OUR_SETTINGS.items()}
        return {**theirs, **ours}


def write_prompts(folder: Path, filler: str) -> Path:
    """Sums of two one-digit numbers, as JSONL."""
    rows = [(a, b) for a in range(10) for b in range(10)]
    lines = [{"messages": [{"role": "user", "content": f"{filler}Calculate {a} + {b}."}], "answer": str(a + b)} for a, b in rows]
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def trl_steps(prompts: Path, settings: dict) -> list[float]:
    """Seconds of each of TRL's steps."""
    rows, described = prompts.with_name("prompts.json"), prompts.with_name("settings.json")
    rows.write_text(json.dumps([json.loads(line) for line in prompts.read_text().splitlines()]))
    model = resolve("builtin:smollm2")
    shared = {"model": model, "max_completion_tokens": MAX_COMPLETION_TOKENS, "dtype": fast_dtype(has_gpu=False)}
    described.write_text(json.dumps({**settings, **shared}))
    command = [sys.executable, str(Path(__file__).with_name("trl_steps.py")), str(rows), str(described)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"TRL failed:\n{result.stderr[-3000:]}")
    lines = [line for line in result.stdout.splitlines() if line.startswith('{"step"')]
    return [json.loads(line)["step_s"] for line in lines]


def our_steps(prompts: Path, settings: dict, run: Path, chosen: list[str]) -> list[float]:
    """Seconds of each of posttrain's steps."""
    return [float(row["time/step_s"]) for row in our_rows(prompts, settings, run, chosen)]


def our_rows(prompts: Path, settings: dict, run: Path, chosen: list[str]) -> list[dict]:
    """The metrics of each of posttrain's steps."""
    overrides = {
        "algo": "sapo",
        "algo.group_size": settings["group_size"],
        "task.source": "file",
        "task.family": "null",
        "task.params": "{}",
        "task.path": prompts,
        "rollout.max_completion_tokens": MAX_COMPLETION_TOKENS,
        "train.prompts_per_step": settings["prompts_per_step"],
        "train.steps": settings["steps"],
        "run.seed": settings["seed"],
        "eval.num_prompts": 1,
        "eval.samples_per_prompt": 1,
    }
    return run_rows(overrides, run, chosen)


def run_rows(overrides: dict, run: Path, chosen: list[str]) -> list[dict]:
    """The metrics of each step of a run of posttrain in this folder."""
    command = [sys.executable, "-m", "posttrain.run", *(f"{key}={value}" for key, value in overrides.items()), f"run.dir={run}", *chosen]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"posttrain failed:\n{result.stderr[-3000:]}")
    return read_rows(run / "metrics.jsonl")


if __name__ == "__main__":
    main()
