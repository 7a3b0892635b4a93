"""How far a student is from a teacher at the trained positions, without logits of shape (N, V).

Three supports, each the argument `teaching` of `posttrain.head.Head`:

- `FullTeaching`: the whole vocabulary, exactly. The teacher's last hidden states and its head matrix are here; both heads run
  over a chunk of positions at a time, softmax over rows in float32, and backward computes them again. Memory is that of a chunk.
- `TopTeaching`: the teacher's most likely tokens, and one outcome for the rest.
- `SampledTeaching`: the sampled tokens alone.

The formulas are in `posttrain.algorithms.divergences`. Shape suffixes: `_N` trained positions, `_C` those of a chunk, `_K` tokens
that the teacher names, `_H` hidden size of the model in question, `_V` vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.algorithms.divergences import Divergence, with_tail
from posttrain.head import Head, cached_rows, gradients_of, pieces


@dataclass(frozen=True, slots=True)
class TeacherHead:
    """A frozen output layer with as many rows as the student's."""

    weight_VH: Tensor
    bias_V: Tensor | None = None


@dataclass(frozen=True, slots=True)
class FullTeaching:
    """hidden_NH: the teacher's last hidden states where the trained tokens are predicted."""

    divergence: Divergence
    hidden_NH: Tensor
    head: TeacherHead

    def score(self, head: Head, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, ...]:
        """As `Head.forward`; two chunks of logits exist at a time, so each holds half as many positions."""
        pairs = _Pairs(self, temperature, max(1, head.chunk_tokens // 2))
        scored: tuple[Tensor, ...] = _Divergences.apply(hidden_NH, head.weight, head.bias, targets_N, pairs)  # type: ignore[no-untyped-call]
        return scored

    def at(self, places: Tensor) -> "FullTeaching":
        """The same about some of the positions."""
        return replace(self, hidden_NH=self.hidden_NH[places])


@dataclass(frozen=True, slots=True)
class TopTeaching:
    """ids_NK, logprobs_NK: the teacher's K most likely tokens; target_logprobs_N: its log-probabilities of the sampled ones."""

    divergence: Divergence
    ids_NK: Tensor
    logprobs_NK: Tensor
    target_logprobs_N: Tensor

    def score(self, head: Head, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, ...]:
        """As `Head.forward`."""
        logprobs_NK, entropies_N = head.select(hidden_NH, torch.cat([targets_N[:, None], self.ids_NK], dim=1), temperature)
        divergences_N = self.divergence.differentiable(with_tail(self.logprobs_NK), with_tail(logprobs_NK[:, 1:]))
        return logprobs_NK[:, 0], entropies_N, divergences_N, self.target_logprobs_N

    def at(self, places: Tensor) -> "TopTeaching":
        """The same about some of the positions."""
        return TopTeaching(self.divergence, self.ids_NK[places], self.logprobs_NK[places], self.target_logprobs_N[places])


@dataclass(frozen=True, slots=True)
class SampledTeaching:
    """target_logprobs_N: the teacher's log-probabilities of the sampled tokens."""

    divergence: Divergence
    target_logprobs_N: Tensor

    def score(self, head: Head, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, ...]:
        """As `Head.forward`."""
        logprobs_NK, entropies_N = head.select(hidden_NH, targets_N[:, None], temperature)
        logprobs_N = logprobs_NK[:, 0]
        return logprobs_N, entropies_N, self.divergence.sampled(self.target_logprobs_N, logprobs_N), self.target_logprobs_N

    def at(self, places: Tensor) -> "SampledTeaching":
        """The same about some of the positions."""
        return replace(self, target_logprobs_N=self.target_logprobs_N[places])


def top_logprobs(head: Head, hidden_NH: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The k most likely tokens at each position, int64 (N, k), and their float32 log-probabilities."""
    ids_NK = torch.empty(len(hidden_NH), k, dtype=torch.int64, device=hidden_NH.device)
    logprobs_NK = torch.empty(len(hidden_NH), k, device=hidden_NH.device)
    for chunk in pieces(len(hidden_NH), head.chunk_tokens):
        logits_CV = nn.functional.linear(hidden_NH[chunk], head.weight, head.bias)
        for rows, scaled in cached_rows(logits_CV, chunk.start, temperature):
            values, ids_NK[rows] = scaled.topk(k)
            logprobs_NK[rows] = values - scaled.logsumexp(-1, keepdim=True)
    return ids_NK, logprobs_NK


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Walks over both models' log-probabilities together, rows that fit a processor's cache at a time."""

    teaching: FullTeaching
    temperature: float
    chunk_tokens: int

    def rows(self, chunk: slice, logits_CV: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(rows by their place among all positions, teacher's log-probabilities, student's) of a chunk's student logits."""
        teacher = self.teaching.head
        teacher_CV = nn.functional.linear(self.teaching.hidden_NH[chunk], teacher.weight_VH, teacher.bias_V)
        theirs, mine = (cached_rows(logits, chunk.start, self.temperature) for logits in (teacher_CV, logits_CV))
        for (rows, log_p), (_, log_q) in zip(theirs, mine, strict=True):
            yield rows, _normalized(log_p), _normalized(log_q)


class _Divergences(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, pairs: _Pairs
    ) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        logprobs_N, entropies_N, divergences_N, target_logprobs_N = (hidden_NH.new_empty(len(hidden_NH), dtype=dtype) for _ in range(4))
        ctx.last_logits = []
        for chunk in pieces(len(hidden_NH), pairs.chunk_tokens):
            ctx.last_logits = [nn.functional.linear(hidden_NH[chunk], weight_VH, bias_V)]
            for rows, log_p, log_q in pairs.rows(chunk, ctx.last_logits[0]):
                logprobs_N[rows] = log_q.gather(1, targets_N[rows, None])[:, 0]
                target_logprobs_N[rows] = log_p.gather(1, targets_N[rows, None])[:, 0].to(dtype)
                divergences_N[rows] = pairs.teaching.divergence.value(log_p, log_q).to(dtype)
                entropies_N[rows] = -torch.linalg.vecdot(log_q.exp(), log_q)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N)
        ctx.pairs = pairs
        ctx.mark_non_differentiable(entropies_N, target_logprobs_N)
        return logprobs_N, entropies_N, divergences_N, target_logprobs_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """d divergence / d logit = slope - q * (sum of slopes), over the temperature; the log-probability's as in `Head`."""
        hidden_NH, weight_VH, bias_V, targets_N = ctx.saved_tensors
        pairs: _Pairs = ctx.pairs
        d_logprobs_N, d_divergences_N = gradients[0] / pairs.temperature, gradients[2] / pairs.temperature

        def to_gradient(chunk: slice, logits_CV: Tensor) -> None:
            for rows, log_p, log_q in pairs.rows(chunk, logits_CV):
                slope = pairs.teaching.divergence.slope(log_p, log_q).mul_(d_divergences_N[rows, None])
                slope.scatter_add_(1, targets_N[rows, None], d_logprobs_N[rows, None])
                total = slope.sum(-1, keepdim=True)
                logits_CV[rows.start - chunk.start : rows.stop - chunk.start] = slope.sub_(log_q.exp_().mul_(total))

        chunks = pairs.chunk_tokens, ctx.last_logits
        return *gradients_of(hidden_NH, weight_VH, bias_V, chunks, to_gradient), None, None


def _normalized(scaled: Tensor) -> Tensor:
    """Log-softmax in place, over the last axis."""
    return scaled.sub_(scaled.logsumexp(-1, keepdim=True))
