"""Advantages of rollout batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.algorithms import advantages
from posttrain.algorithms.advantages import EntropyControl, group_normalized
from posttrain.algorithms.base import ADVANTAGES
from posttrain.types import Episode, Group, Prompt

REWARDS = st.lists(st.floats(-10, 10), min_size=2, max_size=16)


def group(rewards, task="t", scores=None):
    scores = scores or [{"a": reward} for reward in rewards]
    episodes = [
        Episode(prompt_id="p", turns=[], status="complete", reward=r, outcome=r, scores=s) for r, s in zip(rewards, scores, strict=True)
    ]
    return Group(prompt=Prompt(id="p", task=task, messages=[], reference=None), prompt_token_ids=np.zeros(1, np.int64), episodes=episodes)


def compute(name, *groups, weights=None):
    for episode in (episode for group in groups for episode in group.episodes):
        episode.weights = weights or {}
    return [values.tolist() for values in vars(advantages)[name](groups)]


def test_group_normalized():
    # mean 0.25, sample standard deviation 0.5
    assert compute("group_normalized", group([1.0, 0.0, 0.0, 0.0])) == [pytest.approx(np.array([0.75, -0.25, -0.25, -0.25]) / 0.500001)]


def test_group_centered_and_leave_one_out():
    rewards = [1.0, 0.0, 0.0, 0.0]
    assert compute("group_centered", group(rewards)) == [pytest.approx([0.75, -0.25, -0.25, -0.25])]
    others = [reward - np.mean(rewards[:i] + rewards[i + 1 :]) for i, reward in enumerate(rewards)]
    assert compute("leave_one_out", group(rewards)) == [pytest.approx(others)]


def test_whitened_is_over_the_whole_batch():
    got = compute("whitened", group([1.0, 1.0]), group([0.0, 2.0, 1.0]))
    assert [len(values) for values in got] == [2, 3]
    expected = (np.array([1, 1, 0, 2, 1.0]) - 1) / (np.std([1, 1, 0, 2, 1.0], ddof=1) + 1e-6)
    assert [*got[0], *got[1]] == pytest.approx(expected)


def test_task_normalized_divides_by_the_tasks_own_spread():
    easy, hard, other = group([1.0, 0.0]), group([1.0, 1.0, 0.0]), group([10.0, 0.0], task="u")
    got = compute("task_normalized", easy, hard, other)
    spread = np.std([1, 0, 1, 1, 0.0], ddof=1)
    assert got[0] == pytest.approx(np.array([0.5, -0.5]) / spread)
    assert got[1] == pytest.approx(np.array([1 / 3, 1 / 3, -2 / 3]) / spread)
    assert got[2] == pytest.approx(np.array([5.0, -5.0]) / np.std([10, 0.0], ddof=1))
    assert compute("task_normalized", group([3.0])) == [[0.0]]
    nearly_equal = compute("task_normalized", group([1.0, 1.0 + 1e-5]))
    assert np.abs(nearly_equal).max() < 1e-3


def test_per_reward_normalisation_tells_apart_what_a_sum_mixes_up():
    scores = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 1.0}]
    mixed = group([sum(s.values()) for s in scores], scores=scores)
    (summed,), (apart,) = compute("group_normalized", mixed), compute("per_reward_normalized", mixed, weights={"a": 1.0, "b": 1.0})
    assert summed[0] == summed[1] and apart[0] > apart[1] > 0
    a, b = np.array([1, 0, 0, 0.0]), np.array([0, 1, 0, 1.0])
    total = sum((x - x.mean()) / (x.std(ddof=1) + 1e-6) for x in (a, b))
    assert apart == pytest.approx((total - total.mean()) / (total.std(ddof=1) + 1e-6))
    (weighed,) = compute("per_reward_normalized", mixed, weights={"a": 0.0, "b": 1.0})
    assert weighed[0] == weighed[2]


@given(REWARDS)
def test_group_normalized_has_mean_zero_and_keeps_the_order(rewards):
    (values,) = group_normalized([group(rewards)])
    assert abs(values.mean()) < 1e-6
    assert np.all(np.diff(values[np.argsort(rewards)]) >= 0)


@pytest.mark.parametrize("name", ADVANTAGES)
@given(reward=st.floats(-1e6, 1e6), size=st.integers(1, 16))
def test_equal_rewards_have_exactly_no_advantage(name, reward, size):
    assert compute(name, group([reward] * size)) == [[0.0] * size]


@pytest.mark.parametrize("name", ADVANTAGES)
def test_masked_and_failed_episodes_take_no_part(name):
    whole = group([1.0, 0.0, 0.5, 7.0, 9.0])
    whole.episodes[3].is_masked = True
    whole.episodes[4].status = "failed"
    assert compute(name, whole) == compute(name, group([1.0, 0.0, 0.5]))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_no_groups_and_empty_groups(name):
    assert compute(name) == []
    assert compute(name, group([]), group([1.0, 0.0]))[0] == []


def test_entropy_control_has_hysteresis():
    control = EntropyControl(low=0.1, high=0.3)
    seen = []
    for entropy in (0.2, 0.31, 0.2, 0.1, 0.09, 0.2, 0.3, 0.5):
        control.update(entropy)
        seen.append(control.is_active)
    assert seen == [False, True, True, True, False, False, False, True]
