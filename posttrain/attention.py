"""Attention over a packed stream, tree by tree, as an attention implementation that transformers' models take.

A stream holds trees that do not see each other: a prompt and the completions that branch from it. Attending inside each
tree alone costs the sum of their squares instead of the square of the stream, and no (T, T) mask ever exists. The trees
travel to every layer as the keyword argument `trees` of the model's forward pass.

Shape suffixes: `_T` tokens of the stream, `_L` tokens of one tree; B = 1 rows, A heads, K key-value heads, D head size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "packed_trees"


@dataclass(frozen=True, slots=True)
class Tree:
    """Where a tree stands in the stream, and who sees whom in it: bool (L, L), true where the row may see the column."""

    start: int
    stop: int
    attends_LL: Tensor


def trees_of(segment_ids_T: Tensor, prefix_ids_T: Tensor) -> list[Tree]:
    """The trees of a `posttrain.types.Batch`: a token sees the earlier tokens of its own segment and of its prefix."""
    trees, start = [], 0
    for length in torch.unique_consecutive(prefix_ids_T, return_counts=True)[1].tolist():
        own_L, prefix_L = segment_ids_T[start : start + length], prefix_ids_T[start : start + length]
        attends_LL = (own_L[:, None] == own_L[None]) | (prefix_L[:, None] == own_L[None])
        trees.append(Tree(start, start + length, attends_LL.tril()))
        start += length
    return trees


def attend(
    module: nn.Module, query_BATD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: returns (B, T, A, D) and no attention weights. `attention_mask` is not used."""
    dropout = options["dropout"] if module.training else 0.0
    parts = []
    for tree in options["trees"]:
        query, key, value = (tensor[:, :, tree.start : tree.stop] for tensor in (query_BATD, key_BKTD, value_BKTD))
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        parts.append(
            scaled_dot_product_attention(query, key, value, attn_mask=tree.attends_LL, dropout_p=dropout, scale=options["scaling"])
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def register() -> str:
    """Makes the implementation known to transformers; returns the name to load a model with."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME


def _no_mask(*_: Any, **__: Any) -> None:
    """The trees carry their own masks."""
