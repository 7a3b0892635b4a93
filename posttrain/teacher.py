"""The teacher: a frozen model in a Ray actor of its own. It scores packed streams as the learner does and trains nothing.

What lives here: the forward pass, and what of it is sent. What does not: the divergence (`posttrain.teacher_head`, in the
learner's process), which prompts the teacher reads (`posttrain.teacher_inputs`), the driver's handle (`posttrain.fleet`).

Shape suffixes: `_N` trained tokens of a stream, `_K` tokens that the teacher names, `_H` hidden size, `_V` rows of the head.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from posttrain.algorithms.divergences import Divergence
from posttrain.head import Head, Teaching
from posttrain.learner_spec import TeacherSpec
from posttrain.model import TokenScorer, load_model, stream_tensors
from posttrain.pixels import PixelReader, reads_images
from posttrain.teacher_head import FullTeaching, SampledTeaching, TeacherHead, TopTeaching, top_logprobs
from posttrain.types import Batch
from posttrain.weights import SentTensor, WeightsManifest, WeightsPayload, fingerprints, send
from posttrain.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherScores:
    """What a teacher says about the N trained tokens of a batch, in stream order, as bytes that processes can share.

    hidden (N, H), in the model's dtype: for the whole vocabulary. Otherwise logprobs (N,), float32, of the sampled tokens, and
    for the top of the vocabulary top_ids and top_logprobs (N, K) too.
    """

    hidden: SentTensor | None = None
    logprobs: SentTensor | None = None
    top_ids: SentTensor | None = None
    top_logprobs: SentTensor | None = None

    @classmethod
    def of(cls, **tensors: Tensor) -> Self:
        """From tensors of any device, by field."""
        return cls(**{name: SentTensor.of(name, tensor.cpu().contiguous()) for name, tensor in tensors.items()})

    def teaching(self, divergence: Divergence, head: TeacherHead | None, device: torch.device) -> Teaching:
        """As the student's head takes it. head: this teacher's, which hidden states need."""
        if self.hidden is not None:
            if head is None:
                raise ValueError("a teacher's hidden states came before its head")
            return FullTeaching(divergence, self.hidden.tensor().to(device), head)
        assert self.logprobs is not None
        logprobs_N = self.logprobs.tensor().to(device)
        if self.top_ids is None or self.top_logprobs is None:
            return SampledTeaching(divergence, logprobs_N)
        return TopTeaching(divergence, self.top_ids.tensor().to(device), self.top_logprobs.tensor().to(device), logprobs_N)


class Teacher(Worker):
    """One frozen model."""

    def __init__(self, spec: TeacherSpec) -> None:
        """Only notes what to load; `start` loads it."""
        super().__init__()
        self.spec = spec

    def start(self) -> None:
        """Loads the model."""
        torch.set_num_threads(self.spec.threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        by_device = "flex" if self.device.type == "cuda" else "blocks"
        self.attention = by_device if self.spec.attention == "auto" else self.spec.attention
        model = load_model(self.spec.model_path, self.spec.dtype).to(self.device).eval().requires_grad_(False)
        self.pixels = PixelReader(self.spec.model_path) if reads_images(model.config) else None
        self.scorer = TokenScorer(model, self.spec.head_chunk_mb)
        layer = model.get_output_embeddings()
        assert isinstance(layer, nn.Linear)
        self.head = Head(first_rows(layer, self.spec.output_rows), self.spec.head_chunk_mb)
        self.advance()

    def export_head(self) -> tuple[WeightsManifest, WeightsPayload]:
        """The output layer and its fingerprints."""
        sent = send({name: tensor.detach().cpu().contiguous() for name, tensor in self.head.named_parameters()})
        self.advance()
        return fingerprints(sent), sent

    def score(self, batch: Batch) -> tuple[int, TeacherScores]:
        """The number of trained tokens of a stream that was made for this teacher's template, and its word on them."""
        with torch.no_grad(), self.computing():
            stream = stream_tensors(batch, self.device, self.attention, self.pixels)
            hidden_NH, targets_N = self.scorer.hidden(stream), stream.targets_N
            scores = self._scores(hidden_NH, targets_N)
        self.advance()
        return len(targets_N), scores

    def _scores(self, hidden_NH: Tensor, targets_N: Tensor) -> TeacherScores:
        chosen, temperature = self.spec.distillation, self.spec.temperature
        if chosen.support == "full":
            return TeacherScores.of(hidden=hidden_NH)
        logprobs_N, _ = self.head(hidden_NH, targets_N, temperature)
        if chosen.support == "sampled":
            return TeacherScores.of(logprobs=logprobs_N)
        ids_NK, top_NK = top_logprobs(self.head, hidden_NH, min(chosen.top_k, self.spec.output_rows), temperature)
        return TeacherScores.of(logprobs=logprobs_N, top_ids=ids_NK, top_logprobs=top_NK)


def first_rows(layer: nn.Linear, num_rows: int) -> nn.Linear:
    """The layer, or one that shares its first rows where it has more."""
    if layer.out_features == num_rows:
        return layer
    shorter = nn.Linear(layer.in_features, num_rows, bias=layer.bias is not None, device="meta")
    shorter.weight = nn.Parameter(layer.weight[:num_rows], requires_grad=False)
    if layer.bias is not None:
        shorter.bias = nn.Parameter(layer.bias[:num_rows], requires_grad=False)
    return shorter
