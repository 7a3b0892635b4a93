"""Tokens are drawn as often as their probabilities say, however unlikely, and never where there is none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from posttrain.rollout.sampling import WIDTH, draw, install


def counts_of(logits, draws, seed=0):
    torch.manual_seed(seed)
    logprobs = torch.tensor(logits, dtype=torch.float32).log_softmax(-1)
    rows = logprobs.expand(1000, -1)
    drawn = torch.cat([draw(rows) for _ in range(draws // 1000)])
    return np.bincount(drawn.numpy(), minlength=len(logits)), logprobs.double().exp().numpy()


@pytest.mark.parametrize("size", [3, WIDTH, WIDTH + 1, 3 * WIDTH - 5])
def test_counts_follow_the_probabilities(size):
    counts, expected = counts_of(np.random.default_rng(size).normal(size=size) * 1.5, 200_000)
    often = expected * counts.sum() >= 10
    known, wanted = counts[often], expected[often] * counts.sum()
    freedom = max(1, often.sum() - 1)
    assert ((known - wanted) ** 2 / wanted).sum() < freedom + 5 * np.sqrt(2 * freedom)  # chi-square: 5 standard deviations


def returning(number, monkeypatch):
    """Lets torch.rand return this number."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.full(shape, number, **options))


def test_an_unlikely_token_has_its_share_of_the_unit_interval(monkeypatch):
    """Each of 2 ** 18 tokens is less likely than what float32 tells apart, as numbers or as sums."""
    logits = torch.full((1, WIDTH + (1 << 18)), np.log(1e-9))
    logits[0, :WIDTH] = -torch.inf
    logits[0, 0] = 0
    logprobs = logits.log_softmax(-1)
    ends = logprobs[0].exp().double().cumsum(0)
    for token in (WIDTH, WIDTH + 1, 100_001, 1 << 18):
        returning(((ends[token - 1] + ends[token]) / 2 / ends[-1]).item(), monkeypatch)
        assert draw(logprobs).item() == token


@pytest.mark.parametrize("alone", [0, WIDTH - 1, WIDTH, 2 * WIDTH])
def test_what_has_no_probability_is_never_drawn(alone):
    logits = np.full(2 * WIDTH + 1, -np.inf)
    logits[alone] = 3.0
    assert counts_of(logits, 20_000)[0][alone] == 20_000


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_the_ends_of_the_unit_interval_fall_on_the_first_and_the_last_that_can_be_drawn(number, monkeypatch):
    """1 stands for a product that was rounded up."""
    returning(number, monkeypatch)
    logits = torch.full((1, 3 * WIDTH), -torch.inf)
    logits[0, [5, WIDTH + 7, 2 * WIDTH + 9]] = torch.tensor([0.1, 0.2, 0.3])
    assert draw(logits.log_softmax(-1)).item() == (5 if number == 0 else 2 * WIDTH + 9)


def test_a_seed_repeats_and_rows_differ():
    logprobs = torch.zeros(64, 1000).log_softmax(-1)
    torch.manual_seed(3)
    first = draw(logprobs)
    torch.manual_seed(3)
    assert torch.equal(first, draw(logprobs)) and len(set(first.tolist())) > 40


def test_requests_with_choices_of_their_own_are_left_to_vllm():
    sampler = SimpleNamespace(forward=lambda *_: ("of vLLM", None))
    install(SimpleNamespace(model_runner=SimpleNamespace(sampler=SimpleNamespace(topk_topp_sampler=sampler))))
    logits, some = torch.zeros(2, 5), torch.ones(2)
    for choices in (({0: torch.Generator()}, None, None), ({}, some, None), ({}, None, some)):
        assert sampler.forward(logits, *choices) == ("of vLLM", None)
    tokens, logprobs = sampler.forward(logits, {}, None, None)
    assert tokens.shape == (2,) and torch.equal(logprobs, logits.log_softmax(-1))
