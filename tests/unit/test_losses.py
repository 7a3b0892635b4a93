"""The SAPO loss and the mismatch correction: golden values, properties, and the formula in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.algorithms.losses import Corrected, LossTokens, sapo, token_tis
from posttrain.algorithms.sapo import SapoConfig

GOLDEN = [
    # r, f at tau 1.0, w, f at tau 1.05, w (arXiv 2511.20347)
    (0.0, 1.0758, 0.7864, 0.9875, 0.7681),
    (0.5, 1.5102, 0.9400, 1.4159, 0.9341),
    (1.0, 2.0000, 1.0, 1.9048, 1.0),
    (1.2, 2.1993, 0.9901, 2.1040, 0.9891),
    (2.0, 2.9242, 0.7864, 2.8220, 0.7681),
    (3.0, 3.5232, 0.4200, 3.3939, 0.3888),
    (5.0, 3.9281, 0.0707, 3.7532, 0.0582),
    (10.0, 3.9995, 0.0005, 3.8092, 0.0003),
]


def tokens(policy, old=None, behavior=None, advantages=None, dtype=torch.float64):
    policy = torch.as_tensor(policy, dtype=dtype)
    zeros = torch.zeros_like(policy)
    return LossTokens(
        policy_logprobs_N=policy,
        old_logprobs_N=zeros if old is None else torch.as_tensor(old, dtype=dtype),
        behavior_logprobs_N=zeros if behavior is None else torch.as_tensor(behavior, dtype=dtype),
        advantages_N=zeros + 1 if advantages is None else torch.as_tensor(advantages, dtype=dtype),
        segments_N=torch.zeros(len(policy), dtype=torch.int64),
    )


def value_and_gradient(log_ratio, advantage, tau, dtype=torch.float64):
    policy = torch.tensor([log_ratio], dtype=dtype, requires_grad=True)
    loss = sapo(tokens(policy, advantages=[advantage], dtype=dtype), tau_pos=tau, tau_neg=tau)
    loss.sum().backward()
    return loss.item(), policy.grad.item()


@pytest.mark.parametrize(("r", "f1", "w1", "f105", "w105"), GOLDEN)
def test_golden_values(r, f1, w1, f105, w105):
    log_ratio = math.log(r) if r else -20.0
    for tau, f, w in ((1.0, f1, w1), (1.05, f105, w105)):
        loss, gradient = value_and_gradient(log_ratio, 1.0, tau)
        assert -loss == pytest.approx(f, abs=6e-5)
        if r:
            assert -gradient / r == pytest.approx(w, abs=6e-5)


@given(st.floats(0.2, 5.0))
def test_slope_at_one_is_one_for_any_tau(tau):
    for advantage in (1.0, -2.5):
        _, gradient = value_and_gradient(0.0, advantage, tau)
        assert gradient == pytest.approx(-advantage, rel=1e-12)


def test_largest_gradient_weight():
    ratios = np.linspace(0.5, 4, 3501)
    for tau, best, at in ((1.0, 1.5747, 2.06), (1.05, 1.5363, 1.99)):
        gradients = np.array([-value_and_gradient(math.log(r), 1.0, tau)[1] for r in ratios[::10]])
        assert gradients.max() == pytest.approx(best, abs=1e-4)
        assert ratios[::10][gradients.argmax()] == pytest.approx(at, abs=0.011)


@given(st.integers(0, 2**31))
def test_float32_equals_the_formula_in_float64(seed):
    rng = np.random.default_rng(seed)
    old, policy, advantages = -rng.exponential(2, 64), -rng.exponential(2, 64), rng.normal(size=64)
    old32, policy32 = old.astype(np.float32).astype(np.float64), policy.astype(np.float32).astype(np.float64)
    advantages32 = advantages.astype(np.float32).astype(np.float64)
    ratio = np.exp(policy32 - old32)
    tau = np.where(advantages32 > 0, 1.0, 1.05)
    expected = -(4 / tau) / (1 + np.exp(-tau * (ratio - 1))) * advantages32
    loss = sapo(tokens(policy32, old=old32, advantages=advantages32, dtype=torch.float32), tau_pos=1.0, tau_neg=1.05)
    # The difference of two float32 log-probabilities is itself rounded; 1e-6 relative holds beyond that.
    rounding = np.abs(np.exp(np.float64(np.float32(policy32) - np.float32(old32))) - ratio) * np.abs(advantages32)
    assert np.all(np.abs(loss.numpy() - expected) <= 1e-6 * np.abs(expected) + 1.1 * rounding)
    exact = sapo(tokens(policy32, old=old32, advantages=advantages32), tau_pos=1.0, tau_neg=1.05)
    np.testing.assert_allclose(exact.numpy(), expected, rtol=1e-9)


def test_tau_does_not_take_the_advantages_dtype():
    fields = tokens([0.5], advantages=[-1.0], dtype=torch.float32)
    half = LossTokens(
        policy_logprobs_N=fields.policy_logprobs_N,
        old_logprobs_N=fields.old_logprobs_N,
        behavior_logprobs_N=fields.behavior_logprobs_N,
        advantages_N=fields.advantages_N.to(torch.bfloat16),
        segments_N=fields.segments_N,
    )
    assert sapo(half, tau_pos=1.0, tau_neg=1.05).item() == sapo(fields, tau_pos=1.0, tau_neg=1.05).item()


@pytest.mark.parametrize("log_ratio", [100.0, -100.0, math.inf, -math.inf])
def test_extreme_ratios_give_finite_losses_and_gradients(log_ratio):
    for advantage in (1.0, -1.0):
        loss, gradient = value_and_gradient(log_ratio, advantage, 1.0, dtype=torch.float32)
        assert math.isfinite(loss) and math.isfinite(gradient)


def test_token_tis_caps_and_carries_no_gradient():
    policy = torch.zeros(3, requires_grad=True)
    fields = tokens(policy, old=[0.0, 1.0, -1.0], behavior=[0.0, -1.0, 0.0], dtype=torch.float32)
    weights = token_tis(fields, cap=2.0)
    assert weights.tolist() == pytest.approx([1.0, 2.0, math.exp(-1)])
    assert not weights.requires_grad


def test_the_algorithms_objective_is_the_loss_times_the_correction():
    fields = tokens([-1.0, -2.0], old=[-1.0, -2.0], behavior=[-1.5, -2.0], advantages=[1.0, -1.0])
    objective = SapoConfig(tis_cap=1.2).objective()
    assert isinstance(objective, Corrected)
    expected = sapo(fields, tau_pos=1.0, tau_neg=1.05) * torch.tensor([1.2, 1.0], dtype=torch.float64)
    torch.testing.assert_close(objective(fields), expected)
