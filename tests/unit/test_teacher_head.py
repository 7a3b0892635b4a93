"""The two heads in chunks against the dense computation in float64: every kind, every support, gradients included."""

import pytest
import torch

from posttrain import head as head_module
from posttrain.algorithms.divergences import Divergence, with_tail
from posttrain.head import Head
from posttrain.teacher_head import FullTeaching, SampledTeaching, TeacherHead, TopTeaching, top_logprobs

N, H, TEACHER_H, V, K = 11, 8, 6, 50, 5
DIVERGENCES = [Divergence("forward"), Divergence("reverse"), Divergence("jsd", 0.3)]
SUPPORTS = ("full", "topk", "sampled")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Rows go through softmax three at a time."""
    monkeypatch.setattr(head_module, "CACHED_ELEMENTS", 3 * V)


def make(dtype=torch.float64, num=N, has_bias=True):
    """A student, its hidden states and targets, and a teacher of another width."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(H, V, bias=has_bias, dtype=dtype)
    hidden = torch.randn(num, H, dtype=dtype, requires_grad=True)
    teacher = TeacherHead(torch.randn(V, TEACHER_H, dtype=dtype) / 2, torch.randn(V, dtype=dtype) if has_bias else None)
    return layer, hidden, torch.randint(V, (num,)), teacher, torch.randn(num, TEACHER_H, dtype=dtype)


def teaching_of(support, divergence, teacher, teacher_hidden, targets, temperature):
    log_p = log_softmax(teacher_hidden, teacher.weight_VH, teacher.bias_V, temperature)
    sampled = log_p.gather(1, targets[:, None])[:, 0]
    top, ids = log_p.topk(K)
    return {
        "full": FullTeaching(divergence, teacher_hidden, teacher),
        "topk": TopTeaching(divergence, ids, top, sampled),
        "sampled": SampledTeaching(divergence, sampled),
    }[support]


def log_softmax(hidden, weight, bias, temperature):
    return (torch.nn.functional.linear(hidden, weight, bias) / temperature).log_softmax(-1)


def dense(support, divergence, log_p, log_q, targets):
    """The same divergence from whole distributions, by autograd alone."""
    if support == "sampled":
        pick = targets[:, None]
        return divergence.sampled(log_p.gather(1, pick)[:, 0], log_q.gather(1, pick)[:, 0])
    if support == "topk":
        ids = log_p.topk(K).indices
        log_p, log_q = with_tail(log_p.gather(1, ids)), with_tail(log_q.gather(1, ids))
    p, q = log_p.exp(), log_q.exp()
    if divergence.kind == "forward":
        return (p * (log_p - log_q)).sum(-1)
    if divergence.kind == "reverse":
        return (q * (log_q - log_p)).sum(-1)
    log_m = (divergence.beta * p + (1 - divergence.beta) * q).log()
    return (divergence.beta * p * (log_p - log_m) + (1 - divergence.beta) * q * (log_q - log_m)).sum(-1)


@pytest.mark.parametrize("chunk_mb", [4 * V * 8e-6, 1.0])
@pytest.mark.parametrize(("temperature", "has_bias"), [(1.0, True), (0.7, False)])
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.kind)
def test_values_and_gradients(divergence, support, temperature, has_bias, chunk_mb):
    layer, hidden, targets, teacher, teacher_hidden = make(has_bias=has_bias)
    teaching = teaching_of(support, divergence, teacher, teacher_hidden, targets, temperature)
    logprobs, entropies, divergences, teacher_logprobs = Head(layer, chunk_mb)(hidden, targets, temperature, teaching)
    log_p = log_softmax(teacher_hidden, teacher.weight_VH, teacher.bias_V, temperature)
    log_q = log_softmax(hidden, layer.weight, layer.bias, temperature)
    picked = log_q.gather(1, targets[:, None])[:, 0]
    expected = dense(support, divergence, log_p, log_q, targets)
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(logprobs, picked, **close)
    torch.testing.assert_close(entropies, -(log_q.exp() * log_q).sum(-1), **close)
    torch.testing.assert_close(divergences, expected, **close)
    torch.testing.assert_close(teacher_logprobs, log_p.gather(1, targets[:, None])[:, 0], **close)
    up, down = torch.randn(N, dtype=torch.float64), torch.randn(N, dtype=torch.float64)
    inputs = [hidden, *layer.parameters()]
    got = torch.autograd.grad((up * divergences + down * logprobs).sum(), inputs)
    for mine, theirs in zip(got, torch.autograd.grad((up * expected + down * picked).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, **close)


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.kind)
def test_a_teacher_that_is_the_student_has_nothing_to_say(divergence, support):
    layer, hidden, targets, _, _ = make(torch.float32)
    same = TeacherHead(layer.weight.detach(), layer.bias.detach())
    teaching = teaching_of(support, divergence, same, hidden.detach(), targets, 1.0)
    *_, divergences, _ = Head(layer, 1.0)(hidden, targets, 1.0, teaching)
    assert divergences.abs().max() < 1e-6
    for gradient in torch.autograd.grad(divergences.sum(), [hidden, *layer.parameters()]):
        assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.kind)
@pytest.mark.parametrize("num", [0, 1, 3])
def test_logits_far_apart_and_short_sequences_stay_finite(divergence, support, num):
    layer = torch.nn.Linear(2, V, bias=False)
    layer.weight.data = torch.linspace(-1e4, 1e4, 2 * V).reshape(V, 2)
    hidden = torch.ones(num, 2, requires_grad=True)
    targets = torch.arange(num)
    teacher = TeacherHead(-layer.weight.detach())
    teaching = teaching_of(support, divergence, teacher, hidden.detach(), targets, 1.0)
    logprobs, entropies, divergences, _ = Head(layer, 1e-9)(hidden, targets, 1.0, teaching)
    (divergences + logprobs).sum().backward()
    everything = [logprobs, entropies, divergences, hidden.grad, layer.weight.grad]
    assert all(values.isfinite().all() for values in everything)
    assert divergences.shape == (num,)
    if support == "full" and num and divergence.kind != "jsd":
        assert divergences.min() > 1e4


def test_a_head_that_is_not_trained_gets_no_gradient():
    layer, hidden, targets, teacher, teacher_hidden = make()
    layer.requires_grad_(False)
    *_, divergences, _ = Head(layer, 1.0)(hidden, targets, 1.0, FullTeaching(Divergence(), teacher_hidden, teacher))
    logprobs, _ = Head(layer, 1.0)(hidden, targets, 1.0)
    (divergences + logprobs).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None and hidden.grad.abs().max() > 0


def test_the_most_likely_tokens():
    layer, hidden, _, _, _ = make(torch.float32)
    ids, logprobs = top_logprobs(Head(layer, 4 * V * 4e-6), hidden.detach(), K, 0.7)
    expected = log_softmax(hidden.detach(), layer.weight.detach(), layer.bias.detach(), 0.7).topk(K)
    assert torch.equal(ids, expected.indices)
    torch.testing.assert_close(logprobs, expected.values, rtol=1e-5, atol=1e-5)
