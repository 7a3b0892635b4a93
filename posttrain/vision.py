"""Images as tokens and positions, for models that read images as Qwen-VL does: the one place where both are worked out.

Engines are given one placeholder token an image and expand it themselves; the learner needs the expanded run, one token for each
`merge_size` x `merge_size` patches, and three positions a token: time, row and column. `read` makes the second from the first.
Numpy only; pixels are made in `posttrain.model`.

Shape suffixes: `_T` tokens of a piece, after expansion unless said otherwise; `_3T` three numbers a token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from posttrain.errors import UserError
from posttrain.types import EncodedImage, IntArray

MAX_ASPECT_RATIO = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGeometry:
    """How a model cuts images into tokens.

    image_token_id: the placeholder. banned_token_ids: it and others like it (a video's), which nobody but the template may write.
    patch_size: pixels; merge_size: patches a side that make one token; min_pixels, max_pixels: of an image after resizing.
    """

    image_token_id: int
    banned_token_ids: tuple[int, ...]
    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int

    def tokens(self, image: EncodedImage) -> tuple[int, int]:
        """Rows and columns of the image's tokens.

        As Qwen2-VL's `smart_resize` has it: both sides become multiples of a token's, the aspect ratio stays as near as that allows,
        and the area comes between min_pixels and max_pixels. Python rounds halves to even, and so does the original.

        Raises:
            UserError: one side is more than 200 times the other, which the model's image processor refuses.
        """
        side, height, width = self.patch_size * self.merge_size, image.height, image.width
        if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise UserError(f"an image of {width} x {height} pixels: expected sides that differ by a factor of {MAX_ASPECT_RATIO} at most")
        rows, columns = round(height / side), round(width / side)
        if rows * columns * side**2 > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(1, math.floor(length / shrink / side)) for length in (height, width))
        elif rows * columns * side**2 < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(length * grow / side) for length in (height, width))
        return rows, columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a conversation as the learner reads it.

    token_ids: int64 (T,), each image a run of placeholders. positions: int64 (3, T), from 0; None where there is no image and they
    are 0 .. T - 1. images: where each run begins, and its image. sources: int64 (T,), the place of each token before expansion.
    """

    token_ids: IntArray
    positions: IntArray | None = None
    images: list[tuple[int, EncodedImage]] = field(default_factory=list)

    @property
    def extent(self) -> int:
        """How far what follows is moved: an image of r x c tokens takes max(r, c) positions, a text token 1."""
        return len(self.token_ids) if self.positions is None else int(self.positions.max(initial=-1)) + 1


def read(token_ids: IntArray, images: Sequence[EncodedImage], geometry: ImageGeometry | None) -> tuple[Piece, IntArray]:
    """A stretch with one placeholder an image (T,) as a piece, and how often each of its tokens stands there, int64 (T,).

    geometry None: the model reads text only.

    Raises:
        UserError: there are more or fewer placeholders than images, or images for a model that reads text only.
    """
    if geometry is None:
        if images:
            raise UserError("holds an image, and the model reads text only")
        return Piece(token_ids=token_ids), np.ones(len(token_ids), np.int64)
    places = np.flatnonzero(token_ids == geometry.image_token_id)
    if len(places) != len(images):
        raise UserError(f"has {len(places)} image placeholders for {len(images)} images")
    counts = np.ones(len(token_ids), np.int64)
    if not images:
        return Piece(token_ids=token_ids), counts
    sizes = [geometry.tokens(image) for image in images]
    counts[places] = [rows * columns for rows, columns in sizes]
    starts = (np.cumsum(counts) - counts)[places]
    piece = Piece(
        token_ids=np.repeat(token_ids, counts),
        positions=positions(int(counts.sum()), starts, sizes),
        images=list(zip(starts.tolist(), images, strict=True)),
    )
    return piece, counts


def num_tokens(num_given: int, images: Sequence[EncodedImage], geometry: ImageGeometry | None) -> int:
    """Tokens of a stretch as the learner reads it, of which there are num_given with one placeholder an image."""
    sizes = [geometry.tokens(image) for image in images] if geometry is not None else []
    return num_given + sum(rows * columns - 1 for rows, columns in sizes)


def positions(length: int, starts: Sequence[int] | IntArray, sizes: Sequence[tuple[int, int]]) -> IntArray:
    """Time, row and column of each token, int64 (3, length), as transformers' `get_rope_index` has them for one sequence.

    A text token's three are one more than the largest before it. An image's tokens share one time; rows and columns count from
    there, and what follows goes on after the larger of the two. starts, sizes: each run of placeholders, in order.
    """
    steps = np.ones(length, np.int64)
    for start, (rows, columns) in zip(starts, sizes, strict=True):
        steps[start : start + rows * columns] = 0
        steps[start] = max(rows, columns)
    positions_T = np.cumsum(steps) - steps
    positions_3T = np.stack([positions_T] * 3)
    for start, (rows, columns) in zip(starts, sizes, strict=True):
        run = slice(start, start + rows * columns)
        positions_3T[:, run] = positions_T[start] + np.stack([np.zeros((rows, columns), np.int64), *np.indices((rows, columns))]).reshape(
            3, -1
        )
    return positions_3T


def check_written(token_ids: IntArray, geometry: ImageGeometry | None) -> None:
    """What the policy wrote must hold no placeholder: the learner would take it for an image.

    Raises ValueError: it does, so the engine's sampler did not ban them.
    """
    if geometry is not None and np.isin(token_ids, geometry.banned_token_ids).any():
        raise ValueError(f"the policy wrote one of the image placeholders {geometry.banned_token_ids}, which engines have to ban")
