"""Coordinate frames: one type each, and the only place where one becomes another.

- relative: 0..1000 along each side, from the top left corner, whatever the picture's size: what Qwen3-VL writes and reads;
- original: pixels of the picture as the data or a tool gave it: where pixels are cropped and drawn on;
- resized: pixels of what a model's processor makes of it: what Qwen2.5-VL writes and reads.

A box is (x1, y1, x2, y2) with the right and lower edge outside; numbers are real, and nothing is rounded or clamped here.
"""

import math
from dataclasses import astuple, dataclass
from typing import NamedTuple

FULL = 1000.0
"""The length of a side in the relative frame."""
FUZZ = 1e-6
"""Of floating-point numbers that should be whole."""


class Size(NamedTuple):
    """Of a picture, in pixels of its own frame."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Box:
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2)."""
        x1, y1, x2, y2 = astuple(self)
        return x1, y1, x2, y2

    def _scaled(self, x: float, y: float) -> tuple[float, float, float, float]:
        return self.x1 * x, self.y1 * y, self.x2 * x, self.y2 * y


class RelativeBox(_Box):
    """A box in 0..1000."""

    __slots__ = ()

    def in_original(self, size: Size) -> "OriginalBox":
        """The same box of a picture of `size` original pixels."""
        return OriginalBox(*self._scaled(size.width / FULL, size.height / FULL))

    def in_resized(self, size: Size) -> "ResizedBox":
        """The same box of a picture that a processor resized to `size`."""
        return ResizedBox(*self._scaled(size.width / FULL, size.height / FULL))


class OriginalBox(_Box):
    """A box in original pixels."""

    __slots__ = ()

    def in_relative(self, size: Size) -> RelativeBox:
        """The same box of a picture of `size` original pixels, in 0..1000."""
        return RelativeBox(*self._scaled(FULL / size.width, FULL / size.height))


class ResizedBox(_Box):
    """A box in pixels of the resized picture."""

    __slots__ = ()

    def in_relative(self, size: Size) -> RelativeBox:
        """The same box of a picture that was resized to `size`, in 0..1000."""
        return RelativeBox(*self._scaled(FULL / size.width, FULL / size.height))


def fitted(width: float, height: float, *, multiple: int, min_pixels: int, max_pixels: int) -> Size:
    """The size nearest to this whose sides are multiples of `multiple` and whose area lies within the limits, in about its proportions.

    Qwen-VL's rule: sides are rounded to the nearest multiple; where the area is then over (under) a limit, they are scaled by
    sqrt(limit / area) and rounded down (up). A very long picture keeps one `multiple` in its short side, and may be over.
    """
    sides = [max(1, round(side / multiple)) for side in (width, height)]
    area = sides[0] * sides[1] * multiple**2
    if area > max_pixels:
        scale = math.sqrt(max_pixels / (width * height)) / multiple
        sides = [max(1, math.floor(side * scale + FUZZ)) for side in (width, height)]
    elif area < min_pixels:
        scale = math.sqrt(min_pixels / (width * height)) / multiple
        sides = [math.ceil(side * scale - FUZZ) for side in (width, height)]
    return Size(sides[0] * multiple, sides[1] * multiple)
