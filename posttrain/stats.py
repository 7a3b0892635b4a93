"""Statistics of one optimizer step, summed so that micro-batches and ranks can be put together in any order.

Metric names are those of DESIGN.md 8. Nothing here computes a loss.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from posttrain.types import FloatArray

Row = dict[str, float | int]
"""One line of metrics."""

LOG_RATIO_EDGES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
"""|log r| of the trained tokens is counted between these edges and above the last."""


@dataclass(slots=True)
class LearnerStats:
    """Sums over the trained tokens of one optimizer step; those of several ranks add up with `merge`.

    The mismatch compares the learner before the step (old) with the engine that sampled (behavior):
    k3 = exp(d) - 1 - d with d = old - behavior, an estimate of KL(behavior || old). is_off_policy: old log-probabilities were
    scored before the step, so the ratio is not 1 by construction and its histogram is worth a look.
    """

    num_tokens: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    lr: float = 0.0
    ratio_max: float = 0.0
    entropy_sum: float = 0.0
    mismatch_abs_sum: float = 0.0
    mismatch_abs_max: float = 0.0
    mismatch_k3_sum: float = 0.0
    importance_sum: float = 0.0
    importance_square_sum: float = 0.0
    is_off_policy: bool = False
    log_ratio_counts: list[int] = field(default_factory=lambda: [0] * len(LOG_RATIO_EDGES))

    def add(self, loss: float, policy: FloatArray, old: FloatArray, behavior: FloatArray, entropies: FloatArray) -> None:
        """Takes in one micro-batch; arrays of shape (N,), N may be 0."""
        self.loss += loss
        if not len(policy):
            return
        log_ratio = np.abs(policy.astype(np.float64) - old)
        gap = old.astype(np.float64) - behavior
        importance = np.exp(np.clip(gap, -20, 20))
        counts, _ = np.histogram(log_ratio, bins=[*LOG_RATIO_EDGES, np.inf])
        self.log_ratio_counts = [int(a + b) for a, b in zip(self.log_ratio_counts, counts, strict=True)]
        self.num_tokens += len(policy)
        self.ratio_max = max(self.ratio_max, float(np.exp(np.clip(policy.astype(np.float64) - old, -20, 20)).max()))
        self.entropy_sum += float(entropies.sum(dtype=np.float64))
        self.mismatch_abs_sum += float(np.abs(gap).sum())
        self.mismatch_abs_max = max(self.mismatch_abs_max, float(np.abs(gap).max()))
        self.mismatch_k3_sum += float((importance - 1 - gap).sum())
        self.importance_sum += float(importance.sum())
        self.importance_square_sum += float((importance**2).sum())

    @classmethod
    def merge(cls, parts: Iterable[Self]) -> "LearnerStats":
        """The statistics of all ranks together; gradient norm and learning rate are global already."""
        merged = LearnerStats()
        for part in parts:
            merged.num_tokens += part.num_tokens
            merged.loss += part.loss
            merged.entropy_sum += part.entropy_sum
            merged.mismatch_abs_sum += part.mismatch_abs_sum
            merged.mismatch_k3_sum += part.mismatch_k3_sum
            merged.importance_sum += part.importance_sum
            merged.importance_square_sum += part.importance_square_sum
            merged.is_off_policy |= part.is_off_policy
            merged.ratio_max = max(merged.ratio_max, part.ratio_max)
            merged.mismatch_abs_max = max(merged.mismatch_abs_max, part.mismatch_abs_max)
            merged.log_ratio_counts = [a + b for a, b in zip(merged.log_ratio_counts, part.log_ratio_counts, strict=True)]
            merged.grad_norm, merged.lr = part.grad_norm, part.lr
        return merged

    def row(self) -> Row:
        """As metrics."""
        n = max(1, self.num_tokens)
        row: Row = {
            "loss/total": self.loss,
            "loss/grad_norm": self.grad_norm,
            "loss/ratio_max": self.ratio_max,
            "loss/lr": self.lr,
            "loss/trained_tokens": self.num_tokens,
            "rollout/entropy": self.entropy_sum / n,
            "mismatch/logprob_abs_mean": self.mismatch_abs_sum / n,
            "mismatch/logprob_abs_max": self.mismatch_abs_max,
            "mismatch/k3": self.mismatch_k3_sum / n,
            "mismatch/effective_sample_fraction": self.importance_sum**2 / (n * self.importance_square_sum) if self.num_tokens else 1.0,
        }
        if self.is_off_policy:
            edges = [f"{edge:g}" for edge in LOG_RATIO_EDGES] + ["inf"]
            row |= {f"loss/log_ratio_{low}_{high}": c / n for low, high, c in zip(edges, edges[1:], self.log_ratio_counts, strict=False)}
        return row
