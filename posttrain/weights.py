"""Weights on their way from the learner to the engines, and the proof that they arrived.

The learner names every tensor that it has and fingerprints it: the manifest. What is sent is fingerprinted again by each
engine as its loader takes it, so a tensor that is missing, extra or changed is found by name. A fingerprint cannot see
what the engine's loader does with a tensor, so a fixed canary sequence is scored by both sides as well: by the engine among the
first requests of every rollout, which must find nothing in its prefix cache. Pure functions and records: no Ray, no vLLM.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from posttrain.errors import WeightSyncError
from posttrain.types import EncodedImage, FloatArray, IntArray
from posttrain.vision import ImageGeometry


@dataclass(frozen=True, slots=True)
class SentTensor:
    """One tensor as bytes: numpy has no bfloat16, and the object store shares numpy arrays without a copy."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "SentTensor":
        """The bytes of a contiguous CPU tensor, not copied."""
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        return cls(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape), data=data)

    def tensor(self) -> Tensor:
        """The tensor again, to be read only: it may be the object store's memory."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(self.data).view(_DTYPES[self.dtype]).reshape(self.shape)


_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16, "int64": torch.int64, "bool": torch.bool}

WeightsPayload = list[SentTensor]
WeightsManifest = dict[str, str]
"""Tensor name -> fingerprint."""

NUM_CANARY_TOKENS = 24
DEFAULT_TOLERANCE = {"float32": 1e-3, "bfloat16": 2.0}
"""Max |log-probability difference| over the canary. float32 sums in another order differ by about 1e-5. Two bfloat16
implementations of SmolLM2 differ by 0.15 to 0.6 on single tokens, so there the canary finds only gross faults, such as a
tensor in the wrong place, and the fingerprints find the rest."""

CANARY_TEXT = (
    "The quick brown fox jumps over the lazy dog while 17 + 25 = 42, and the old clock on the wall says a quarter past nine. "
    "Every message that is sent must arrive unchanged; this sentence is scored by both sides to show that it did. "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A fixed sequence that both sides score, as an engine takes it; geometry: how the model reads its images, if it does."""

    token_ids: IntArray
    images: list[EncodedImage] = field(default_factory=list)
    geometry: ImageGeometry | None = None


def make_canary(tokenizer: object, geometry: ImageGeometry | None = None) -> Canary:
    """24 tokens of plain text; for a model that reads images one stands in their midst.

    So an engine that keeps the features of an image over a publish is found out.
    """
    ids: list[int] = tokenizer.encode(CANARY_TEXT, add_special_tokens=False)  # type: ignore[attr-defined]
    repeats = -(-NUM_CANARY_TOKENS // len(ids))
    text = (ids * repeats)[:NUM_CANARY_TOKENS]
    if geometry is None:
        return Canary(token_ids=np.asarray(text, np.int64))
    shown = [*text[: NUM_CANARY_TOKENS // 2], geometry.image_token_id, *text[NUM_CANARY_TOKENS // 2 :]]
    return Canary(token_ids=np.asarray(shown, np.int64), images=[_canary_image()], geometry=geometry)


def _canary_image() -> EncodedImage:
    """64 x 64 pixels in which every patch differs, in colour too; PNG is lossless, so both sides see the same."""
    rows, columns = np.indices((64, 64))
    pixels = np.stack([rows * 4, columns * 4, (rows * columns) % 256], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return EncodedImage(data=file.getvalue(), width=64, height=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryReceipt:
    """What one engine says of the canary in a rollout.

    logprobs: float32, of canary tokens 1.. given those before. cached_tokens: prefix-cache hits of the canary's first request,
    which must be 0.
    """

    logprobs: FloatArray
    cached_tokens: int


def fingerprint(sent: SentTensor) -> str:
    """xxh3-128 over dtype, shape and bytes."""
    digest = xxhash.xxh3_128(f"{sent.dtype}{sent.shape}".encode())
    digest.update(sent.data.data)
    return digest.hexdigest()


def fingerprints(sent: Sequence[SentTensor]) -> WeightsManifest:
    """The fingerprint of each, computed once where several names share their bytes (tied tensors)."""
    by_bytes: dict[int, str] = {}
    for item in sent:
        if id(item.data) not in by_bytes:
            by_bytes[id(item.data)] = fingerprint(item)
    return {item.name: by_bytes[id(item.data)] for item in sent}


def send(tensors: dict[str, Tensor]) -> WeightsPayload:
    """What is sent of contiguous CPU tensors; those that share their memory share their bytes, which travel once."""
    first: dict[tuple[int, tuple[int, ...]], SentTensor] = {}
    sent = []
    for name, tensor in tensors.items():
        item = first.setdefault((tensor.data_ptr(), tuple(tensor.shape)), SentTensor.of(name, tensor))
        sent.append(replace(item, name=name))
    return sent


def verify_delivery(engine: str, manifest: WeightsManifest, received: WeightsManifest) -> None:
    """Checks that every tensor reached the engine as it was sent.

    Raises:
        WeightSyncError: a tensor is missing, extra or changed.
    """
    differing = _first_difference(manifest, received)
    if differing:
        raise WeightSyncError(f"{engine} did not get the learner's weights: first differing tensor {differing}")


def verify_canary(engine: str, learner_logprobs: FloatArray, receipt: CanaryReceipt, tolerance: float) -> float:
    """Checks an engine's weights and its prefix cache by the canary; returns the largest difference, in nats.

    Raises:
        WeightSyncError: the canary differs by more than `tolerance`, or the prefix cache was not reset.
    """
    gaps = np.abs(learner_logprobs - receipt.logprobs)
    at = int(np.argmax(gaps))  # a NaN counts as the largest
    gap = float(gaps[at])
    numbers = (
        f"canary token {at + 1}: learner {learner_logprobs[at]:.6f}, engine {receipt.logprobs[at]:.6f}, "
        f"difference {gap:.2e}, tolerance {tolerance:.1e}"
    )
    if receipt.cached_tokens:
        raise WeightSyncError(
            f"{engine} kept its prefix cache over a publish: {receipt.cached_tokens} canary tokens came from it; {numbers}"
        )
    if not gap <= tolerance:
        raise WeightSyncError(
            f"{engine} scores the canary differently, though every tensor arrived as it was sent "
            f"(a tied or renamed tensor missing on both sides, or another computation): {numbers}; "
            "raise weights.canary_tolerance only if this precision is expected"
        )
    return gap


def _first_difference(manifest: WeightsManifest, received: WeightsManifest) -> str | None:
    for name, expected in manifest.items():
        if name not in received:
            return f"{name} (never arrived)"
        if received[name] != expected:
            return f"{name} (fingerprint {received[name][:8]}, expected {expected[:8]})"
    extra = sorted(received.keys() - manifest.keys())
    return f"{extra[0]} (not the learner's)" if extra else None
