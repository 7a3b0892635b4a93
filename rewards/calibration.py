"""How far a judge can be trusted: its scores against labels that people gave.

Accuracy says how often it is right at one threshold, AUC how well it orders answers whatever the threshold (two judges of equal
accuracy can differ here, and as rewards they do), and the calibration error whether a score of 0.8 means right 8 times in 10.
What a judge abstained from or failed on is counted apart: a judge is not right or wrong where it said nothing.

Left out on purpose: reading labelled data, printing, and any choice of a threshold by the data that it is then reported on.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import UserError
from posttrain.rewards.base import Abstain, Reward, Score
from posttrain.types import Episode, Prompt

Row = tuple[Prompt, Episode, bool]
"""An answer and whether it is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `calibrate` found: num_rows = num_scored + num_abstained + num_failed, and the rest is over the scored rows.

    num_positive: scored rows labelled right. accuracy and expected_calibration_error are None when nothing was scored, auc when
    the scored rows do not have both labels. abstention, failure: the last one's text, "" when there was none.
    """

    num_rows: int
    num_scored: int
    num_positive: int
    num_abstained: int
    num_failed: int
    accuracy: float | None
    auc: float | None
    expected_calibration_error: float | None
    abstention: str
    failure: str


def accuracy(labels: Sequence[bool], scores: Sequence[float], threshold: float = 0.5) -> float:
    """The share of rows where (score >= threshold) is the label, 0 to 1.

    Raises ValueError: no rows, labels other than 0 and 1, scores that are not finite, or not as many of the one as of the other.
    """
    label, score = _checked(labels, scores)
    return float(np.mean((score >= threshold) == label))


def auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """The chance that a positive row scores above a negative one, a tie counting half; 0.5 for scores that are all equal.

    By ranks (Mann-Whitney): AUC = (sum of the positives' ranks - P (P + 1) / 2) / (P N), P positives, N negatives, equal scores
    sharing the mean of their ranks. Only the order of the scores matters. Raises ValueError: one label is missing, or as above.
    """
    label, score = _checked(labels, scores)
    num_positive = int(label.sum())
    num_negative = len(label) - num_positive
    if not num_positive or not num_negative:
        raise ValueError(f"{num_positive} rows are positive and {num_negative} negative, expected some of both")
    _, places, counts = np.unique(score, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2  # the ranks of n equal scores end at their cumulated count
    rank_sum = float(mean_ranks[places][label].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def expected_calibration_error(labels: Sequence[bool], scores: Sequence[float], num_bins: int = 10) -> float:
    """How far the scores are from the share of positives among rows with such scores, 0 (calibrated) to 1.

    ECE = sum over bins of n_b / n * |mean score_b - share of positives_b|, in bins of equal width over 0..1 (Guo et al., arXiv
    1706.04599, section 2): bin k is k / num_bins <= score < (k + 1) / num_bins, and 1.0 is in the last. Empty bins count nothing.
    Raises ValueError: a score outside 0..1, or as above.
    """
    label, score = _checked(labels, scores)
    if score.min() < 0 or score.max() > 1:
        raise ValueError(f"scores go from {score.min():g} to {score.max():g}, expected 0 to 1")
    bins = np.searchsorted(np.arange(1, num_bins) / num_bins, score, side="right")
    gaps = np.bincount(bins, weights=score - label, minlength=num_bins)  # a bin's n_b times its difference
    return float(np.abs(gaps).sum() / len(score))


def calibrate(reward: Reward, rows: Iterable[Row], threshold: float = 0.5, num_threads: int = 1) -> Calibration:
    """Scores every row and compares. Abstentions and failures, a score outside 0..1 among them, are counted apart.

    num_threads: rows under way at once; more than 1 only for rewards that several threads may use, as those with judges.
    Raises UserError, from the reward: what only the user can mend is not a property of the judge. ValueError: no rows.
    """
    cases = [*rows]
    if not cases:
        raise ValueError("there are no rows to calibrate on")
    with ThreadPoolExecutor(num_threads) as pool:
        judgements = [*pool.map(lambda row: _judgement(reward, row[0], row[1]), cases)]
    scored = [(row[2], judgement) for row, judgement in zip(cases, judgements, strict=True) if isinstance(judgement, float)]
    abstentions = [judgement.reason for judgement in judgements if isinstance(judgement, Abstain)]
    failures = [judgement for judgement in judgements if isinstance(judgement, Exception)]
    labels, scores = [label for label, _ in scored], [score for _, score in scored]
    return Calibration(
        num_rows=len(cases),
        num_scored=len(scored),
        num_positive=sum(map(bool, labels)),
        num_abstained=len(abstentions),
        num_failed=len(failures),
        accuracy=accuracy(labels, scores, threshold) if scored else None,
        auc=auc(labels, scores) if any(labels) and not all(labels) else None,
        expected_calibration_error=expected_calibration_error(labels, scores) if scored else None,
        abstention=abstentions[-1] if abstentions else "",
        failure=f"{type(failures[-1]).__name__}: {' '.join(str(failures[-1]).split())}" if failures else "",
    )


def _judgement(reward: Reward, prompt: Prompt, episode: Episode) -> float | Abstain | Exception:
    try:
        judgement = reward.score(prompt, episode)
        if isinstance(judgement, Abstain):
            return judgement
        value = float(judgement.value if isinstance(judgement, Score) else judgement)
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"the score is {value:g}, expected 0 to 1")
        return value
    except UserError:
        raise
    except Exception as error:  # a row that cannot be judged is one of the counts that this is about
        return error


def _checked(labels: Sequence[bool], scores: Sequence[float]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    label, score = np.asarray(labels), np.asarray(scores, np.float64)
    if not len(score) or label.shape != score.shape or score.ndim != 1:
        raise ValueError(f"{label.shape} labels and {score.shape} scores, expected as many of the one as of the other, and some")
    if not np.isin(label, (0, 1)).all() or not np.isfinite(score).all():
        raise ValueError("labels have to be 0 or 1 and scores finite")
    return label.astype(np.bool_), score
