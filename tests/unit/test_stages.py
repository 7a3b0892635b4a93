"""Stages: which rows make which step, and documents cut to a length."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.algorithms.stages import Stage, cut, plan_steps
from posttrain.types import Document

LENGTHS = {"a": np.arange(1, 21), "b": np.arange(5, 15)}


def stage(epochs, *, shares=None, rows=None):
    rows = rows or {"a": range(20), "b": range(10)}
    return Stage(max_tokens=64, epochs=epochs, rows=rows, shares=shares or {name: len(own) for name, own in rows.items()})


def plan(*stages, num_steps=None, rows_per_step=4, tokens_per_step=0, seed=0):
    return plan_steps(stages, LENGTHS, seed=seed, rows_per_step=rows_per_step, tokens_per_step=tokens_per_step, num_steps=num_steps)


@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 5))
def test_an_epoch_by_size_deals_every_row_once(rows_per_step, tokens_per_step, seed):
    steps = plan(stage(2.0), rows_per_step=rows_per_step, tokens_per_step=tokens_per_step, seed=seed)
    counts = Counter(pair for step in steps for pair in step.rows)
    assert set(counts.values()) == {2} and len(counts) == 30
    assert steps[-1].epoch == 2.0 and all(one.epoch < other.epoch for one, other in pairwise(steps))
    if tokens_per_step:
        for step, following in pairwise(steps):
            used = sum(LENGTHS[name][row] for name, row in step.rows)
            name, row = following.rows[0]
            assert used <= tokens_per_step or len(step.rows) == 1
            assert used + LENGTHS[name][row] > tokens_per_step
    else:
        assert [len(step.rows) for step in steps[:-1]] == [rows_per_step] * (len(steps) - 1)


def test_shares_hold_in_every_step_and_steps_may_go_on_for_ever():
    steps = plan(stage(None, shares={"a": 1, "b": 3}), num_steps=50)
    assert len(steps) == 50
    assert {tuple(sorted(Counter(name for name, _ in step.rows).items())) for step in steps} == {(("a", 1), ("b", 3))}
    assert plan(stage(None, shares={"a": 1, "b": 3}), num_steps=70)[:50] == steps
    assert plan(stage(None, shares={"a": 1, "b": 3}), num_steps=50, seed=1) != steps


def test_stages_follow_each_other_with_their_own_rows():
    short, long = stage(1.0, rows={"a": [0, 1, 2]}), stage(0.5, rows={"a": [17, 18, 19], "b": [9]})
    steps = plan(short, long)
    assert [step.stage for step in steps] == [0, 1]
    assert {row for _, row in steps[0].rows} == {0, 1, 2} and len(steps[1].rows) == 2
    assert {row for _, row in steps[1].rows} <= {17, 18, 19, 9}


@given(st.integers(2, 30), st.integers(2, 12), st.integers(0, 99))
def test_pieces_train_every_token_once_after_the_token_that_predicts_it(length, max_tokens, seed):
    is_trained = np.random.default_rng(seed).random(length) < 0.5
    is_trained[0] = False
    document = Document(token_ids=np.arange(length), is_trained=is_trained)
    pieces = cut(document, max_tokens)
    assert all(len(piece.token_ids) <= max_tokens and not piece.is_trained[0] and piece.is_trained.any() for piece in pieces) or (
        pieces == [document]
    )
    pairs = [(piece.token_ids[t - 1], piece.token_ids[t]) for piece in pieces for t in np.flatnonzero(piece.is_trained)]
    assert sorted(pairs) == [(t - 1, t) for t in np.flatnonzero(is_trained)]


def test_a_document_that_fits_is_left_as_it_is():
    document = Document(token_ids=np.arange(5), is_trained=np.array([0, 0, 0, 1, 1], bool))
    assert cut(document, 5) == [document]
    assert [piece.token_ids.tolist() for piece in cut(document, 3)] == [[2, 3, 4]]
    assert pytest.approx(cut(document, 4)[-1].is_trained) == [False, True]
