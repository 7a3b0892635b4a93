"""The chunked head against torch's own log-softmax in float64."""

import pytest
import torch

from posttrain import head
from posttrain.head import Head


@pytest.fixture
def small_pieces(monkeypatch):
    """Rows go through softmax three at a time."""
    monkeypatch.setattr(head, "CACHED_ELEMENTS", 3 * 50)


@pytest.mark.parametrize("chunk_mb", [4 * 50 * 8e-6, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("has_bias", [False, True])
def test_values_and_gradients(small_pieces, chunk_mb, temperature, has_bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 50, bias=has_bias, dtype=torch.float64)
    hidden = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    targets, upstream = torch.randint(50, (11,)), torch.randn(11, dtype=torch.float64)
    logprobs, entropies = Head(layer, chunk_mb)(hidden, targets, temperature)
    inputs = [hidden, *layer.parameters()]
    got = torch.autograd.grad((logprobs * upstream).sum(), inputs)
    reference = torch.log_softmax(layer(hidden) / temperature, -1)
    expected = reference.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(entropies.double(), -(reference.exp() * reference).sum(-1), rtol=1e-6, atol=1e-6)
    assert not entropies.requires_grad
    for mine, theirs in zip(got, torch.autograd.grad((expected * upstream).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_the_last_chunk_is_computed_once(monkeypatch):
    torch.manual_seed(0)
    layer, products = torch.nn.Linear(8, 50, dtype=torch.float64), []
    hidden, targets = torch.randn(11, 8, dtype=torch.float64, requires_grad=True), torch.randint(50, (11,))
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda values, *rest: products.append(len(values)) or linear(values, *rest))
    logprobs, _ = Head(layer, 4.1 * 50 * 8e-6)(hidden, targets, 1.0)
    first, again = (torch.autograd.grad(logprobs.sum(), hidden, retain_graph=True)[0] for _ in range(2))
    assert products == [4, 4, 3, *[4, 4], *[3, 4, 4]]  # forward; backward without the last; backward once more, where it is gone
    torch.testing.assert_close(first, again)


def test_no_positions():
    layer = torch.nn.Linear(8, 50)
    hidden = torch.zeros(0, 8, requires_grad=True)
    logprobs, entropies = Head(layer, 1.0)(hidden, torch.zeros(0, dtype=torch.int64), 1.0)
    logprobs.sum().backward()
    assert logprobs.shape == entropies.shape == (0,) and layer.weight.grad.abs().max() == 0


def test_extreme_logits_stay_finite():
    layer = torch.nn.Linear(2, 3, bias=False)
    layer.weight.data = torch.tensor([[1e4, 0.0], [0.0, 1e4], [-1e4, 0.0]])
    logprobs, entropies = Head(layer, 1.0)(torch.ones(1, 2) * 100, torch.tensor([2]), 1.0)
    assert logprobs.item() == pytest.approx(-2e6) and 0.6 < entropies.item() < 0.8
