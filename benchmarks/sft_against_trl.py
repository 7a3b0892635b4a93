"""SFT by TRL and posttrain in alternation: `python benchmarks/sft_against_trl.py [--rounds 2] [--rows 2000]` prints JSON.

The same SmolLM2 weights in the dtype that the processor is fast in, rows, rows a step, learning rate and trained tokens (the
answers), each in a process of its own, one after the other in turns. Tokens a second are the rows' own tokens, without padding,
over the wall time from one optimizer step's end to the next. The first step of each process warms it up and is left out.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from posttrain.builtin_models import resolve
from posttrain.metrics import read_rows
from posttrain.processor import fast_dtype

ROWS_PER_STEP = 16
MAX_TOKENS = 1024
TRL_SETTINGS = {"trl": {"gradient_checkpointing": True}, "trl_without_checkpointing": {"gradient_checkpointing": False}}
"""As it comes, and with the one default turned off that costs time to save memory, of which there is plenty here."""
WORDS = ("the", "a", "of", "water", "light", "stone", "river", "small", "large", "moves", "because", "when", "under", "time", "heat")


def main() -> None:
    """Prints tokens a second of each step of each side, their medians, and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="turns each of the two gets")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps a process, the first left out")
    parser.add_argument("--rows", type=int, default=2000, help="rows in the file")
    options = parser.parse_args()
    turns = [one_turn(options.rows, options.steps, seed) for seed in range(options.rounds)]
    speeds = {side: [speed for turn in turns for speed in turn[side][1:]] for side in turns[0]}
    medians = {side: statistics.median(values) for side, values in speeds.items()}
    ratios = {side: medians["ours"] / medians[side] for side in TRL_SETTINGS}
    print(json.dumps({"tokens_per_s": speeds, "medians": medians, "ratios": ratios, "rows": options.rows}))


def one_turn(num_rows: int, steps: int, seed: int) -> dict[str, list[float]]:
    """Tokens a second of each step, the first included, of each side after the other."""
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder), num_rows, seed)
        settings = {"folder": folder, "steps": steps, "seed": seed, "threads": os.cpu_count(), "rows_per_step": ROWS_PER_STEP}
        settings |= {"model": resolve("builtin:smollm2"), "max_tokens": MAX_TOKENS, "dtype": fast_dtype(has_gpu=False)}
        theirs = {side: trl_speeds(rows, {**settings, **chosen}) for side, chosen in TRL_SETTINGS.items()}
        return {**theirs, "ours": our_speeds(rows, settings)}


def write_rows(folder: Path, num_rows: int, seed: int) -> Path:
    """Questions and answers of random words; lengths are spread as instruction data's are: many short ones, few long ones."""
    draw = random.Random(seed)

    def text(median_words: float) -> str:
        number = max(3, min(400, round(draw.lognormvariate(0, 0.8) * median_words)))
        return " ".join(draw.choice(WORDS) for _ in range(number))

    lines = [[{"role": "user", "content": text(30)}, {"role": "assistant", "content": text(90)}] for _ in range(num_rows)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in lines))
    return path


def trl_speeds(rows: Path, settings: dict) -> list[float]:
    """Tokens a second of each of TRL's steps."""
    described = rows.with_name("settings.json")
    described.write_text(json.dumps(settings))
    command = [sys.executable, str(Path(__file__).with_name("trl_sft_steps.py")), str(rows), str(described)]
    lines = [json.loads(line) for line in output_of(command) if line.startswith('{"step"')]
    return [line["tokens"] / line["step_s"] for line in lines]


def our_speeds(rows: Path, settings: dict) -> list[float]:
    """Tokens a second of each of posttrain's steps."""
    run = Path(settings["folder"]) / "run"
    overrides = {
        "algo": "sft",
        "task": "conversations",
        "task.path": rows,
        "task.heldout_fraction": 0.01,
        "model.context_tokens": settings["max_tokens"],
        "algo.rows_per_step": settings["rows_per_step"],
        "train.steps": settings["steps"],
        "run.seed": settings["seed"],
        "run.dir": run,
        "eval.num_prompts": 1,
    }
    output_of([sys.executable, "-m", "posttrain.run", *(f"{key}={value}" for key, value in overrides.items())])
    return [row["data/tokens"] / row["time/step_s"] for row in read_rows(run / "metrics.jsonl")]


def output_of(command: list[str]) -> list[str]:
    """The lines that a process prints.

    Raises SystemExit: it failed; with its last lines.
    """
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{result.stderr[-3000:]}")
    return result.stdout.splitlines()


if __name__ == "__main__":
    main()
