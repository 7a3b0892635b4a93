"""Attention over a packed stream, as an attention implementation that transformers' models take.

A stream holds trees that do not see each other: a prompt and the completions that branch from it. `layout_of` turns a
micro-batch's segments into who sees whom, once; the layout travels to every layer as the keyword argument `layout` of the
model's forward pass. Two backends give the same numbers:

- blocks (CPU): runs of up to 128 rows, each against the keys that it can see and no others. Scores are float32 and exist a
  block at a time; in backward those of long trees are computed again, so memory does not grow with the square of length.
- flex (CUDA): torch's FlexAttention with the same rule as a block mask, which skips what nobody sees.

Shape suffixes: `_T` tokens of the stream, `_L` rows of a block, `_S` the keys it sees; B = 1, A heads, K key-value heads,
R = A / K heads that share one, D head size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "packed_trees"
BLOCK_ROWS = 128
KEPT_KEYS = 1024
"""What is computed for blocks with at most this many keys is kept, probabilities for backward and biases for the next layer;
above it that costs more memory than time."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of the stream, and the keys they meet: those of `prefix`, then those of `own`; bool (L, S), which of them a row sees."""

    rows: slice
    prefix: slice
    own: slice
    sees_LS: Tensor
    biases: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def is_long(self) -> bool:
        """Whether what is computed for it is too large to keep."""
        return self.sees_LS.shape[1] > KEPT_KEYS

    def bias_for(self, query_KRTD: Tensor) -> Tensor:
        """0 where a row sees a key and -inf elsewhere, below itself for each of the R heads that share keys, (R * L, S)."""
        wanted = query_KRTD.shape[1], query_KRTD.dtype
        if wanted in self.biases:
            return self.biases[wanted]
        bias = torch.zeros_like(self.sees_LS, dtype=query_KRTD.dtype).masked_fill_(~self.sees_LS, -torch.inf).repeat(wanted[0], 1)
        if not self.is_long:
            self.biases[wanted] = bias
        return bias

    def gather(self, values_KTD: Tensor) -> Tensor:
        """The block's keys or values, (K, S, D)."""
        own = values_KTD[:, self.own]
        return own if self.prefix.start == self.prefix.stop else torch.cat([values_KTD[:, self.prefix], own], dim=1)

    def scatter_add(self, target_KTD: Tensor, values_KSD: Tensor) -> None:
        """Adds the gradient of `gather`'s result where it came from."""
        num_prefix = self.prefix.stop - self.prefix.start
        target_KTD[:, self.prefix] += values_KSD[:, :num_prefix]
        target_KTD[:, self.own] += values_KSD[:, num_prefix:]


@dataclass(frozen=True, slots=True)
class Layout:
    """Who sees whom in a stream, as one of the two backends wants it. part: the rows that this process has of it."""

    blocks: list[Block]
    mask: BlockMask | None = None
    part: slice = field(default_factory=lambda: slice(None))


