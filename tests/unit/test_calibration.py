"""Accuracy, AUC and calibration error: golden values worked out by hand, properties, and brute force."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import UserError
from posttrain.rewards.base import Abstain, Reward, Score
from posttrain.rewards.calibration import accuracy, auc, calibrate, expected_calibration_error
from posttrain.types import Episode, Prompt, Turn

# Few different scores, so that ties are common.
rows = st.lists(st.tuples(st.booleans(), st.integers(0, 8).map(lambda eighths: eighths / 8)), min_size=1, max_size=40)
both_labels = rows.filter(lambda drawn: len({label for label, _ in drawn}) == 2)


def split(drawn):
    return [label for label, _ in drawn], [score for _, score in drawn]


# Golden values


def test_accuracy_counts_the_threshold_as_positive():
    assert accuracy([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1]) == 0.5
    assert accuracy([True, False, True, False], [0.9, 0.5, 0.4, 0.1], threshold=0.4) == 0.75
    assert accuracy([1], [0.5]) == 1.0


def test_auc_by_hand():
    # Pairs of (positive, negative): .8 beats .1 and .4; .35 beats .1 and loses to .4.
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    # .5 ties with .5 and beats .2; .9 beats both: 3.5 of 4.
    assert auc([1, 1, 0, 0], [0.5, 0.9, 0.5, 0.2]) == 0.875


def test_calibration_error_by_hand():
    # Bins of a fifth: {.1, .15} mean .125, share 1/2; {.9} share 1; {1.0} is in that bin too, mean .95, share 1/2.
    labels, scores = [1, 0, 1, 0], [0.1, 0.15, 0.9, 1.0]
    assert expected_calibration_error(labels, scores, num_bins=5) == pytest.approx(0.5 * abs(0.125 - 0.5) + 0.5 * abs(0.95 - 0.5))
    # One bin: the mean of all scores against the share of all positives.
    assert expected_calibration_error(labels, scores, num_bins=1) == pytest.approx(abs(0.5375 - 0.5))


@pytest.mark.parametrize("num_bins", [1, 3, 7, 10, 100])
def test_an_edge_belongs_to_the_bin_that_it_begins(num_bins):
    for edge in range(1, num_bins):
        # Together they would even out (mean = share); apart they are as wrong as can be said of them.
        lower, upper = np.nextafter(edge / num_bins, 0), edge / num_bins
        assert expected_calibration_error([1, 0], [lower, upper], num_bins) == pytest.approx((1 - lower + upper) / 2)


# Properties


@given(both_labels)
def test_auc_is_the_share_of_pairs_in_the_right_order(drawn):
    labels, scores = split(drawn)
    pairs = [(p > n) + 0.5 * (p == n) for pl, p in drawn for nl, n in drawn if pl and not nl]
    assert auc(labels, scores) == pytest.approx(sum(pairs) / len(pairs))


@given(both_labels)
def test_auc_sees_the_order_alone_and_turns_with_it(drawn):
    labels, scores = split(drawn)
    assert auc(labels, [score**3 * 40 - 7 for score in scores]) == auc(labels, scores)
    assert auc(labels, [-score for score in scores]) == pytest.approx(1 - auc(labels, scores))
    assert auc([not label for label in labels], scores) == pytest.approx(1 - auc(labels, scores))
    assert auc(labels, [0.3] * len(labels)) == 0.5
    assert auc(labels, labels) == 1.0


@given(rows, st.integers(1, 12))
def test_calibration_error_is_what_bins_by_hand_give(drawn, num_bins):
    labels, scores = split(drawn)
    total = 0.0
    for k in range(num_bins):
        inside = [(y, s) for y, s in drawn if k / num_bins <= s < (k + 1) / num_bins or (k == num_bins - 1 and s == 1.0)]
        if inside:
            total += len(inside) / len(drawn) * abs(np.mean([s for _, s in inside]) - np.mean([y for y, _ in inside]))
    error = expected_calibration_error(labels, scores, num_bins)
    assert error == pytest.approx(total, abs=1e-12) and 0.0 <= error <= 1.0


@given(rows)
def test_a_perfect_judge_and_its_opposite(drawn):
    labels, _ = split(drawn)
    right, wrong = [float(label) for label in labels], [float(not label) for label in labels]
    assert (accuracy(labels, right), expected_calibration_error(labels, right)) == (1.0, 0.0)
    assert (accuracy(labels, wrong), expected_calibration_error(labels, wrong)) == (0.0, 1.0)


@given(both_labels, st.randoms())
def test_the_order_of_the_rows_says_nothing(drawn, random):
    shuffled = random.sample(drawn, len(drawn))
    for measure in (accuracy, auc, expected_calibration_error):
        assert measure(*split(shuffled)) == pytest.approx(measure(*split(drawn)))


def test_the_usual_library_agrees():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed; brute force above stands in for it")
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 500), rng.integers(0, 50, 500) / 50
    assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))


@pytest.mark.parametrize("measure", [accuracy, auc, expected_calibration_error])
@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([], []),
        ([1], [0.5, 0.6]),
        ([1, 0], [0.5, float("nan")]),
        ([1, 0], [0.5, float("inf")]),
        ([1, 2], [0.1, 0.2]),
        ([0.5, 1], [0.1, 0.2]),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, labels, scores):
    with pytest.raises(ValueError, match=r"expected as many|labels have to be 0 or 1"):
        measure(labels, scores)


def test_each_measure_says_what_it_lacks():
    with pytest.raises(ValueError, match="2 rows are positive and 0 negative"):
        auc([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="0 rows are positive and 2 negative"):
        auc([0, 0], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"scores go from -0\.1 to 0\.5, expected 0 to 1"):
        expected_calibration_error([1, 0], [0.5, -0.1])
    with pytest.raises(ValueError, match=r"scores go from 0\.5 to 1\.5"):
        expected_calibration_error([1, 0], [0.5, 1.5])


# A reward over rows


class Scripted(Reward):
    def score(self, prompt, episode):
        return eval(episode.text)


def row(text, label):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    prompt = Prompt(id="test/1", task="test", messages=[], reference=None)
    return prompt, Episode(prompt_id="test/1", turns=[turn], status="complete"), label


@pytest.mark.parametrize("num_threads", [1, 3])
def test_abstentions_and_failures_are_counted_apart(num_threads):
    texts = [
        ("0.9", True),
        ("Score(0.2)", False),
        ("Abstain('off-scale')", True),
        ("1/0", False),
        ("0.6", False),
        ("[][\n1]", True),
        ("1", True),
    ]
    found = calibrate(Scripted(), [row(*one) for one in texts], num_threads=num_threads)
    labels, scores = [1, 0, 0, 1], [0.9, 0.2, 0.6, 1.0]
    assert (found.num_rows, found.num_scored, found.num_positive, found.num_abstained, found.num_failed) == (7, 4, 2, 1, 2)
    assert (found.accuracy, found.auc) == (0.75, 1.0)
    assert found.expected_calibration_error == expected_calibration_error(labels, scores)
    assert (found.abstention, found.failure) == ("off-scale", "IndexError: list index out of range")


def test_the_threshold_is_the_callers():
    found = calibrate(Scripted(), iter([row("0.6", False), row("0.9", True)]), threshold=0.7)
    assert (found.accuracy, found.abstention, found.failure) == (1.0, "", "")


def test_a_judge_that_never_speaks_has_no_accuracy():
    found = calibrate(Scripted(), [row("Abstain('no')", True), row("None", False)])
    assert (found.num_scored, found.accuracy, found.auc, found.expected_calibration_error) == (0, None, None, None)


def test_rows_of_one_label_have_no_auc():
    found = calibrate(Scripted(), [row("0.5", True), row("0.7", True), row("1/0", False)])
    assert (found.accuracy, found.auc) == (1.0, None)


@pytest.mark.parametrize("text", ["1.5", "-0.1", "float('nan')", "float('inf')"])
def test_a_score_off_the_scale_is_a_failure(text):
    found = calibrate(Scripted(), [row(text, True), row("0.5", True)])
    assert (found.num_failed, found.num_scored) == (1, 1)
    assert found.failure.startswith("ValueError: the score is") and "expected 0 to 1" in found.failure


def test_what_the_user_has_to_mend_ends_it():
    with pytest.raises(UserError, match="set the address"):
        calibrate(Scripted(), [row("(_ for _ in ()).throw(UserError('set the address'))", True)])
    with pytest.raises(ValueError, match="no rows"):
        calibrate(Scripted(), [])


def test_several_rows_are_under_way_at_once():
    together = threading.Barrier(3, timeout=10)

    class Meeting(Reward):
        def score(self, prompt, episode):
            together.wait()
            time.sleep(0.01)
            return 1.0

    assert calibrate(Meeting(), [row("", True)] * 6, num_threads=3).num_scored == 6


assert Abstain and Score  # what the scripted texts call
