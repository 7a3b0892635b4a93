"""The verdict on a publish, fault by fault; real engines see the same faults in tests/integration/test_publish.py."""

import pickle

import numpy as np
import pytest
import torch

from posttrain.errors import WeightSyncError
from posttrain.model import load_tokenizer
from posttrain.weights import (
    NUM_CANARY_TOKENS,
    CanaryReceipt,
    SentTensor,
    fingerprint,
    fingerprints,
    make_canary,
    send,
    verify_canary,
    verify_delivery,
)

LOGPROBS = np.array([-1.0, -2.0, -3.0], np.float32)
MANIFEST = {"a.weight": "f00d", "b.weight": "beef"}


def test_agreement_returns_the_largest_difference():
    receipt = CanaryReceipt(logprobs=LOGPROBS + np.array([0, 0.25, -0.125], np.float32), cached_tokens=0)
    assert verify_canary("engine_1", LOGPROBS, receipt, 0.5) == 0.25
    verify_delivery("engine_1", MANIFEST, dict(MANIFEST))


@pytest.mark.parametrize(
    ("received", "words"),
    [
        ({"a.weight": "f00d"}, ["b.weight", "never arrived"]),
        ({**MANIFEST, "b.weight": "dead"}, ["b.weight", "dead", "beef"]),
        ({**MANIFEST, "c.weight": "cafe"}, ["c.weight", "not the learner's"]),
    ],
)
def test_a_tensor_that_is_not_as_it_was_sent_is_named(received, words):
    with pytest.raises(WeightSyncError) as caught:
        verify_delivery("engine_1", MANIFEST, received)
    for word in [*words, "engine_1"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("logprobs", "cached_tokens", "words"),
    [
        (LOGPROBS + np.array([0, 1, 0], np.float32), 0, ["canary token 2", "-2.0", "-1.0", "1.00e+00"]),
        (LOGPROBS, 128, ["prefix cache", "128"]),
        (LOGPROBS * np.nan, 0, ["nan"]),
    ],
)
def test_each_fault_of_the_canary_is_told_with_both_numbers(logprobs, cached_tokens, words):
    with pytest.raises(WeightSyncError) as caught:
        verify_canary("engine_1", LOGPROBS, CanaryReceipt(logprobs=logprobs, cached_tokens=cached_tokens), 0.5)
    for word in [*words, "engine_1", "learner", "tolerance"]:
        assert word in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_tensor_survives_as_bytes(dtype):
    tensor = (torch.randn(3, 4) * 10).to(dtype)
    sent = SentTensor.of("w", tensor)
    assert torch.equal(sent.tensor(), tensor) and sent.tensor().dtype == dtype


def test_tied_tensors_travel_once_under_both_names():
    matrix = torch.randn(300, 40)
    sent = pickle.loads(pickle.dumps(send({"embed": matrix, "norm": torch.ones(40), "head": matrix, "first": matrix[:1]})))
    assert [item.name for item in sent] == ["embed", "norm", "head", "first"]
    assert sent[0].data is sent[2].data and torch.equal(sent[2].tensor(), matrix) and torch.equal(sent[3].tensor(), matrix[:1])
    prints = fingerprints(sent)
    assert prints["embed"] == prints["head"] == fingerprint(sent[0]) and len(set(prints.values())) == 3


def test_a_scalar_survives_too():
    tensor = torch.tensor(3.5)
    assert torch.equal(SentTensor.of("w", tensor).tensor(), tensor)


def test_a_fingerprint_sees_one_bit_the_shape_and_the_dtype():
    tensor = torch.randn(4, 6)
    flipped = tensor.clone()
    flipped.view(torch.int32)[2, 3] ^= 1
    variants = [tensor, flipped, tensor.reshape(6, 4), tensor.view(torch.int32).to(torch.int64)]
    assert len({fingerprint(SentTensor.of("w", variant)) for variant in variants}) == 4


def test_the_canary_holds_many_tokens(tiny_path):
    ids = make_canary(load_tokenizer(tiny_path)).token_ids
    assert len(ids) == NUM_CANARY_TOKENS and len(set(ids.tolist())) > NUM_CANARY_TOKENS // 2
