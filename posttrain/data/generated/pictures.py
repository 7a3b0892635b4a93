"""Drawing a scene: a grey ground, things that do not touch, and a PNG of few kilobytes whatever the picture's size.

Mid-grey is 0 after normalisation with mean 0.5, so that a patch of nothing looks like nothing. A picture is drawn with a palette: sixteen
levels between the ground and white, which handwriting is drawn in, and the colours of `COLOURS`.
"""

import io
import math
from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from posttrain.frames import OriginalBox, RelativeBox, Size
from posttrain.types import EncodedImage

GROUND = 128
NUM_LEVELS = 16
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (20, 150, 40),
    "blue": (30, 60, 230),
    "yellow": (240, 220, 20),
    "purple": (140, 20, 160),
    "orange": (250, 130, 10),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
BLACK = NUM_LEVELS
_COLOUR_INDEX = {name: BLACK + 1 + number for number, name in enumerate(COLOURS)}
_LEVELS = np.linspace(GROUND, 255, NUM_LEVELS).round().astype(int)
_PALETTE = [*(int(level) for level in np.repeat(_LEVELS, 3)), 0, 0, 0, *(part for colour in COLOURS.values() for part in colour)]
PLACING_TRIES = 2000


class Scene:
    """A picture that is being drawn; boxes are in its pixels."""

    def __init__(self, size: Size) -> None:
        """An empty ground."""
        self.size = size
        self._image = Image.new("P", size, 0)
        self._image.putpalette(_PALETTE)
        self._draw = ImageDraw.Draw(self._image)

    def handwriting(self, box: OriginalBox, ink: NDArray[np.uint8]) -> None:
        """Ink of (8, 8), enlarged to the box, white at its fullest."""
        left, top, right, bottom = (round(number) for number in box.numbers)
        enlarged = Image.fromarray(ink).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
        levels = np.asarray(enlarged).astype(np.int64) * (NUM_LEVELS - 1) // 240
        self._image.paste(Image.fromarray(levels.clip(0, NUM_LEVELS - 1).astype(np.uint8)), (left, top))

    def shape(self, box: OriginalBox, kind: str, colour: str) -> None:
        """A filled shape of `SHAPES`, as large as the box."""
        fill = _COLOUR_INDEX[colour]
        if kind == "circle":
            self._draw.ellipse(box.numbers, fill=fill)
        else:
            self._draw.polygon([(box.x1 + x * (box.x2 - box.x1), box.y1 + y * (box.y2 - box.y1)) for x, y in _OUTLINES[kind]], fill=fill)

    def ring(self, box: OriginalBox, colour: str | None, width: int) -> None:
        """A circle's outline as large as the box; black without a colour."""
        self._draw.ellipse(box.numbers, outline=_index(colour), width=width)

    def line(self, points: Sequence[tuple[float, float]], colour: str | None, width: int) -> None:
        """A line through pixels; black without a colour."""
        self._draw.line(list(points), fill=_index(colour), width=width)

    def encoded(self) -> EncodedImage:
        """The picture as a PNG."""
        file = io.BytesIO()
        self._image.save(file, "PNG", compress_level=1)
        return EncodedImage(data=file.getvalue(), width=self.size.width, height=self.size.height)


def random_size(rng: Random, low: int, high: int) -> Size:
    """A square with a side from `low` to `high`, a multiple of 32."""
    side = 32 * rng.randint(low // 32, high // 32)
    return Size(side, side)


def places(rng: Random, size: Size, sides: Sequence[float]) -> list[OriginalBox]:
    """Square boxes of these sides anywhere in the picture, a quarter of the larger side apart; they do not depend on what is drawn.

    Raises RuntimeError: they do not fit.
    """
    found: list[OriginalBox] = []
    for side in sides:
        found.append(_free_place(rng, size, side, found))
    return found


def relative(box: OriginalBox, size: Size) -> list[float]:
    """A box as a problem's metadata hold it: four numbers in 0..1000, to a hundredth."""
    return [round(number, 2) for number in box.in_relative(size).numbers]


def window(box: OriginalBox, size: Size, *, width: int, step: int) -> RelativeBox:
    """The box of `width` on a grid of `step` (both in 0..1000) whose centre is nearest to that of `box`."""

    def low(centre: float) -> int:
        return min(max(step * round((centre - width / 2) / step), 0), 1000 - width)

    exact = box.in_relative(size)
    x, y = low((exact.x1 + exact.x2) / 2), low((exact.y1 + exact.y2) / 2)
    return RelativeBox(x, y, x + width, y + width)


def _free_place(rng: Random, size: Size, side: float, taken: Sequence[OriginalBox]) -> OriginalBox:
    for _ in range(PLACING_TRIES):
        x, y = rng.uniform(0, size.width - side), rng.uniform(0, size.height - side)
        box = OriginalBox(x, y, x + side, y + side)
        if all(_gap(box, other) >= max(side, other.x2 - other.x1) / 4 for other in taken):
            return box
    raise RuntimeError(f"no free place for a side of {side:.0f} pixels in {size.width} x {size.height} beside {len(taken)} things")


def _gap(a: OriginalBox, b: OriginalBox) -> float:
    return max(a.x1 - b.x2, b.x1 - a.x2, a.y1 - b.y2, b.y1 - a.y2)


def _index(colour: str | None) -> int:
    return BLACK if colour is None else _COLOUR_INDEX[colour]


def _star() -> list[tuple[float, float]]:
    corners = []
    for number in range(10):
        radius, angle = (0.5 if number % 2 == 0 else 0.2), math.pi * (number / 5 - 0.5)
        corners.append((0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    return corners


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "star": _star(),
    "cross": [
        *((0.35, 0), (0.65, 0), (0.65, 0.35), (1, 0.35), (1, 0.65), (0.65, 0.65)),
        *((0.65, 1), (0.35, 1), (0.35, 0.65), (0, 0.65), (0, 0.35), (0.35, 0.35)),
    ],
}
