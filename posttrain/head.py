"""The head of a language model over the trained positions: log-probabilities and entropies without logits of shape (N, V).

Two sizes of pieces: a chunk of positions meets the vocabulary in one matrix product, and rows of it that fit a processor's
cache go through softmax together, in float32. Backward takes the chunks from the last to the first: the logits of the last are
still there, those of the others are computed again. Memory is that of a chunk.

Shape suffixes: `_N` trained positions, `_C` those of a chunk, `_K` tokens looked at in each, `_H` hidden size, `_V` vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

CACHED_ELEMENTS = 1 << 21
"""Float32 numbers that go through softmax together: 8 MB."""

NEVER = -1e30
"""The logit of a token that cannot be chosen."""


class Teaching(Protocol):
    """What a teacher says about trained positions; `posttrain.teacher_head` has the kinds of it."""

    def score(self, head: "Head", hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, ...]:
        """What `Head.forward` returns with a teacher."""

    def at(self, places: Tensor) -> "Teaching":
        """The same about some of the positions."""


class Head(nn.Module):
    """Shares the parameters of a model's output layer."""

    def __init__(self, layer: nn.Linear, chunk_mb: float) -> None:
        """chunk_mb: megabytes of logits that exist at a time; at least one position is scored."""
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.chunk_tokens = max(1, int(chunk_mb * 1e6 / (layer.out_features * layer.weight.element_size())))

    def forward(
        self, hidden_NH: Tensor, targets_N: Tensor, temperature: float, teaching: Teaching | None = None, banned_V: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Float32 log-probabilities of the targets (N,), with gradient, and entropies in nats (N,), without.

        banned_V: int64, tokens that have no probability. With a teacher, whose distribution knows of no ban, they have theirs, and
        there are two results more, (N,): the divergence from it, with gradient, and its log-probabilities of the targets.
        """
        if teaching is not None:
            return teaching.score(self, hidden_NH, targets_N, temperature)
        logprobs_NK, entropies_N = self.select(hidden_NH, targets_N[:, None], temperature, banned_V)
        return logprobs_NK[:, 0], entropies_N

    def select(self, hidden_NH: Tensor, targets_NK: Tensor, temperature: float, banned_V: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities of several tokens a position (N, K), with gradient, and entropies (N,), without."""
        bias_V: Tensor | None = self.bias
        if banned_V is not None:
            # A bias of -1e30 and not of -inf: a probability of 0 times it is 0 in the entropy, and not NaN.
            bias_V = (self.weight.new_zeros(len(self.weight)) if bias_V is None else bias_V).index_fill(0, banned_V, NEVER)
        scored: tuple[Tensor, Tensor] = _Logprobs.apply(  # type: ignore[no-untyped-call]
            hidden_NH, self.weight, bias_V, targets_NK, temperature, self.chunk_tokens
        )
        return scored


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_NK: Tensor, temperature: float, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        logprobs_NK = hidden_NH.new_empty(targets_NK.shape, dtype=dtype)
        log_sums_N, entropies_N = (hidden_NH.new_empty(len(hidden_NH), dtype=dtype) for _ in range(2))
        ctx.last_logits = []
        for chunk in pieces(len(hidden_NH), chunk_tokens):
            logits_CV = nn.functional.linear(hidden_NH[chunk], weight_VH, bias_V)
            for rows, scaled in cached_rows(logits_CV, chunk.start, temperature):
                # One pass of exp serves both: entropy = log sum - (mean logit under the softmax).
                largest = scaled.amax(-1, keepdim=True)
                exponentials = (scaled - largest).exp_()
                sums = exponentials.sum(-1)
                log_sums_N[rows] = largest[:, 0] + sums.log()
                logprobs_NK[rows] = scaled.gather(1, targets_NK[rows]) - log_sums_N[rows, None]
                entropies_N[rows] = log_sums_N[rows] - torch.linalg.vecdot(exponentials, scaled) / sums
            ctx.last_logits = [logits_CV]
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_NK, log_sums_N)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        ctx.mark_non_differentiable(entropies_N)
        return logprobs_NK, entropies_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """d logprob / d logit = (1 where it is the target's, else 0) - probability, over the temperature."""
        hidden_NH, weight_VH, bias_V, targets_NK, log_sums_N = ctx.saved_tensors
        gradient_NK = gradients[0] / ctx.temperature
        total_N = gradient_NK.sum(-1)

        def to_gradient(chunk: slice, logits_CV: Tensor) -> None:
            for rows, scaled in cached_rows(logits_CV, chunk.start, ctx.temperature):
                d_logits = scaled.sub_(log_sums_N[rows, None]).exp_().mul_(-total_N[rows, None])
                d_logits.scatter_add_(1, targets_NK[rows], gradient_NK[rows])
                logits_CV[rows.start - chunk.start : rows.stop - chunk.start] = d_logits

        chunks = ctx.chunk_tokens, ctx.last_logits
        return *gradients_of(hidden_NH, weight_VH, bias_V, chunks, to_gradient), None, None, None


def gradients_of(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    chunks: tuple[int, list[Tensor]],
    to_gradient: Callable[[slice, Tensor], None],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of hidden states, weight and bias, a chunk at a time; None for a weight or bias that is not trained.

    chunks: positions in one, and a list of the last one's logits, which is emptied; if it is empty they are computed again.
    to_gradient(chunk, logits_CV): overwrites the logits of these positions with their gradient.
    """
    chunk_tokens, last_logits = chunks
    d_hidden_NH, d_weight, d_bias = torch.empty_like(hidden_NH), _Sum(), _Sum()
    for chunk in reversed(list(pieces(len(hidden_NH), chunk_tokens))):
        logits_CV = last_logits.pop() if last_logits else nn.functional.linear(hidden_NH[chunk], weight_VH, bias_V)
        to_gradient(chunk, logits_CV)
        d_hidden_NH[chunk] = logits_CV @ weight_VH
        if weight_VH.requires_grad:
            d_weight.add(logits_CV.T @ hidden_NH[chunk])
        if bias_V is not None and bias_V.requires_grad:
            d_bias.add(logits_CV.sum(0))
    return d_hidden_NH, d_weight.like(weight_VH), None if bias_V is None else d_bias.like(bias_V)


class _Sum:
    """A sum of gradients, in float32 as soon as there are two."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, value: Tensor) -> None:
        if self.total is None:
            self.total = value
        else:
            self.total = self.total.to(torch.promote_types(value.dtype, torch.float32)).add_(value)

    def like(self, parameter: Tensor) -> Tensor | None:
        if not parameter.requires_grad:
            return None
        return torch.zeros_like(parameter) if self.total is None else self.total.to(parameter.dtype)


def pieces(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `length`."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def cached_rows(logits_CV: Tensor, offset: int, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a chunk, by their place among all positions, with their logits over the temperature in float32 (a copy)."""
    size = max(1, CACHED_ELEMENTS // logits_CV.shape[1])
    for rows in pieces(len(logits_CV), size):
        scaled = logits_CV[rows].to(torch.promote_types(logits_CV.dtype, torch.float32), copy=True)
        yield slice(offset + rows.start, offset + rows.stop), scaled if temperature == 1 else scaled.div_(temperature)