def layout_of(segment_ids_T: Tensor, prefix_ids_T: Tensor, backend: str) -> Layout:
    """The layout of a `posttrain.types.Batch`: a token sees the earlier tokens of its own segment and of its prefix segment.

    backend: "blocks" or "flex".
    """
    if backend == "blocks":
        return Layout(list(_blocks(segment_ids_T, prefix_ids_T)))

    def sees(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        own, prefix = segment_ids_T[row] == segment_ids_T[key], prefix_ids_T[row] == segment_ids_T[key]
        return (own | prefix) & (key <= row)

    length = len(segment_ids_T)
    return Layout([], create_block_mask(sees, None, None, length, length, device=segment_ids_T.device))


def _blocks(segment_ids_T: Tensor, prefix_ids_T: Tensor) -> Iterator[Block]:
    """A block's rows are all of the prompt or all of branches; it begins to see its own keys where its first row's segment begins."""
    segments, lengths = torch.unique_consecutive(segment_ids_T, return_counts=True)
    ends = lengths.cumsum(0)
    starts = dict(zip(segments.tolist(), (ends - lengths).tolist(), strict=True))
    stops = dict(zip(segments.tolist(), ends.tolist(), strict=True))
    order_T = torch.arange(len(segment_ids_T), device=segment_ids_T.device)
    tree_starts = torch.unique_consecutive(prefix_ids_T).tolist()
    for prompt, following in zip(tree_starts, [*tree_starts[1:], None], strict=True):
        prompt_end = stops[prompt]
        tree_end = len(segment_ids_T) if following is None else starts[following]
        for first, last in ((starts[prompt], prompt_end), (prompt_end, tree_end)):
            for start in range(first, last, BLOCK_ROWS):
                rows = slice(start, min(start + BLOCK_ROWS, last))
                own = slice(starts[int(segment_ids_T[start])], rows.stop)
                prefix = slice(starts[prompt], prompt_end if start >= prompt_end else starts[prompt])
                keys_S = torch.cat([order_T[prefix], order_T[own]])
                segments_L, segments_S = segment_ids_T[rows, None], segment_ids_T[keys_S]
                sees_LS = ((segments_L == segments_S) | (segments_S == prompt)) & (keys_S <= order_T[rows, None])
                yield Block(rows, prefix, own, sees_LS)


class _BlockAttention(torch.autograd.Function):
    """softmax(scale * q k + bias) v, block by block; inputs (K, R, T, D) and (K, T, D)."""

    @staticmethod
    def forward(ctx: Any, query_KRTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, blocks: list[Block], scale: float) -> Tensor:
        output_KRTD, kept = torch.empty_like(query_KRTD), []
        precise_query, precise_key = _precise(query_KRTD), _precise(key_KTD)
        for block in blocks:
            output_KRLD = output_KRTD[:, :, block.rows]
            probabilities = _softmax(precise_query, precise_key, block, scale).to(value_KTD.dtype)
            output_KRLD.copy_((probabilities @ block.gather(value_KTD)).view_as(output_KRLD))
            kept.append(None if block.is_long else probabilities)
        ctx.save_for_backward(query_KRTD, key_KTD, value_KTD)
        ctx.blocks, ctx.scale, ctx.kept = blocks, scale, kept
        return output_KRTD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (gradient_KRTD,) = gradients
        query_KRTD, key_KTD, value_KTD = ctx.saved_tensors
        d_query = torch.empty_like(query_KRTD)
        d_key, d_value = (torch.zeros_like(values, dtype=_precise_dtype(values)) for values in (key_KTD, value_KTD))
        is_whole = all(kept is not None for kept in ctx.kept)
        precise_query, precise_key = (query_KRTD, key_KTD) if is_whole else (_precise(query_KRTD), _precise(key_KTD))
        for block, kept in zip(ctx.blocks, ctx.kept, strict=True):
            keys_KSD, values_KSD = block.gather(key_KTD), block.gather(value_KTD)
            probabilities = _softmax(precise_query, precise_key, block, ctx.scale).to(value_KTD.dtype) if kept is None else kept
            query, gradient = _fold(query_KRTD, block), _fold(gradient_KRTD, block)
            block.scatter_add(d_value, probabilities.transpose(1, 2) @ gradient)
            d_probabilities = gradient @ values_KSD.transpose(1, 2)
            d_scores = torch._softmax_backward_data(d_probabilities, probabilities, -1, probabilities.dtype).mul_(ctx.scale)
            d_query_KRLD = d_query[:, :, block.rows]
            d_query_KRLD.copy_((d_scores @ keys_KSD).view_as(d_query_KRLD))
            block.scatter_add(d_key, d_scores.transpose(1, 2) @ query)
        return d_query, d_key.to(key_KTD.dtype), d_value.to(value_KTD.dtype), None, None


def _softmax(query_KRTD: Tensor, key_KTD: Tensor, block: Block, scale: float) -> Tensor:
    """(K, R * L, S), in the dtype of the inputs."""
    bias = block.bias_for(query_KRTD).expand(len(key_KTD), -1, -1)
    return torch.softmax(torch.baddbmm(bias, _fold(query_KRTD, block), block.gather(key_KTD).transpose(1, 2), alpha=scale), dim=-1)


def _fold(values_KRTD: Tensor, block: Block) -> Tensor:
    """The block's rows, (K, R * L, D): the heads that share keys, one below the other."""
    return values_KRTD[:, :, block.rows].flatten(1, 2)


def _precise(values: Tensor) -> Tensor:
    return values.to(_precise_dtype(values))


def _precise_dtype(values: Tensor) -> torch.dtype:
    """float32, or float64 where it is that: what scores and sums of gradients are computed in."""
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
    key_KTD, value_KTD = key_BKTD[0], value_BKTD[0]
    query_KRTD = query_BATD[0].unflatten(0, (len(key_KTD), -1))
    output_KRTD: Tensor = _BlockAttention.apply(query_KRTD, key_KTD, value_KTD, layout.blocks, scale)  # type: ignore[no-untyped-call]
    return output_KRTD.flatten(0, 1).transpose(0, 1)[None]


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
