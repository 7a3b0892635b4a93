"""Images as numbers: how a model cuts them into tokens, and their pixels, both by the model's own image processor.

What becomes of the pixels is the model's business (`posttrain.model`); what a picture is as tokens, `posttrain.vision`'s.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

from posttrain.data.images import decode
from posttrain.errors import UserError
from posttrain.types import EncodedImage
from posttrain.vision import ImageGeometry

MODEL_TYPES = ("qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl")
"""Those that read images by one placeholder a merged patch, with positions of time, row and column."""

KEPT_BYTES = 512 << 20
"""Of pixels; an image of 1,024 tokens takes 25 MB."""


def reads_images(config: Any) -> bool:
    """Whether a model of this configuration is trained and run with images here; others with a vision tower are read as text models."""
    return config.model_type in MODEL_TYPES


def image_geometry(path: str) -> ImageGeometry | None:
    """How the model at `path` cuts images into tokens; None for a model that reads text only.

    Raises:
        UserError: the folder has a model that reads images, but no image processor.
    """
    config = AutoConfig.from_pretrained(path)
    if not reads_images(config):
        return None
    processor = _processor(path)
    return ImageGeometry(
        image_token_id=config.image_token_id,
        banned_token_ids=(config.image_token_id, config.video_token_id),
        patch_size=processor.patch_size,
        merge_size=processor.merge_size,
        min_pixels=processor.size["shortest_edge"],
        max_pixels=processor.size["longest_edge"],
    )


def _processor(path: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"model.path={path} reads images, but its image processor cannot be loaded: {first_line}") from error


def save_processor(path: str, folder: str) -> None:
    """Copies everything that turns messages into a model's inputs: tokenizer, chat template, image and video processor."""
    AutoProcessor.from_pretrained(path).save_pretrained(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTensors:
    """The images of a stream: each one's pixels once, and where it is shown.

    pixels: float32 (P, C), the patches of all of them; grids: int64 (I, 3), frames, rows and columns of patches of each.
    shown_R: the image of each run of placeholders, in the order of the stream.
    """

    pixels: Tensor
    grids: Tensor
    shown_R: list[int]


class PixelReader:
    """Makes pixels from images, the latest ones kept by digest."""

    def __init__(self, path: str) -> None:
        """`path`: the model whose image processor is used."""
        self.processor = _processor(path)
        self._kept: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._kept_bytes = 0

    def tensors(self, images: Sequence[EncodedImage], shown_R: Sequence[int], device: torch.device) -> ImageTensors:
        """The images of a stream. Where there is none, one of the smallest size that is shown nowhere, so that the vision tower
        is part of every step: ranks that do without it would wait for each other's gradients.
        """
        made = [self._one(image) for image in images] or [self._smallest()]
        pixels, grids = (torch.cat(parts).to(device) for parts in zip(*made, strict=True))
        return ImageTensors(pixels=pixels, grids=grids, shown_R=list(shown_R))

    def _one(self, image: EncodedImage) -> tuple[Tensor, Tensor]:
        if image.digest not in self._kept:
            made = self.processor(images=[decode(image)], return_tensors="pt")
            self._kept[image.digest] = made["pixel_values"], made["image_grid_thw"]
            self._kept_bytes += made["pixel_values"].nbytes
        self._kept.move_to_end(image.digest)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            _, (pixels, _) = self._kept.popitem(last=False)
            self._kept_bytes -= pixels.nbytes
        return self._kept[image.digest]

    def _smallest(self) -> tuple[Tensor, Tensor]:
        side = self.processor.merge_size
        channels = len(self.processor.image_mean)
        size = channels * self.processor.temporal_patch_size * self.processor.patch_size**2
        return torch.zeros(side * side, size), torch.tensor([[1, side, side]])
