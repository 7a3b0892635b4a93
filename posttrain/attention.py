"""Attention over a packed stream, as an attention implementation that transformers' models take.

A stream is a tree of prompts and the completions that branch from them (`posttrain.prefix_tree`). `layout_of` works out who sees whom,
once a micro-batch; the layout travels to every layer as the keyword argument `layout` of the model's forward pass. Two backends
give the same numbers:

- blocks (CPU): a few rows at a time, each against the keys that it can see and hardly any others (`posttrain.attention_blocks`).
  Scores are float32 and exist a block at a time; in backward those of long segments are computed again, so memory does not grow
  with the square of length.
- flex (CUDA): torch's FlexAttention with the same rule as a block mask, which skips what nobody sees.

Shape suffixes: `_T` tokens of the stream, `_W` all heads of a token side by side; B = 1, A heads, K key-value heads,
R = A / K heads that share one, D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface

from posttrain.attention_blocks import Block, blocks_of

NAME = "packed_trees"


@dataclass(frozen=True, slots=True)
class Layout:
    """Who sees whom in a stream, as one of the two backends wants it. part: the rows that this process has of it."""

    blocks: list[Block]
    mask: BlockMask | None = None
    part: slice = field(default_factory=lambda: slice(None))


def layout_of(stops_T: Tensor, backend: str) -> Layout:
    """The layout of a tree in depth-first order: token k is seen by itself and by those after it, up to stops_T[k], exclusive.

    backend: "blocks" or "flex".
    """
    if backend == "blocks":
        return Layout(blocks_of(stops_T))

    def sees(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (key <= row) & (row < stops_T[key])

    length = len(stops_T)
    return Layout([], create_block_mask(sees, None, None, length, length, device=stops_T.device))


class _BlockAttention(torch.autograd.Function):
    """softmax(scale * q k + bias) v, block by block; queries (T, K * R * D), keys and values (T, K * D); heads: (K, R)."""

    @staticmethod
    def forward(
        ctx: Any, query_TW: Tensor, key_TW: Tensor, value_TW: Tensor, blocks: list[Block], heads: tuple[int, int], scale: float
    ) -> Tensor:
        output_TW, kept = torch.empty_like(query_TW), []
        for block in blocks:
            probabilities = _softmax(query_TW, key_TW, block, heads, scale).to(value_TW.dtype)
            block.put_rows(output_TW, probabilities @ block.take_keys(value_TW, heads[0], value_TW.dtype), heads)
            kept.append(None if block.is_long else probabilities)
        ctx.save_for_backward(query_TW, key_TW, value_TW)
        ctx.blocks, ctx.heads, ctx.scale, ctx.kept = blocks, heads, scale, kept
        return output_TW

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_TW, key_TW, value_TW = ctx.saved_tensors
        heads, dtype = ctx.heads, value_TW.dtype
        gradient_TW = gradients[0].contiguous()
        d_query = torch.empty_like(query_TW)
        d_key, d_value = (torch.zeros_like(values, dtype=_precise(values)) for values in (key_TW, value_TW))
        for block, kept in zip(ctx.blocks, ctx.kept, strict=True):
            probabilities = _softmax(query_TW, key_TW, block, heads, ctx.scale).to(dtype) if kept is None else kept
            gradient = block.take_gradient(gradient_TW, heads, dtype)
            block.add_keys(d_value, probabilities.transpose(1, 2) @ gradient, heads[0])
            d_probabilities = gradient @ block.take_keys(value_TW, heads[0], dtype).transpose(1, 2)
            d_scores = torch._softmax_backward_data(d_probabilities, probabilities, -1, dtype).mul_(ctx.scale)
            block.put_rows(d_query, d_scores @ block.take_keys(key_TW, heads[0], dtype), heads)
            block.add_keys(d_key, d_scores.transpose(1, 2) @ block.take_rows(query_TW, heads, dtype), heads[0])
        return d_query, d_key.to(key_TW.dtype), d_value.to(dtype), None, None, None


def _softmax(query_TW: Tensor, key_TW: Tensor, block: Block, heads: tuple[int, int], scale: float) -> Tensor:
    """(n * K, R * L, S) for a block of n units, float32, or float64 where the queries are that."""
    dtype = _precise(query_TW)
    query, key = block.take_rows(query_TW, heads, dtype), block.take_keys(key_TW, heads[0], dtype)
    scores = torch.baddbmm(query.new_zeros(()), query, key.transpose(1, 2), beta=0, alpha=scale)
    scores.unflatten(0, (-1, heads[0])).add_(block.bias_for(heads[1], dtype))
    return torch.softmax(scores, dim=-1)


def _precise(values: Tensor) -> torch.dtype:
    """float32, or float64 where the values are that: what scores and sums of gradients are computed in."""
    return torch.promote_types(values.dtype, torch.float32)


def attend(
    module: nn.Module, query_BATD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: returns (B, T, A, D) and no attention weights. `attention_mask` is not used.

    Raises ValueError: the model wants dropout in attention.
    """
    if module.training and options["dropout"]:
        raise ValueError(f"attention dropout {options['dropout']} is not supported; set attention_dropout=0 in the model's config.json")
    layout: Layout = options["layout"]
    if layout.mask is not None:
        output = _flex(query_BATD)(query_BATD, key_BKTD, value_BKTD, block_mask=layout.mask, scale=options["scaling"], enable_gqa=True)
        return output.transpose(1, 2).contiguous(), None
    return _attend_by_blocks(query_BATD, key_BKTD, value_BKTD, layout, options["scaling"]), None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_by_blocks(query_BATD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, scale: float) -> Tensor:
    """(B, T, A, D). Not compiled: each stream has other blocks."""
    heads = key_BKTD.shape[1], query_BATD.shape[1] // key_BKTD.shape[1]
    tables = [values[0].transpose(0, 1).flatten(1) for values in (query_BATD, key_BKTD, value_BKTD)]
    output_TW: Tensor = _BlockAttention.apply(*tables, layout.blocks, heads, scale)  # type: ignore[no-untyped-call]
    return output_TW.view(1, -1, query_BATD.shape[1], query_BATD.shape[3])


_compiled: list[Callable[..., Any]] = []


def _flex(query: Tensor) -> Callable[..., Any]:
    """Compiled on CUDA; as it is elsewhere, where it can only run forward."""
    if not query.is_cuda:
        return flex_attention
    if not _compiled:
        _compiled.append(torch.compile(flex_attention, dynamic=True))
    return _compiled[0]


def register(implementation: Callable[..., Any] = attend) -> str:
    """Makes the implementation known to transformers, for all models of the process; returns the name to load a model with."""
    AttentionInterface.register(NAME, implementation)
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout carries its own masks."""
