"""Statistics of one optimizer step, summed so that micro-batches and ranks can be put together in any order.

Metric names are those of DESIGN.md 8. Nothing here computes a loss.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from posttrain.types import FloatArray, IntArray

Row = dict[str, float | int]
"""One line of metrics."""

LOG_RATIO_EDGES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, np.inf)
"""|log r| of the trained tokens is counted between these edges."""
MAX_LOG_RATIO = 20.0


@dataclass(slots=True)
class Timer:
    """Seconds a phase, added up until they are taken."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Counts the block's time as `phase`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] += time.monotonic() - started

    def take(self) -> dict[str, float]:
        """What was counted since the last time."""
        taken, self.seconds = self.seconds, defaultdict(float)
        return taken


@dataclass(slots=True, kw_only=True)
class ScoredTokens:
    """The trained tokens of one micro-batch after its forward pass: arrays of shape (N,), N may be 0.

    gradient: size of the loss's gradient with respect to what the model says of a token. reference: None where there is no
    reference; teacher (its log-probabilities) and divergences (from it): None where there is no teacher.
    """

    policy: FloatArray
    old: FloatArray
    behavior: FloatArray
    reference: FloatArray | None
    advantages: FloatArray
    segments: IntArray
    entropies: FloatArray
    gradient: FloatArray
    teacher: FloatArray | None = None
    divergences: FloatArray | None = None


@dataclass(slots=True)
class LearnerStats:
    """Sums and maxima over the trained tokens of one optimizer step; those of several ranks are put together by `merge`.

    The mismatch compares the learner before the step (old) with the engine that sampled (behavior):
    k3 = exp(d) - 1 - d with d = old - behavior, an estimate of KL(behavior || old). is_off_policy: old log-probabilities were
    scored before the step, so the ratio is not 1 by construction and its histogram is worth a look.
    """

    is_off_policy: bool = False
    grad_norm: float = 0.0
    lr: float = 0.0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    maxima: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, loss: float, tokens: ScoredTokens) -> None:
        """Takes in one micro-batch."""
        self.sums["loss"] += loss
        if not len(tokens.policy):
            return
        log_ratio = tokens.policy.astype(np.float64) - tokens.old
        gap = tokens.old.astype(np.float64) - tokens.behavior
        importance = np.exp(np.clip(gap, -MAX_LOG_RATIO, MAX_LOG_RATIO))
        num_episodes, episode_entropy = _over_episodes(tokens.entropies.astype(np.float64), tokens.segments)
        sums = {
            "tokens": len(gap),
            "episodes": num_episodes,
            "without_gradient": np.sum((tokens.gradient == 0) & (tokens.advantages != 0)),
            "entropy": tokens.entropies.sum(dtype=np.float64),
            "episode_entropy": episode_entropy,
            "mismatch_abs": np.abs(gap).sum(),
            "mismatch_k3": (importance - 1 - gap).sum(),
            "importance": importance.sum(),
            "importance_square": (importance**2).sum(),
        }
        if tokens.reference is not None:
            sums["ref_k3"] = _k3(tokens.reference.astype(np.float64) - tokens.policy)
        if tokens.teacher is not None and tokens.divergences is not None:
            sums["divergence"] = tokens.divergences.sum(dtype=np.float64)
            sums["teacher_gap"] = (tokens.policy.astype(np.float64) - tokens.teacher).sum()
        counts, _ = np.histogram(np.abs(log_ratio), bins=LOG_RATIO_EDGES)
        sums |= {f"log_ratio_{index}": count for index, count in enumerate(counts)}
        ratio_max = np.exp(np.clip(log_ratio.max(), -MAX_LOG_RATIO, MAX_LOG_RATIO))
        self._take_in(sums, {"ratio": ratio_max, "mismatch_abs": np.abs(gap).max()})

    def _take_in(self, sums: Mapping[str, float], maxima: Mapping[str, float]) -> None:
        for name, value in sums.items():
            self.sums[name] += float(value)
        for name, value in maxima.items():
            self.maxima[name] = max(self.maxima[name], float(value))

    @classmethod
    def merge(cls, parts: Iterable[Self]) -> "LearnerStats":
        """The statistics of all ranks together; gradient norm and learning rate are global already."""
        merged = LearnerStats()
        for part in parts:
            merged._take_in(part.sums, part.maxima)
            merged.is_off_policy |= part.is_off_policy
            merged.grad_norm, merged.lr = part.grad_norm, part.lr
        return merged

    @property
    def episode_entropy(self) -> float:
        """Mean over the trained episodes of the mean over their tokens, in nats."""
        return self.sums["episode_entropy"] / max(1, self.sums["episodes"])

    def step_row(self) -> Row:
        """What every objective has, as metrics, and what a teacher adds where there is one."""
        row: Row = {
            "loss/total": self.sums["loss"],
            "loss/grad_norm": self.grad_norm,
            "loss/lr": self.lr,
            "loss/trained_tokens": int(self.sums["tokens"]),
        }
        if "divergence" in self.sums:
            n = self.sums["tokens"]
            row |= {"distill/kl_mean": self.sums["divergence"] / n, "distill/logprob_gap_mean": self.sums["teacher_gap"] / n}
        return row

    def row(self) -> Row:
        """As metrics of a policy that sampled what it learns from."""
        sums, n = self.sums, max(1, self.sums["tokens"])
        row: Row = {
            **self.step_row(),
            "loss/ratio_max": self.maxima["ratio"],
            "loss/without_gradient_fraction": sums["without_gradient"] / n,
            "rollout/entropy": sums["entropy"] / n,
            "rollout/episode_entropy": self.episode_entropy,
            "mismatch/logprob_abs_mean": sums["mismatch_abs"] / n,
            "mismatch/logprob_abs_max": self.maxima["mismatch_abs"],
            "mismatch/k3": sums["mismatch_k3"] / n,
            "mismatch/effective_sample_fraction": sums["importance"] ** 2 / (n * sums["importance_square"]) if sums["tokens"] else 1.0,
        }
        if "ref_k3" in sums:
            row["loss/ref_k3"] = sums["ref_k3"] / n
        if self.is_off_policy:
            pairs = enumerate(pairwise(LOG_RATIO_EDGES))
            row |= {f"loss/log_ratio_{low:g}_{high:g}": sums[f"log_ratio_{index}"] / n for index, (low, high) in pairs}
        return row


def with_evaluation(row: Row, values: Row) -> Row:
    """The row of a step and the evaluation after it; one before training that stands in the same row is renamed."""
    kept = {f"{name}_before" if name in values and name.startswith("eval/") else name: value for name, value in row.items()}
    return {**kept, **values}


def with_interval(row: Mapping[str, float | int], name: str) -> str:
    """A metric as text, with half the width of its 95 % interval where the row has one."""
    interval = row.get(f"{name.removesuffix('_mean')}_ci95")
    return f"{row[name]:.3f}" + ("" if interval is None else f" ± {interval:.3f}")


def _over_episodes(values: NDArray[np.float64], segments: IntArray) -> tuple[int, float]:
    """The number of episodes, and the sum over them of the mean of their tokens' values."""
    _, episodes, lengths = np.unique(segments, return_inverse=True, return_counts=True)
    return len(lengths), float((np.bincount(episodes, weights=values) / lengths).sum())


def _k3(gap: NDArray[np.float64]) -> float:
    bounded = np.clip(gap, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return float((np.exp(bounded) - 1 - bounded).sum())
