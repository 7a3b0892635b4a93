"""The learner alone, in one process without Ray: `python benchmarks/learner.py flops|flops_compiled|length|vocabulary|prefix` prints JSON.

Batches are random tokens: what they say does not change how long they take.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from posttrain.algorithms.divergences import Divergence
from posttrain.algorithms.sapo import SapoConfig
from posttrain.builtin_models import resolve
from posttrain.config import TrainConfig
from posttrain.head import Head
from posttrain.learner import Learner
from posttrain.learner_spec import LearnerSpec
from posttrain.model import DTYPES, Reading, TokenScorer, load_model, stream_tensors
from posttrain.packing import pack
from posttrain.pixels import PixelReader
from posttrain.processor import fast_dtype
from posttrain.teacher_head import FullTeaching, TeacherHead
from posttrain.types import Batch, Episode, Group, Prompt, Turn

THREADS = os.cpu_count() or 1
PORT = 29650
DTYPE = fast_dtype(has_gpu=False)
TORCH_DTYPE = DTYPES[DTYPE]


def make_learner(model_path: str, dtype: str = DTYPE, **train: object) -> Learner:
    """A single rank, started."""
    spec = LearnerSpec(model_path=model_path, dtype=dtype, train=TrainConfig(**train), temperature=1.0, seed=0, threads=THREADS)
    learner = Learner(spec)
    learner.start(0, 1, "127.0.0.1", PORT)
    return learner


def random_groups(num_groups: int, group_size: int, prompt_tokens: int, completion_tokens: int, vocabulary: int) -> list[Group]:
    """Groups of episodes of one length each, with advantages."""
    rng = np.random.default_rng(0)

    def episode() -> Episode:
        ids = rng.integers(5, vocabulary, completion_tokens)
        logprobs = np.full(completion_tokens, -np.log(vocabulary), np.float32)
        turn = Turn(token_ids=ids, logprobs=logprobs, text="", stop_reason="stop", policy_version=0)
        return Episode(prompt_id="0", turns=[turn], status="complete", advantage=float(rng.choice([-1.0, 1.0])))

    prompt = Prompt(id="0", task="t", messages=[], reference=None)
    return [
        Group(prompt=prompt, prompt_token_ids=rng.integers(5, vocabulary, prompt_tokens), episodes=[episode() for _ in range(group_size)])
        for _ in range(num_groups)
    ]


def seconds_of_a_step(learner: Learner, batches: list[Batch], repeats: int = 3, shared_prefix: bool = True) -> float:
    """Median wall time of an optimizer step, after one to warm up; as train.shared_prefix has it."""
    learner.reading = replace(learner.reading, is_merged=shared_prefix)
    return statistics.median([step_seconds(learner, batches) for _ in range(repeats + 1)][1:])


def step_seconds(learner: Learner, batches: list[Batch]) -> float:
    """Wall time of one optimizer step."""
    started = time.monotonic()
    learner.step(batches, SapoConfig().objective())
    return time.monotonic() - started


def matrix_rate() -> float:
    """FLOP/s of a 2048 x 2048 x 2048 product in the learner's dtype."""
    a, b = (torch.randn(2048, 2048, dtype=TORCH_DTYPE) for _ in range(2))
    started, repeats = time.monotonic(), 30
    for _ in range(repeats):
        a @ b
    return 2 * 2048**3 * repeats / (time.monotonic() - started)


def flops(compiled: bool = False) -> dict[str, object]:
    """Useful FLOP/s of a step of 2k-token micro-batches over the rate of a matrix product, seven times in alternation."""
    learner = make_learner(resolve("builtin:smollm2"), compile=compiled)
    body = sum(p.numel() for name, p in learner.model.named_parameters() if "embed_tokens" not in name)
    head = learner.model.get_output_embeddings().weight.numel()
    batches = pack(random_groups(20, 8, 50, 43, 40000), normalization="sequence_mean", microbatch_tokens=2048)
    # What the model runs over: of each episode all but the last token, which predicts nothing.
    num_tokens = sum(len(stream_tensors(b, torch.device("cpu"), "blocks").token_ids_T) for b in batches)
    num_trained = sum(int(np.count_nonzero(b.loss_weights)) for b in batches)
    useful = 6 * (body * num_tokens + head * num_trained)
    learner.step(batches, SapoConfig().objective())
    matrix_rate()
    rounds = []
    for _ in range(7):
        rate, step_s = matrix_rate(), step_seconds(learner, batches)
        rounds.append({"matrix_gflops": rate / 1e9, "learner_gflops": useful / step_s / 1e9, "fraction": useful / step_s / rate})
    fraction = statistics.median(r["fraction"] for r in rounds)
    return {"micro_batches": [batch.num_tokens for batch in batches], "trained": num_trained, "rounds": rounds, "fraction": fraction}


def flops_compiled() -> dict[str, object]:
    """The same with train.compile=true."""
    return flops(compiled=True)


