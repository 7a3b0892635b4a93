"""Ranks that share streams, over gloo on the CPU: the same loss and gradient as one rank, and mistakes told before the start."""

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3VLConfig

from posttrain.algorithms.reward_model_recipe import pair_of
from posttrain.algorithms.sapo import SapoConfig
from posttrain.config import ClusterConfig, Config, ModelConfig, TaskConfig, TrainConfig, validate
from posttrain.errors import UserError
from posttrain.model import check_sequence_parallel
from posttrain.packing import pack, pack_documents, pack_pairs
from posttrain.types import Document

RANK = Path(__file__).with_name("ulysses_rank.py")


def cases(random_groups):
    """Streams of lengths that ranks cannot share evenly; one in which a rank has no trained token, one of a single token's slices."""
    rng = np.random.default_rng(0)
    documents = [
        Document(token_ids=rng.integers(5, 380, length), is_trained=np.arange(length) > length // 3) for length in (301, 7, 45, 130)
    ]
    early = Document(token_ids=rng.integers(5, 380, 41), is_trained=np.isin(np.arange(41), (1, 2, 3)))
    answers = [[rng.integers(7, 380, int(n)) for n in rng.integers(2, 30, 3)] for _ in range(5)]
    pairs = [pair_of(np.concatenate([prompt, [5], one]), np.concatenate([prompt, [6], other])) for prompt, one, other in answers]
    packed = {
        "documents": pack_documents([*documents, early], normalization="token_mean", microbatch_tokens=100),
        "groups": pack(random_groups(1, turns=2), normalization="sequence_mean", microbatch_tokens=64),
        "taught": pack_documents(documents, normalization="token_mean", microbatch_tokens=1000),
        "pairs": pack_pairs(pairs, microbatch_tokens=70),
    }
    return {name: (batches, name == "taught") for name, batches in packed.items()}


def run(path, ranks):
    """What `ulysses_rank.py` finds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands = [[sys.executable, str(RANK), str(path), str(rank), str(ranks), str(port)] for rank in range(ranks)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, "\n".join(outputs)[-3000:]
    return torch.load(f"{path}.{ranks}")


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_loss_and_gradients_are_those_of_one_rank(random_groups, tiny_path, tmp_path, ranks):
    """With 4 ranks each of the model's 2 key-value heads is on two of them."""
    path = tmp_path / "cases.pkl"
    path.write_bytes(pickle.dumps((tiny_path, cases(random_groups))))
    alone, shared = run(path, 1), run(path, ranks)
    for name, (loss, gradient) in alone.items():
        assert shared[name][0] == pytest.approx(loss, rel=1e-5), name
        assert gradient.norm() > 0 and (shared[name][1] - gradient).norm() < 1e-5 * gradient.norm(), name


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"sequence_parallel": 4}, r"train\.sequence_parallel=4: expected a divisor of cluster\.num_learners=2"),
        ({"sequence_parallel": 0}, r"train\.sequence_parallel=0: expected a number above 0"),
        ({"sequence_parallel": 2, "compile": True}, r"train\.sequence_parallel=2: has not been tried with train\.compile=true"),
    ],
)
def test_ranks_that_cannot_share_are_told_before_the_start(train, said):
    config = Config(
        model=ModelConfig(path="builtin:tiny"),
        task=TaskConfig(name="t", family="chain_sum", rewards={"numeric": 1.0}),
        algo=SapoConfig(),
        train=TrainConfig(**train),
        cluster=ClusterConfig(num_learners=2),
    )
    with pytest.raises(UserError, match=said):
        validate(config)


def test_models_that_cannot_be_shared_are_told_before_the_start(tiny_path, tmp_path):
    check_sequence_parallel(tiny_path, 2)
    check_sequence_parallel(tiny_path, 4)
    with pytest.raises(UserError, match=r"train\.sequence_parallel=3: expected a divisor of the 4 attention heads of .* 2 key-value heads"):
        check_sequence_parallel(tiny_path, 3)
    Qwen3VLConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"train\.sequence_parallel=2: .* takes images, whose positions are not shared"):
        check_sequence_parallel(str(tmp_path), 2)
