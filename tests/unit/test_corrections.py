"""Corrections for the engine/learner mismatch and for drift inside a rollout batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.algorithms.corrections import icepop, kept_tokens, opsm, sequence_mask, sequence_tis, token_tis
from posttrain.algorithms.losses import LossTokens
from posttrain.algorithms.sapo import SapoConfig
from posttrain.packing import leave_out, loss_weights, pack


def tokens(log_rho, segments=None, policy=None, advantages=None):
    """Tokens whose old - behavior is log_rho; old is 0."""
    behavior = -torch.as_tensor(log_rho, dtype=torch.float64)
    zeros = torch.zeros_like(behavior)
    return LossTokens(
        policy_logprobs_N=zeros.clone().requires_grad_() if policy is None else torch.as_tensor(policy, dtype=torch.float64),
        old_logprobs_N=zeros,
        behavior_logprobs_N=behavior,
        advantages_N=zeros + 1 if advantages is None else torch.as_tensor(advantages, dtype=torch.float64),
        segments_N=torch.zeros(len(behavior), dtype=torch.int64) if segments is None else torch.as_tensor(segments),
    )


def test_golden_values():
    fields = tokens([0.0, 2.0, -1.0], segments=[0, 1, 1])
    assert token_tis(fields, cap=2.0).tolist() == pytest.approx([1, 2, math.exp(-1)])
    assert sequence_tis(fields, cap=2.5).tolist() == pytest.approx([1, 2.5, 2.5])
    assert sequence_tis(fields, cap=10.0).tolist() == pytest.approx([1, math.e, math.e])
    assert icepop(fields, low=0.5, high=5.0).tolist() == pytest.approx([1, 0, 0])
    assert icepop(fields, low=0.3, high=8.0).tolist() == pytest.approx([1, math.exp(2), math.exp(-1)])
    assert sequence_mask(fields, low=0.9, high=1.6).tolist() == [1, 0, 0]
    assert sequence_mask(fields, low=0.9, high=1.7).tolist() == [1, 1, 1]


def test_icepop_keeps_its_bounds():
    fields = tokens([math.log(0.5), math.log(5.0)])
    low, high = token_tis(fields, cap=10.0).tolist()
    assert icepop(fields, low=low, high=high).tolist() == [low, high]


@given(st.lists(st.sampled_from([0.0, 1e-3, 100.0, -100.0, 3.0]), min_size=1, max_size=8))
def test_factors_are_finite_and_carry_no_gradient(log_rho):
    fields = tokens(log_rho)
    for factor in (
        token_tis(fields, cap=2.0),
        sequence_tis(fields, cap=10.0),
        icepop(fields, low=0.5, high=5.0),
        sequence_mask(fields, low=0.5, high=5.0),
        opsm(fields, delta=0.1),
    ):
        assert torch.isfinite(factor).all() and not factor.requires_grad and (factor >= 0).all()


def test_one_token_sequence_and_agreement_are_the_identity():
    fields = tokens([0.0])
    for factor in (token_tis(fields, cap=2.0), sequence_tis(fields, cap=2.0), icepop(fields, low=0.5, high=5.0)):
        assert factor.tolist() == [1.0]


def test_opsm_leaves_out_negative_episodes_that_drifted_down():
    fields = tokens([0.0] * 4, segments=[0, 0, 1, 1], policy=[-0.5, -0.1, -0.5, -0.1], advantages=[-1.0, -1.0, 1.0, 1.0])
    assert opsm(fields, delta=0.29).tolist() == [0, 0, 1, 1]
    assert opsm(fields, delta=0.31).tolist() == [1, 1, 1, 1]


def masked_weights(groups, normalization, correction, microbatch_tokens=10_000):
    """The loss weights by (episode, position in it) after what the correction leaves out is gone; old differs from behavior by 0.3 n."""
    batches = pack(groups, normalization=normalization, microbatch_tokens=microbatch_tokens)
    for batch in batches:
        wild = (batch.token_ids % 5 == 0) * 3.0
        batch.old_logprobs = (batch.behavior_logprobs + wild).astype(np.float32)
    leave_out(batches, [kept_tokens(batch, correction) for batch in batches], normalization)
    return batches


@pytest.mark.parametrize("normalization", ["sequence_mean", "token_mean"])
@pytest.mark.parametrize("microbatch_tokens", [10_000, 40])
def test_what_is_left_out_leaves_the_normaliser(random_groups, normalization, microbatch_tokens):
    """The weights that remain are those of the formula over the tokens that remain, however the step is cut."""
    groups = random_groups(5)
    correction = SapoConfig(correction="icepop").mismatch_correction()
    batches = masked_weights(groups, normalization, correction, microbatch_tokens)
    sums = [np.bincount(b.segment_ids, b.loss_weights)[np.unique(b.segment_ids[b.loss_weights > 0])] for b in batches]
    per_episode = np.concatenate(sums)
    assert sum(b.loss_weights.sum() for b in batches) == pytest.approx(1, rel=1e-5)
    if normalization == "sequence_mean":
        np.testing.assert_allclose(per_episode, 1 / len(per_episode), rtol=1e-5)
    else:
        weights = np.concatenate([b.loss_weights[b.loss_weights > 0] for b in batches])
        np.testing.assert_allclose(weights, 1 / len(weights), rtol=1e-5)
    left = sum(np.count_nonzero(b.loss_weights) for b in batches)
    assert 0 < left < sum(e.num_completion_tokens for g in groups for e in g.episodes)


def test_everything_left_out_is_a_step_of_nothing(random_groups):
    groups = random_groups(6)
    batches = masked_weights(groups, "sequence_mean", SapoConfig(correction="icepop", correction_range=[2.0, 3.0]).mismatch_correction())
    assert all((batch.loss_weights == 0).all() and np.isfinite(batch.loss_weights).all() for batch in batches)


def test_nothing_left_out_changes_nothing(random_groups):
    groups = random_groups(7)
    (batch,) = masked_weights(groups, "sequence_mean", SapoConfig(correction="icepop", correction_range=[0.0, 1e9]).mismatch_correction())
    flat = sorted(w for row in loss_weights(groups, "sequence_mean") for w in row)
    got = sorted(set(np.round(batch.loss_weights[batch.loss_weights > 0], 7)))
    np.testing.assert_allclose(got, sorted(set(np.round(flat, 7))), rtol=1e-4)
