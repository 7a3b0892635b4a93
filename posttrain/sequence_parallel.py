"""Sequence parallelism by DeepSpeed Ulysses: learner ranks that share a stream, each with a slice of it for all but attention.

A stream's rows stand in equal slices on the ranks of a group: embeddings, MLPs, norms and the head see a slice alone, and memory
is that of a slice. Around attention DeepSpeed's all-to-all trades rows for heads: each rank has the whole stream for its
share of the heads, with the layout of the whole stream, and `posttrain.attention` computes it as ever.

What the head says of the trained tokens is gathered, a number a token, so an objective still sees whole micro-batches, and its
gradient goes back into each rank's own tokens. The ranks' gradients add up to the stream's: DeepSpeed takes all ranks of all
groups for data-parallel ones, and ZeRO spreads over all of them. Shape suffixes as in `posttrain.model`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
from torch import Tensor

from posttrain.attention import attend
from posttrain.head import Teaching
from posttrain.model import Reading, attention_heads, stream_tensors
from posttrain.types import Batch


class SharedStreams:
    """The group of ranks that this rank shares its streams with."""

    def __init__(self, size: int, reading: Reading) -> None:
        """Every rank makes every group. size: ranks of a group. reading: as this rank alone would read a stream."""
        self.size = size
        self.place = dist.get_rank() % size
        first = dist.get_rank() - self.place
        groups = [dist.new_group([*range(start, start + size)]) for start in range(0, dist.get_world_size(), size)]
        self.group = groups[first // size]
        self.reading = replace(reading, multiple=size)

    def attention(self, config: Any) -> Callable[..., Any]:
        """What takes the place of `posttrain.attention.attend` in a model of this configuration, one of transformers'."""
        text = config.get_text_config()
        heads, key_heads = attention_heads(text)
        attention: Callable[..., Any] = UlyssesSPAttentionHF(
            attn=attend,
            batch_size=1,
            attn_head_count=heads,
            attn_head_size=text.to_dict().get("head_dim") or text.hidden_size // heads,
            kv_head_count=key_heads,
            num_hidden_layers=text.num_hidden_layers,
            process_group=self.group,
            seq_length_is_variable=True,
        )
        return attention

    def score(
        self, module: Any, batch: Batch, where: tuple[torch.device, str], temperature: float, teaching: Teaching | None
    ) -> tuple[Tensor, ...]:
        """What `module`, a scorer of `posttrain.model`, says of all trained tokens of a batch; every rank computes its slice.

        where: device and attention backend.
        """
        stream = stream_tensors(batch, *where, reading=self.reading)
        length = len(stream.token_ids_T) // self.size
        part = slice(self.place * length, (self.place + 1) * length)
        (own,) = torch.nonzero((stream.read_N >= part.start) & (stream.read_N < part.stop), as_tuple=True)
        own_layout = replace(stream.layout, part=part)
        own_stream = replace(stream, layout=own_layout, targets_N=stream.targets_N[own], read_N=stream.read_N[own])
        scored = module(own_stream, temperature, None if teaching is None else teaching.at(own))
        return tuple(_Gathered.apply(values, own, len(stream.read_N), self.group) for values in scored)  # type: ignore[no-untyped-call]


class _Gathered(torch.autograd.Function):
    """All ranks' values by their places, (N,); the gradient of each goes to the rank that has it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, own: Tensor, num: int, group: Any) -> Tensor:
        ctx.save_for_backward(own)
        whole_N = values.new_zeros(num)
        whole_N[own] = values
        dist.all_reduce(whole_N, group=group)
        return whole_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (own,) = ctx.saved_tensors
        return gradients[0][own], None, None, None