def length() -> dict[str, object]:
    """Seconds a token of one sequence as it grows, SmolLM2."""
    learner = make_learner(resolve("builtin:smollm2"))
    rows = {}
    for tokens in (256, 512, 1024, 2048, 4096, 8192):
        batches = pack(
            random_groups(1, 1, tokens // 2, tokens - tokens // 2, 40000), normalization="sequence_mean", microbatch_tokens=tokens
        )
        step_s = seconds_of_a_step(learner, batches, repeats=2 if tokens < 4096 else 1)
        rows[tokens] = {"step_s": step_s, "ms_per_token": 1e3 * step_s / tokens}
    return rows


def vocabulary() -> dict[str, object]:
    """What a token needs in a forward and backward pass, for vocabularies of different sizes: peak of live tensors.

    The logits of a chunk are a constant (50 MB here, so that 2048 tokens are more than one chunk of the smallest
    vocabulary), and so are weights and their gradients: what tokens cost is the difference between 4096 and 2048 of them.
    """
    rows = {}
    for size in (8_000, 32_000, 64_000, 152_000):
        config = LlamaConfig(
            vocab_size=size, hidden_size=256, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=8192, tie_word_embeddings=True,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            LlamaForCausalLM(config).to(TORCH_DTYPE).save_pretrained(folder)
            model = load_model(folder, DTYPE)
        few, many = (peak_mb(model, random_groups(1, 1, 16, tokens - 16, size)) for tokens in (2048, 4096))
        rows[size] = {"few_mb": few, "many_mb": many, "mb_per_1k_tokens": (many - few) / 2.048}
    return rows


def distillation() -> dict[str, object]:
    """The exact divergence from a teacher's hidden states, forward and backward through both heads, by vocabulary: as `vocabulary`."""
    rows = {}
    for size in (8_000, 32_000, 64_000, 152_000):
        layer = torch.nn.Linear(256, size, bias=False, dtype=TORCH_DTYPE)
        teacher = TeacherHead(torch.randn(size, 512, dtype=TORCH_DTYPE))
        few, many = (peak_of(divergence(layer, teacher, tokens)) for tokens in (512, 1024))
        rows[size] = {"few_mb": few, "many_mb": many, "mb_per_1k_tokens": (many - few) / 0.512}
    return rows


def divergence(layer: torch.nn.Linear, teacher: TeacherHead, tokens: int) -> Callable[[], None]:
    """A forward and backward pass of JSD, the kind that needs most, from the student's hidden states on."""
    hidden, theirs = (torch.randn(tokens, width, dtype=TORCH_DTYPE) for width in (layer.in_features, teacher.weight_VH.shape[1]))
    targets = torch.zeros(tokens, dtype=torch.int64)
    teaching = FullTeaching(Divergence("jsd"), theirs, teacher)

    def run() -> None:
        Head(layer, 10.0)(hidden.clone().requires_grad_(), targets, 1.0, teaching)[2].sum().backward()

    return run


def peak_mb(model: PreTrainedModel, groups: list[Group]) -> float:
    """The peak of a micro-batch's forward and backward pass."""
    batches = pack(groups, normalization="sequence_mean", microbatch_tokens=1 << 20)
    return peak_of(lambda: accumulate_gradient(model, batches, chunk_mb=50.0))


def peak_of(run: Callable[[], None]) -> float:
    """Megabytes of tensors that live at most during a forward and backward pass, beyond those that live before it."""
    run()  # from here on the gradients have their place
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.NamedTemporaryFile(suffix=".json") as trace:
        profiler.export_chrome_trace(trace.name)
        events = json.loads(Path(trace.name).read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(accumulate(change for _, change in changes)) / 1e6


PREFIX_CASES = [(prompt_tokens, group_size) for prompt_tokens in (50, 400, 1600) for group_size in (4, 16)]


def prefix() -> dict[str, object]:
    """Shared prefix against one row an episode: speed-up, and the largest gradient difference in float32."""
    differences = measure_apart("gradients")
    learner = make_learner(resolve("builtin:smollm2"))
    rows = {}
    for prompt_tokens, group_size in PREFIX_CASES:
        groups = random_groups(1, group_size, prompt_tokens, 48, 40000)
        packed = {on: pack(groups, normalization="sequence_mean", microbatch_tokens=2048, shared_prefix=on) for on in (True, False)}
        on_s, off_s = (seconds_of_a_step(learner, batches, repeats=1, shared_prefix=on) for on, batches in packed.items())
        name = f"P={prompt_tokens} G={group_size}"
        rows[name] = {"on_s": on_s, "off_s": off_s, "speed_up": off_s / on_s, "gradient_difference": differences[name]}
    return rows


def gradients() -> dict[str, object]:
    """Largest |gradient with - without shared prefix| over the largest gradient, tiny model in float32."""
    model = load_model(resolve("builtin:tiny"), "float32")
    rows = {}
    for prompt_tokens, group_size in PREFIX_CASES:
        groups = random_groups(1, group_size, prompt_tokens, 48, 250)
        on, off = (gradient(model, groups, shared_prefix) for shared_prefix in (True, False))
        rows[f"P={prompt_tokens} G={group_size}"] = ((on - off).abs().max() / off.abs().max()).item()
    return rows


def gradient(model: PreTrainedModel, groups: list[Group], shared_prefix: bool) -> torch.Tensor:
    """Of the advantage-weighted log-probabilities."""
    model.zero_grad()
    batches = pack(groups, normalization="sequence_mean", microbatch_tokens=1 << 20, shared_prefix=shared_prefix)
    accumulate_gradient(model, batches, chunk_mb=100.0, reading=Reading(is_merged=shared_prefix))
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def accumulate_gradient(
    model: PreTrainedModel, batches: list[Batch], chunk_mb: float, pixels: PixelReader | None = None, reading: Reading | None = None
) -> None:
    """Adds the gradient of the advantage-weighted log-probabilities. pixels: of a model that reads images."""
    scorer = TokenScorer(model, chunk_mb)
    for batch in batches:
        trained = np.flatnonzero(batch.loss_weights)
        logprobs, _ = scorer(stream_tensors(batch, torch.device("cpu"), "blocks", pixels, reading), 1.0)
        (torch.tensor(batch.loss_weights * batch.advantages)[trained] * logprobs).sum().backward()


def measure_apart(*arguments: str) -> dict:
    """This file's result in a process of its own."""
    result = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr[-3000:])
    return json.loads(result.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(vars()[sys.argv[1]]()))
