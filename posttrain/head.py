"""The head of a language model over the trained positions: log-probabilities and entropies without logits of shape (N, V).

Two sizes of pieces: a chunk of positions meets the vocabulary in one matrix product, and rows of it that fit a processor's
cache go through softmax together, in float32. Backward computes the logits of a chunk again. Memory is that of a chunk.

Shape suffixes: `_N` trained positions, `_C` those of a chunk, `_H` hidden size, `_V` vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

CACHED_ELEMENTS = 1 << 21
"""Float32 numbers that go through softmax together: 8 MB."""


class Head(nn.Module):
    """Shares the parameters of a model's output layer."""

    def __init__(self, layer: nn.Linear, chunk_mb: float) -> None:
        """chunk_mb: megabytes of logits that exist at a time; at least one position is scored."""
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.chunk_tokens = max(1, int(chunk_mb * 1e6 / (layer.out_features * layer.weight.element_size())))

    def forward(self, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Float32 log-probabilities of the targets (N,), with gradient, and entropies in nats (N,), without."""
        scored: tuple[Tensor, Tensor] = _Logprobs.apply(  # type: ignore[no-untyped-call]
            hidden_NH, self.weight, self.bias, targets_N, temperature, self.chunk_tokens
        )
        return scored


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, temperature: float, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        logprobs_N, log_sums_N, entropies_N = (hidden_NH.new_empty(len(hidden_NH), dtype=dtype) for _ in range(3))
        for chunk in _pieces(len(hidden_NH), chunk_tokens):
            logits_CV = nn.functional.linear(hidden_NH[chunk], weight_VH, bias_V)
            for rows, scaled in _rows(logits_CV, chunk.start, temperature):
                # One pass of exp serves both: entropy = log sum - (mean logit under the softmax).
                largest = scaled.amax(-1, keepdim=True)
                exponentials = (scaled - largest).exp_()
                sums = exponentials.sum(-1)
                log_sums_N[rows] = largest[:, 0] + sums.log()
                logprobs_N[rows] = scaled.gather(1, targets_N[rows, None])[:, 0] - log_sums_N[rows]
                entropies_N[rows] = log_sums_N[rows] - torch.linalg.vecdot(exponentials, scaled) / sums
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N, log_sums_N)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        ctx.mark_non_differentiable(entropies_N)
        return logprobs_N, entropies_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None, None]:
        """d logprob / d logit = (1 where it is the target's, else 0) - probability, over the temperature."""
        hidden_NH, weight_VH, bias_V, targets_N, log_sums_N = ctx.saved_tensors
        gradient_N = gradients[0] / ctx.temperature
        d_hidden_NH, d_weight, d_bias = torch.empty_like(hidden_NH), _Sum(), _Sum()
        for chunk in _pieces(len(hidden_NH), ctx.chunk_tokens):
            logits_CV = nn.functional.linear(hidden_NH[chunk], weight_VH, bias_V)
            for rows, scaled in _rows(logits_CV, chunk.start, ctx.temperature):
                d_logits = scaled.sub_(log_sums_N[rows, None]).exp_().mul_(-gradient_N[rows, None])
                d_logits.scatter_add_(1, targets_N[rows, None], gradient_N[rows, None])
                logits_CV[rows.start - chunk.start : rows.stop - chunk.start] = d_logits
            d_hidden_NH[chunk] = logits_CV @ weight_VH
            d_weight.add(logits_CV.T @ hidden_NH[chunk])
            if bias_V is not None:
                d_bias.add(logits_CV.sum(0))
        return d_hidden_NH, d_weight.like(weight_VH), None if bias_V is None else d_bias.like(bias_V), None, None, None


class _Sum:
    """A sum of gradients, in float32 as soon as there are two."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, value: Tensor) -> None:
        if self.total is None:
            self.total = value
        else:
            self.total = self.total.to(torch.promote_types(value.dtype, torch.float32)).add_(value)

    def like(self, parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter) if self.total is None else self.total.to(parameter.dtype)


def _pieces(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _rows(logits_CV: Tensor, offset: int, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a chunk, by their place among all positions, with their logits over the temperature in float32 (a copy)."""
    size = max(1, CACHED_ELEMENTS // logits_CV.shape[1])
    for rows in _pieces(len(logits_CV), size):
        scaled = logits_CV[rows].to(torch.promote_types(logits_CV.dtype, torch.float32), copy=True)
        yield slice(offset + rows.start, offset + rows.stop), scaled if temperature == 1 else scaled.div_(temperature)
