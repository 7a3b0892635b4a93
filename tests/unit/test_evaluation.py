"""pass@k: the estimator against every choice of k samples, its interval, and which prompts count."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.algorithms.evaluation import pass_at_k, pass_row


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_choices_that_hold_a_solved_sample(solved, data):
    k = data.draw(st.integers(1, len(solved)))
    share = np.mean([any(choice) for choice in combinations(solved, k)])
    assert pass_at_k(len(solved), sum(solved), k) == pytest.approx(share)


def test_rows_have_powers_of_two_and_the_most_samples():
    row = pass_row("sums", [[1, 0, 0, 0, 0, 0], [1, 1, 1, 0.5, 0, 0], [0] * 6], solved_at=1.0)
    assert [name for name in row if "ci95" not in name] == [f"eval/sums/pass@{k}" for k in (1, 2, 4, 6)]
    assert row["eval/sums/pass@1"] == pytest.approx(np.mean([1 / 6, 1 / 2, 0]))
    assert row["eval/sums/pass@2"] == pytest.approx(np.mean([1 / 3, 1 - 3 / 15, 0]))
    assert row["eval/sums/pass@6"] == pytest.approx(2 / 3)
    assert row["eval/sums/pass@6_ci95"] == pytest.approx(1.96 * np.std([1, 1, 0], ddof=1) / np.sqrt(3))
    assert pass_row("sums", [[1, 0, 0, 0, 0, 0], [1, 1, 1, 0.5, 0, 0]], solved_at=0.5)["eval/sums/pass@1"] == pytest.approx(
        (1 / 6 + 4 / 6) / 2
    )


def test_a_prompt_with_too_few_samples_is_left_out_of_that_k():
    row = pass_row("sums", [[1, 1], [0, 0, 0, 0]], solved_at=1.0)
    assert row["eval/sums/pass@2"] == 0.5 and row["eval/sums/pass@4"] == 0.0
    assert pass_row("sums", [], solved_at=1.0) == {}
