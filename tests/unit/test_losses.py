"""The losses: golden values, properties, and their formulas in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.algorithms.grpo import GrpoConfig
from posttrain.algorithms.losses import (
    LossTokens,
    cispo,
    clipped,
    episode_mean,
    episode_sum,
    gspo,
    gspo_token,
    kl_to_reference,
    reinforce,
    sapo,
)
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


def tokens(policy, old=None, behavior=None, advantages=None, dtype=torch.float64, segments=None, reference=None):
    policy = torch.as_tensor(policy, dtype=dtype)
    zeros = torch.zeros_like(policy)
    return LossTokens(
        policy_logprobs_N=policy,
        old_logprobs_N=zeros if old is None else torch.as_tensor(old, dtype=dtype),
        behavior_logprobs_N=zeros if behavior is None else torch.as_tensor(behavior, dtype=dtype),
        advantages_N=zeros + 1 if advantages is None else torch.as_tensor(advantages, dtype=dtype),
        segments_N=torch.zeros(len(policy), dtype=torch.int64) if segments is None else torch.as_tensor(segments),
        ref_logprobs_N=None if reference is None else torch.as_tensor(reference, dtype=dtype),
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
    ratio = np.exp(np.clip(policy32 - old32, -20, 20))
    tau = np.where(advantages32 > 0, 1.0, 1.05)
    expected = -(4 / tau) / (1 + np.exp(-tau * (ratio - 1))) * advantages32
    loss = sapo(tokens(policy32, old=old32, advantages=advantages32, dtype=torch.float32), tau_pos=1.0, tau_neg=1.05)
    # The difference of two float32 log-probabilities is itself rounded; 1e-6 relative holds beyond that.
    rounding = np.abs(np.exp(np.clip(np.float64(np.float32(policy32) - np.float32(old32)), -20, 20)) - ratio) * np.abs(advantages32)
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


def random_tokens(seed, num_episodes=5, spread=0.3):
    """Episodes of 1 to 6 tokens in shuffled order, one advantage each; the policy is a leaf with gradient."""
    rng = np.random.default_rng(seed)
    segments = rng.permutation(np.repeat(np.arange(num_episodes) * 3 + 7, rng.integers(1, 7, num_episodes)))
    advantages = rng.normal(size=num_episodes)[(segments - 7) // 3]
    old = -rng.exponential(1, len(segments))
    policy = torch.tensor(old + rng.normal(scale=spread, size=len(segments)), requires_grad=True)
    return tokens(policy, old=old, advantages=advantages, segments=segments)


def gradient(loss, fields, weights=None):
    values = loss(fields)
    total = (values if weights is None else values * weights).sum()
    return torch.autograd.grad(total, fields.policy_logprobs_N)[0]


@given(st.integers(0, 2**31))
def test_episode_sums_and_means(seed):
    fields = random_tokens(seed)
    values, segments = fields.policy_logprobs_N.detach().numpy(), fields.segments_N.numpy()
    for name, reduce in (("sum", np.sum), ("mean", np.mean)):
        expected = [reduce(values[segments == segment]) for segment in segments]
        got = {"sum": episode_sum, "mean": episode_mean}[name](fields.policy_logprobs_N, fields.segments_N)
        np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-12)


@given(st.integers(0, 2**31))
def test_clipped_surrogate_equals_its_formula(seed):
    fields = random_tokens(seed)
    ratio = np.exp((fields.policy_logprobs_N - fields.old_logprobs_N).detach().numpy())
    advantages = fields.advantages_N.numpy()
    loss = clipped(fields, clip_low=0.2, clip_high=0.28).detach().numpy()
    np.testing.assert_allclose(loss, -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.28) * advantages), rtol=1e-12)
    is_clipped = ((ratio > 1.28) & (advantages > 0)) | ((ratio < 0.8) & (advantages < 0))
    expected = np.where(is_clipped, 0.0, -ratio * advantages)
    np.testing.assert_allclose(gradient(lambda f: clipped(f, clip_low=0.2, clip_high=0.28), fields).numpy(), expected, rtol=1e-12)


@given(st.integers(0, 2**31))
def test_gspo_is_the_formula_for_the_whole_episode(seed):
    fields = random_tokens(seed, spread=0.05)
    segments, advantages = fields.segments_N.numpy(), fields.advantages_N.numpy()
    log_ratio = (fields.policy_logprobs_N - fields.old_logprobs_N).detach().numpy()
    bounds = {"clip_low": 0.01, "clip_high": 0.02}
    lengths = np.array([np.sum(segments == segment) for segment in segments])
    weights = torch.tensor(1 / lengths)
    got = gradient(lambda f: gspo(f, **bounds), fields, weights).numpy()
    for segment in np.unique(segments):
        mine = segments == segment
        s, advantage = np.exp(log_ratio[mine].mean()), advantages[mine][0]
        is_clipped = (s > 1.02 and advantage > 0) or (s < 0.99 and advantage < 0)
        expected = 0.0 if is_clipped else -s * advantage / mine.sum()
        np.testing.assert_allclose(got[mine], expected, rtol=1e-9)
    np.testing.assert_allclose(gradient(lambda f: gspo_token(f, **bounds), fields, weights).numpy(), got, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(gspo_token(fields, **bounds), gspo(fields, **bounds))


def test_cispo_bounds_the_weight_and_keeps_the_gradient():
    policy = torch.tensor([math.log(8.0), math.log(0.5)], dtype=torch.float64, requires_grad=True)
    fields = tokens(policy, advantages=[2.0, -1.0])
    assert gradient(lambda f: cispo(f, ratio_cap=5.0), fields).tolist() == pytest.approx([-10.0, 0.5])


@given(st.integers(0, 2**31))
def test_reinforce_on_policy_has_gradient_minus_advantage(seed):
    fields = random_tokens(seed, spread=0.0)
    np.testing.assert_allclose(gradient(reinforce, fields).numpy(), -fields.advantages_N.numpy(), rtol=1e-12)


def test_reinforce_off_policy_weighs_the_episode():
    policy = torch.tensor([-1.0, -1.0, -3.0], dtype=torch.float64, requires_grad=True)
    fields = tokens(policy, old=[-1.5, -1.2, -3.0], advantages=[1.0, 1.0, -1.0], segments=[4, 4, 9])
    assert gradient(reinforce, fields).tolist() == pytest.approx([-math.exp(0.7), -math.exp(0.7), 1.0])


@given(st.floats(-30, 30), st.floats(-30, 0))
def test_k3_is_never_negative_and_zero_only_at_agreement(gap, reference):
    fields = tokens([reference - gap], reference=[reference])
    value = kl_to_reference(fields).item()
    clamped = min(20.0, max(-20.0, reference - (reference - gap)))
    assert value == pytest.approx(math.exp(clamped) - clamped - 1, rel=1e-9, abs=1e-15) and value >= 0


def test_kl_penalty_is_added_once_and_needs_a_reference():
    fields = tokens([-1.0, -2.0], old=[-1.0, -2.0], behavior=[-1.0, -2.0], advantages=[1.0, -1.0], reference=[-1.5, -2.0])
    config = GrpoConfig(correction="none")
    expected = clipped(fields, clip_low=0.2, clip_high=0.2) + 0.04 * torch.tensor([math.exp(-0.5) + 0.5 - 1, 0.0], dtype=torch.float64)
    torch.testing.assert_close(config.objective()(fields), expected)
    with pytest.raises(ValueError, match="ref_logprobs"):
        config.objective()(tokens([-1.0]))
    assert config.objective()(tokens([])).shape == (0,)  # a rank that was filled up


def test_the_objective_is_the_loss_times_its_corrections():
    fields = tokens([-1.0, -2.0], old=[-1.0, -2.0], behavior=[-1.5, -2.0], advantages=[1.0, -1.0])
    loss = sapo(fields, tau_pos=1.0, tau_neg=1.05)
    weighed = loss * torch.tensor([1.2, 1.0], dtype=torch.float64)
    torch.testing.assert_close(SapoConfig(correction_cap=1.2).objective()(fields), weighed)
    torch.testing.assert_close(SapoConfig(correction="none").objective()(fields), loss)


ALL = {
    "sapo": lambda f: sapo(f, tau_pos=1.0, tau_neg=1.05),
    "clipped": lambda f: clipped(f, clip_low=0.2, clip_high=0.2),
    "gspo": lambda f: gspo(f, clip_low=3e-4, clip_high=4e-4),
    "gspo_token": lambda f: gspo_token(f, clip_low=3e-4, clip_high=4e-4),
    "cispo": lambda f: cispo(f, ratio_cap=5.0),
    "reinforce": reinforce,
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("log_ratio", [100.0, -100.0])
def test_every_loss_survives_extreme_tokens(name, log_ratio):
    """One wild token beside a calm one: everything is finite, and nothing at all for an empty batch or equal rewards."""
    for advantages in ([1.0, 1.0], [-1.0, -1.0]):
        policy = torch.tensor([log_ratio, 0.0], dtype=torch.float32, requires_grad=True)
        fields = tokens(policy, advantages=advantages, dtype=torch.float32, segments=[0, 1])
        assert torch.isfinite(ALL[name](fields)).all() and torch.isfinite(gradient(ALL[name], fields)).all()
    policy = torch.tensor([log_ratio, 0.0], dtype=torch.float32, requires_grad=True)
    assert gradient(ALL[name], tokens(policy, advantages=[0.0, 0.0], dtype=torch.float32)).tolist() == [0.0, 0.0]
    empty = tokens(torch.zeros(0, requires_grad=True), dtype=torch.float32, segments=torch.zeros(0, dtype=torch.int64))
    assert ALL[name](empty).shape == (0,)
