"""Mixtures: exact shares, every prompt once an epoch, and the same order after a resume."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.mixture import Mixture
from posttrain.errors import UserError

SHARES = st.lists(st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.7]), min_size=1, max_size=5)


def mixture(shares, num_prompts=50, seed=0):
    names = [f"t{i}" for i in range(len(shares))]
    return Mixture(dict.fromkeys(names, num_prompts), dict(zip(names, shares, strict=True)), seed)


def counts(batch):
    return {name: sum(task == name for task, _ in batch) for name in {task for task, _ in batch}}


def test_shares_that_divide_the_batch_are_exact_in_each():
    mixed = mixture([1.0, 0.5, 0.5])
    for _ in range(20):
        assert counts(mixed.take(8)) == {"t0": 4, "t1": 2, "t2": 2}


def test_what_a_batch_rounds_away_the_next_one_gives():
    mixed = mixture([1.0, 1.0])
    assert [counts(mixed.take(3)) for _ in range(4)] == [{"t0": 2, "t1": 1}, {"t0": 1, "t1": 2}] * 2


@given(SHARES, st.lists(st.integers(1, 17), min_size=1, max_size=20))
def test_no_task_is_ever_a_whole_prompt_from_its_share(shares, sizes):
    mixed = mixture(shares)
    for size in sizes:
        assert len(mixed.take(size)) == size
        total = sum(mixed.num_dealt.values())
        for name, share in mixed.shares.items():
            assert abs(mixed.num_dealt[name] - share * total) < (1 if len(set(sizes)) == 1 else 2)


def test_tasks_are_interleaved():
    assert [task for task, _ in mixture([1.0, 1.0]).take(6)] == ["t0", "t1"] * 3


def test_each_task_goes_through_its_prompts():
    mixed = mixture([3.0, 1.0], num_prompts=6)
    dealt = [mixed.take(8) for _ in range(3)]
    assert sorted(position for batch in dealt for task, position in batch if task == "t1") == list(range(6))
    assert sorted(position for batch in dealt for task, position in batch if task == "t0") == sorted(list(range(6)) * 3)


@given(SHARES, st.integers(0, 5))
def test_a_restored_mixture_goes_on_as_the_first_would(shares, before):
    first, second = mixture(shares, seed=4), mixture(shares, seed=4)
    for _ in range(before):
        first.take(7)
    second.restore(json.loads(json.dumps(first.state())))
    assert [first.take(7) for _ in range(5)] == [second.take(7) for _ in range(5)]


def test_another_mixture_cannot_be_restored():
    with pytest.raises(UserError, match="for tasks t0, t1, but this run has t0;"):
        mixture([1.0]).restore(mixture([1.0, 1.0]).state())
