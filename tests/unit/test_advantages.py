"""Advantages of a group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.algorithms.advantages import group_normalized

REWARDS = st.lists(st.floats(-10, 10), min_size=2, max_size=16)


def test_golden_values():
    # mean 0.25, sample standard deviation 0.5
    assert group_normalized([1.0, 0.0, 0.0, 0.0]) == pytest.approx(np.array([0.75, -0.25, -0.25, -0.25]) / 0.500001)


@given(REWARDS)
def test_mean_is_zero_and_order_is_kept(rewards):
    advantages = group_normalized(rewards)
    assert abs(advantages.mean()) < 1e-6
    assert np.all(np.diff(advantages[np.argsort(rewards)]) >= 0)


@given(st.floats(-1e6, 1e6), st.integers(1, 16))
def test_equal_rewards_have_exactly_no_advantage(reward, size):
    assert group_normalized([reward] * size).tolist() == [0.0] * size


def test_no_episodes():
    assert group_normalized([]).tolist() == []
