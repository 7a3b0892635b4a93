"""One token a row, drawn from the very log-probabilities that the engine tells, by inverting their distribution.

vLLM's sampler on the CPU makes a Gumbel variable for each token of the vocabulary, which took a tenth of a rollout of a small model. The
log-probabilities are there already, as the learner wants them; one uniform number a row is all else that a draw needs. Sums are
float64, so that no token is too unlikely to be drawn as often as it should. Shape suffixes: `_B` rows, `_V` vocabulary, `_K` parts of
it, `_W` tokens of a part.
"""

from typing import Any

import torch
from torch import Tensor

WIDTH = 256
"""Tokens of a part: a draw finds the part first, and then the token in it."""


def draw(logprobs_BV: Tensor) -> Tensor:
    """int64 (B,): a token of each row, by torch's global generator; one without probability is never drawn."""
    rows, size = logprobs_BV.shape
    parts = -(-size // WIDTH)
    probabilities_BV = logprobs_BV.new_empty(rows, parts * WIDTH)
    torch.exp(logprobs_BV, out=probabilities_BV[:, :size])
    probabilities_BV[:, size:] = 0
    probabilities_BKW = probabilities_BV.view(rows, parts, WIDTH)
    sums_BK = probabilities_BKW.sum(-1).double()
    ends_BK = sums_BK.cumsum(-1)
    place_B1 = torch.rand(rows, 1, dtype=torch.float64, device=logprobs_BV.device) * ends_BK[:, -1:]
    part_B1 = _find(ends_BK, place_B1)
    share_B1 = (place_B1 - ends_BK.gather(1, part_B1) + sums_BK.gather(1, part_B1)) / sums_BK.gather(1, part_B1)
    ends_BW = probabilities_BKW[torch.arange(rows), part_B1[:, 0]].double().cumsum(-1)
    return (part_B1 * WIDTH + _find(ends_BW, share_B1 * ends_BW[:, -1:]))[:, 0]


def _find(ends_BN: Tensor, place_B1: Tensor) -> Tensor:
    """(B, 1): the first whose end lies beyond the place; if that was rounded up to the last end or below 0, what is nearest."""
    last_B1 = torch.nextafter(ends_BN[:, -1:], ends_BN.new_zeros(()))
    return torch.searchsorted(ends_BN, place_B1.clamp(min=0).minimum(last_B1), right=True)


def install(worker: Any) -> None:
    """Lets a vLLM worker on the CPU draw its tokens so, where a request has no generator, top-k or top-p of its own."""
    sampler = worker.model_runner.sampler.topk_topp_sampler
    of_vllm = sampler.forward

    def forward(logits: Tensor, generators: dict[int, Any], k: Tensor | None, p: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if generators or k is not None or p is not None:
            chosen: tuple[Tensor, Tensor | None] = of_vllm(logits, generators, k, p)
            return chosen
        logprobs_BV = logits.log_softmax(dim=-1, dtype=torch.float32)
        return draw(logprobs_BV), logprobs_BV

    sampler.forward = forward
