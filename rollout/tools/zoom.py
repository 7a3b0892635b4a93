"""The tool `image_zoom_in_tool`, as Qwen3-VL's own cookbook defines it: crops a region of any image so far, and shows it larger.

The crop is taken from the original pixels, not from what a model's processor made of them. Differences from the cookbook's code:
a short side alone is widened (theirs widens both), and a box that does not touch the picture is told, not cropped.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image

from posttrain.frames import FULL, OriginalBox, RelativeBox, Size, fitted
from posttrain.rollout.tools.arguments import numbers, required, text
from posttrain.rollout.tools.base import Tool, ToolError, ToolResult
from posttrain.rollout.tools.images import chosen, encoded, function_schema
from posttrain.types import EncodedImage

MIN_SIDE = 32
"""Pixels; a shorter side of a box is widened to it."""
MULTIPLE = 32
"""A vision token of Qwen3-VL is so many pixels wide and high."""
MIN_PIXELS = 256 * MULTIPLE**2
MAX_PIXELS = 12_845_056
"""The limits of the shown crop, as in the cookbook."""
MAX_ASPECT_RATIO = 150
"""Image processors of the Qwen-VL family refuse more than 200, which rounding to multiples must not reach."""


class ZoomIn(Tool):
    """Crop, enlarge, show."""

    schema: ClassVar[dict[str, Any]] = function_schema(
        "image_zoom_in_tool",
        "Zoom in on a specific region of an image by cropping it based on a bounding box (bbox) and an optional object label",
        {
            "bbox_2d": {
                "type": "array",
                "items": {"type": "number"},
                "minItems": 4,
                "maxItems": 4,
                "description": "The bounding box of the region to zoom in, as [x1, y1, x2, y2], where (x1, y1) is the top-left corner "
                "and (x2, y2) is the bottom-right corner",
            },
            "label": {"type": "string", "description": "The name or label of the object in the specified bounding box"},
            "img_idx": {"type": "number", "description": "The index of the zoomed-in image (starting from 0)"},
        },
    )

    def call(self, arguments: dict[str, Any], images: Sequence[EncodedImage]) -> ToolResult:
        """The region as an image. Raises ToolError: an argument is missing or wrong, or the box is inverted or outside."""
        box = RelativeBox(*numbers("bbox_2d", required(arguments, "bbox_2d"), "[x1, y1, x2, y2]"))
        text("label", required(arguments, "label"))
        return ToolResult(images=[encoded(zoomed(chosen(arguments, images), box))])


def zoomed(image: Image.Image, box: RelativeBox) -> Image.Image:
    """The region of `box`, enlarged or reduced to multiples of 32 pixels within the limits (bicubic).

    Raises ToolError: the box is inverted or empty, lies outside, or is a strip that no image processor takes.
    """
    region = region_of(box, Size(*image.size))
    sides = region.x2 - region.x1, region.y2 - region.y1
    if max(sides) > MAX_ASPECT_RATIO * min(sides):
        raise ToolError(
            f"bbox_2d is a strip of {sides[0]:.0f} x {sides[1]:.0f} pixels, expected one side at most {MAX_ASPECT_RATIO} times the other"
        )
    size = fitted(*sides, multiple=MULTIPLE, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    left, top, right, bottom = map(round, region.numbers)
    return image.crop((left, top, right, bottom)).resize(size, Image.Resampling.BICUBIC)


def region_of(box: RelativeBox, size: Size) -> OriginalBox:
    """What is cropped, before rounding to whole pixels: clamped to the picture, sides of at least 32 pixels where it has them.

    Raises ToolError: the box is inverted or empty, or lies outside.
    """
    if box.x2 <= box.x1 or box.y2 <= box.y1:
        raise ToolError("bbox_2d has no area, expected [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
    if box.x2 <= 0 or box.y2 <= 0 or box.x1 >= FULL or box.y1 >= FULL:
        raise ToolError(f"bbox_2d lies outside the image, expected coordinates from 0 to {FULL:.0f}")
    exact = box.in_original(size)
    left, right = _span(exact.x1, exact.x2, size.width)
    top, bottom = _span(exact.y1, exact.y2, size.height)
    return OriginalBox(left, top, right, bottom)


def _span(low: float, high: float, length: int) -> tuple[float, float]:
    """One side of a box: clamped to 0..length; where shorter than 32, widened about its centre and moved inside."""
    low, high = max(low, 0.0), min(high, float(length))
    if high - low >= MIN_SIDE:
        return low, high
    side = min(MIN_SIDE, length)
    low = min(max((low + high - side) / 2, 0.0), float(length - side))
    return low, low + side
