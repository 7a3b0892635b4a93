"""New weights straight into vLLM's layers, on one CPU engine: 0.11 s for SmolLM2, 0.18 by its own loader, which takes any checkpoint.

vLLM joins some matrices (query, key and value; gate and up) and lets oneDNN keep a packed copy of each, and its loader builds every
layer anew on the way. Here the joined matrix is handed to the layer's own `process_weights_after_loading`, which packs it. A plan is made
only where every tensor that is sent has one place by name and shape and every parameter gets one; otherwise there is none, and vLLM's
loader does the work.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Place:
    """A parameter of a vLLM layer, and the tensors that it is joined of, top to bottom.

    parameter: its name in the layer; shape: what the tensors must be together. is_linear: the layer keeps a packed copy in its
    place; is_head: beside it.
    """

    layer: Any
    parameter: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    is_linear: bool
    is_head: bool

    def fits(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether tensors of these shapes can be joined to what is wanted."""
        widths = {shape[1:] for shape in shapes}
        return all(shapes) and widths == {self.shape[1:]} and sum(shape[0] for shape in shapes) == self.shape[0]

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Takes the tensors, which stay the caller's."""
        joined = torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]
        if self.is_linear:
            self.layer.weight = nn.Parameter(joined, requires_grad=False)
        else:
            self.layer.get_parameter(self.parameter).data[: len(joined)].copy_(joined)  # below them vLLM pads a vocabulary
        if self.is_linear or self.is_head:
            self.layer.quant_method.process_weights_after_loading(self.layer)
        if self.is_linear and self.layer.weight.data_ptr() == tensors[0].data_ptr():  # it was not packed
            self.layer.weight.data = self.layer.weight.data.clone()


def plan_direct_load(model: Any, sent: Mapping[str, tuple[str, tuple[int, ...]]], dtype: str) -> list[Place] | None:
    """Where each tensor goes, given the dtype and shape of each; None where vLLM's loader is needed.

    model: vLLM's, whole on this process. dtype: the engine's.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or any(kind != dtype for kind, _ in sent.values()):
        return None
    places = list(_places(model))
    is_whole = {name for place in places for name in place.names} == sent.keys()
    return places if is_whole and all(place.fits([sent[name][1] for name in place.names]) for place in places) else None


def _places(model: Any) -> Iterator[Place]:
    from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    joined: dict[str, list[str]] = vars(type(model)).get("packed_modules_mapping", {})
    for path, layer in model.named_modules():
        parent, _, own = path.rpartition(".")
        for parameter, values in layer.named_parameters(recurse=False):
            is_weight = parameter == "weight"
            is_linear = is_weight and isinstance(layer, LinearBase) and type(layer.quant_method) is UnquantizedLinearMethod
            shape = (layer.output_size, layer.input_size) if is_linear else tuple(values.shape)
            if is_weight and isinstance(layer, VocabParallelEmbedding):
                shape = (layer.org_vocab_size, shape[1])
            names = tuple(".".join(filter(None, (parent, part, parameter))) for part in joined.get(own, [own]))
            yield Place(layer, parameter, names, shape, is_linear, is_weight and isinstance(layer, ParallelLMHead))
