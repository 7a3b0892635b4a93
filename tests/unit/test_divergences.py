"""Divergences against their definitions in float64: values, gradients, bounds and limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.algorithms.divergences import DistillationLoss, Divergence, importance, with_tail
from posttrain.algorithms.losses import LossTokens

KINDS = [Divergence("forward"), Divergence("reverse"), Divergence("jsd", 0.5), Divergence("jsd", 0.1), Divergence("jsd", 0.9)]
cases = given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.1, 1.0, 10.0, 300.0]), divergence=st.sampled_from(KINDS))


def defined(p, q, divergence):
    """The formulas as GKD prints them, from probabilities, float64; 0 log 0 = 0."""

    def kl(a, b):
        return torch.where(a > 0, a * (a.clamp(min=1e-300).log() - b.clamp(min=1e-300).log()), 0).sum(-1)

    if divergence.kind == "forward":
        return kl(p, q)
    if divergence.kind == "reverse":
        return kl(q, p)
    m = divergence.beta * p + (1 - divergence.beta) * q
    return divergence.beta * kl(p, m) + (1 - divergence.beta) * kl(q, m)


def logits_of(seed, spread, num_outcomes=7):
    generator = torch.Generator().manual_seed(seed)
    p, q = (spread * torch.randn(3, num_outcomes, dtype=torch.float64, generator=generator) for _ in range(2))
    return p, q.requires_grad_()


@settings(max_examples=60)
@cases
def test_value_and_gradient_are_the_formulas(seed, spread, divergence):
    p, q = logits_of(seed, min(spread, 10.0))
    value = divergence.differentiable(p.log_softmax(-1), q.log_softmax(-1))
    expected = defined(p.softmax(-1), q.softmax(-1), divergence)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    (got,), (wanted,) = (torch.autograd.grad(total.sum(), q) for total in (value, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-10)


@settings(max_examples=60)
@cases
def test_never_negative_and_finite_in_float32(seed, spread, divergence):
    p, q = (logits.detach().float() for logits in logits_of(seed, spread))
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    value, slope = divergence.value(log_p, log_q), divergence.slope(log_p, log_q)
    assert (value > -1e-6 * spread).all() and value.isfinite().all() and slope.isfinite().all()
    assert (divergence.value(log_q, log_q) == 0).all()
    if divergence.kind == "jsd":
        assert (value < 0.6932).all()


@settings(max_examples=60)
@cases
def test_the_tail_makes_a_lower_bound(seed, spread, divergence):
    p, q = logits_of(seed, spread, num_outcomes=12)
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    ids = log_p.topk(4).indices
    few, many = with_tail(log_p.gather(1, ids)), with_tail(log_q.gather(1, ids))
    whole = divergence.value(log_p, log_q)
    assert (divergence.value(few, many) <= whole + 1e-6 * (1 + whole)).all()
    torch.testing.assert_close(few[:, -1].exp(), (1 - few[:, :-1].exp().sum(-1)).clamp(min=1e-7), rtol=1e-3, atol=1e-12)
    (gradient,) = torch.autograd.grad(divergence.differentiable(few.detach(), many).sum(), q)
    assert gradient.isfinite().all()


@settings(max_examples=40)
@cases
def test_the_estimate_from_samples_is_unbiased_in_value_and_gradient(seed, spread, divergence):
    p, q = logits_of(seed, min(spread, 1.0))
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    whole = divergence.differentiable(log_p, log_q)
    estimates = divergence.sampled(log_p.flatten(), log_q.flatten()).reshape(log_q.shape)
    mean = (log_q.exp().detach() * estimates).sum(-1)  # over everything that the student might have sampled
    torch.testing.assert_close(mean, whole, rtol=1e-9, atol=1e-12)
    (got,), (wanted,) = (torch.autograd.grad(total.sum(), q, retain_graph=True) for total in (mean, whole))
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-10)


def test_jsd_over_beta_tends_to_forward_and_jsd_alone_to_nothing():
    p, q = (logits.detach().log_softmax(-1) for logits in logits_of(0, 2.0))
    forward = Divergence("forward").value(p, q)
    errors = [(Divergence("jsd", beta).value(p, q) / beta - forward).abs().max().item() for beta in (1e-2, 1e-4, 1e-6)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-4
    assert Divergence("jsd", 1e-6).value(p, q).max() < 1e-4


def tokens(**fields):
    zeros = torch.zeros(2)
    standard = dict.fromkeys(("policy_logprobs_N", "old_logprobs_N", "behavior_logprobs_N", "advantages_N"), zeros)
    return LossTokens(**{**standard, "segments_N": torch.zeros(2, dtype=torch.int64), **fields})


def test_the_objective_adds_a_task_and_weighs_by_importance():
    divergences = torch.tensor([1.0, 2.0])
    assert DistillationLoss()(tokens(divergences_N=divergences)).tolist() == [1.0, 2.0]
    loss = DistillationLoss(task=lambda t: t.advantages_N, task_weight=0.5, importance=lambda t: importance(t, cap=2.0))
    got = loss(tokens(divergences_N=divergences, advantages_N=torch.tensor([4.0, 6.0]), behavior_logprobs_N=torch.tensor([-9.0, 0.0])))
    assert got.tolist() == [1.0 * 2 + 2, 2.0 + 3]


def test_without_a_teacher_there_is_no_loss():
    with pytest.raises(ValueError, match="teacher"):
        DistillationLoss()(tokens())
