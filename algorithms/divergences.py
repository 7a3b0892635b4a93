"""Divergences of a student Q from a teacher P, and the objective that minimises one: pure functions.

    forward   KL(P || Q) = sum p (log p - log q)
    reverse   KL(Q || P) = sum q (log q - log p)
    jsd       beta KL(P || M) + (1 - beta) KL(Q || M),   M = beta P + (1 - beta) Q

Source: GKD (arXiv 2306.13649, section 2). jsd over beta tends to forward as beta goes to 0, and to 0 itself: forward and
reverse are kinds of their own, not jsd's ends. What lives here works on log-probabilities that exist; the whole vocabulary,
in chunks, is in `posttrain.teacher_head`.

Shape suffixes: `_N` trained tokens of a micro-batch, `_K` outcomes; the outcomes are the last axis everywhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.algorithms.losses import MAX_LOG_RATIO, LossTokens, Objective, exp_clamped

MAX_LOG_OF_NAMED = -1e-7
"""Named outcomes never hold all probability: the log of their sum is clamped to this, so the tail's stays finite."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """One of the three kinds. beta: the teacher's share of the mixture M; of no meaning to forward and reverse."""

    kind: str = "reverse"
    beta: float = 0.5

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence, the last axis summed; exactly 0 where the two are equal."""
        if self.kind == "forward":
            return _dot(log_p.exp(), log_p - log_q)
        if self.kind == "reverse":
            return _dot(log_q.exp(), log_q - log_p)
        m_over_p, m_over_q = self._log_mixture_over(log_p - log_q)
        return -(self.beta * _dot(log_p.exp(), m_over_p) + (1 - self.beta) * _dot(log_q.exp(), m_over_q))

    def slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """d value / d log q of each outcome, up to a multiple of q, which no normalised q can feel."""
        if self.kind == "forward":
            return -log_p.exp()
        if self.kind == "reverse":
            return log_q.exp().mul_(log_q - log_p)
        return log_q.exp().mul_(self._log_mixture_over(log_p - log_q)[1]).mul_(self.beta - 1)

    def differentiable(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """`value` with the gradient of `slope` with respect to log q; log_q must be normalised over the last axis."""
        with torch.no_grad():
            value, slope = self.value(log_p, log_q), self.slope(log_p, log_q)
        return value + _dot(slope, log_q - log_q.detach())

    def sampled(self, log_p_N: Tensor, log_q_N: Tensor) -> Tensor:
        """An estimate from one outcome that the student sampled, shape (N,).

        With u = p / q: u log u (forward), -log u (reverse), beta u log(p/m) + (1 - beta) log(q/m) (jsd). Its gradient is that
        of log q times d value / d q less its value at u = 1, a baseline: for reverse, log(p/q) is the token's advantage. The
        property that its test pins: the mean over the student's whole distribution is the divergence, value and gradient.
        """
        ratio_N1 = (log_p_N - log_q_N).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)[:, None]
        certain_N1 = torch.zeros_like(ratio_N1)
        slope_N1 = self.slope(ratio_N1, certain_N1) - self.slope(certain_N1, certain_N1)
        return self.value(ratio_N1, certain_N1) + slope_N1[:, 0] * (log_q_N - log_q_N.detach())

    def _log_mixture_over(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """log(m / p) and log(m / q) from log(p / q): without cancellation near 0, without overflow far from it."""
        share = torch.where(ratio > 0, ratio.new_tensor(1 - self.beta), ratio.new_tensor(self.beta))
        common = torch.log1p(share * torch.expm1(-ratio.abs()))
        return common - ratio.clamp(max=0), common + ratio.clamp(min=0)


def with_tail(logprobs_NK: Tensor) -> Tensor:
    """K named outcomes and one that holds the rest, log(1 - sum exp), shape (N, K + 1).

    The divergence of two such distributions is a lower bound of the whole one's and 0 only where they agree. The log of the
    named sum is clamped to <= -1e-7, so a tail is never below 1e-7 and has no gradient there.
    """
    named_N1 = logprobs_NK.logsumexp(-1, keepdim=True).clamp(max=MAX_LOG_OF_NAMED)
    return torch.cat([logprobs_NK, torch.log(-torch.expm1(named_N1))], dim=-1)


@dataclass(frozen=True, slots=True)
class DistillationLoss:
    """loss = weight * divergence from the teacher + task_weight * task; itself an objective.

    importance: a factor without gradient for the divergence of tokens that were sampled by somebody else; only an estimate
    from sampled tokens needs one. Normaliser: token_mean, the mean over the student's tokens.
    """

    task: Objective | None = None
    task_weight: float = 0.0
    importance: Objective | None = None
    weight: float = 1.0

    def __call__(self, tokens: LossTokens) -> Tensor:
        """The whole loss of each token, shape (N,)."""
        if tokens.divergences_N is None:
            raise ValueError("distillation needs a teacher's scores, and the batch has none")
        loss_N = self.weight * tokens.divergences_N
        if self.importance is not None:
            loss_N = loss_N * self.importance(tokens)
        return loss_N if self.task is None else loss_N + self.task_weight * self.task(tokens)


def importance(tokens: LossTokens, *, cap: float) -> Tensor:
    """min(exp(policy - behavior), cap), shape (N,): the policy being trained against the engine that sampled."""
    return exp_clamped((tokens.policy_logprobs_N - tokens.behavior_logprobs_N).detach()).clamp(max=cap)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum of products over the last axis."""
    total: Tensor = torch.linalg.vecdot(a, b)
    return total
