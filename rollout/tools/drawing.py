"""The tools `draw_line` and `mark_points`: drawing on any image so far, to compare, follow or count what is in it.

Coordinates are relative (0..1000), as in `image_zoom_in_tool`; what is drawn is red and scales with the picture.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image, ImageDraw, ImageFont

from posttrain.frames import OriginalBox, RelativeBox, Size
from posttrain.rollout.tools.arguments import list_of, point, required
from posttrain.rollout.tools.base import Tool, ToolResult
from posttrain.rollout.tools.images import INDEX_SCHEMA, chosen, encoded, function_schema
from posttrain.types import EncodedImage

RED = (255, 0, 0)
WHITE = (255, 255, 255)
LINE_SHARE, MARK_SHARE = 1 / 200, 1 / 50
"""Width of a line and radius of a mark, in longer sides of the picture."""
MAX_POINTS = 100
_POINT = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}


class DrawLine(Tool):
    """A straight line between two points."""

    schema: ClassVar[dict[str, Any]] = function_schema(
        "draw_line",
        "Draw a straight red line on an image, as an aid for comparing or following",
        {
            "start": {**_POINT, "description": "Where the line starts, as [x, y]"},
            "end": {**_POINT, "description": "Where the line ends, as [x, y]"},
            "img_idx": INDEX_SCHEMA,
        },
    )

    def call(self, arguments: dict[str, Any], images: Sequence[EncodedImage]) -> ToolResult:
        """The image with the line. Raises ToolError: an argument is missing or wrong, or a point lies outside."""
        start, end = (point(name, required(arguments, name)) for name in ("start", "end"))
        image = chosen(arguments, images)
        line = _in_pixels(start, end, image)
        ImageDraw.Draw(image).line(line.numbers, fill=RED, width=max(2, round(max(image.size) * LINE_SHARE)))
        return ToolResult(images=[encoded(image)])


class MarkPoints(Tool):
    """Numbered marks."""

    schema: ClassVar[dict[str, Any]] = function_schema(
        "mark_points",
        "Mark points on an image with red discs numbered from 1, as an aid for counting",
        {
            "points": {
                "type": "array",
                "items": _POINT,
                "minItems": 1,
                "maxItems": MAX_POINTS,
                "description": "The points, each as [x, y]",
            },
            "img_idx": INDEX_SCHEMA,
        },
    )

    def call(self, arguments: dict[str, Any], images: Sequence[EncodedImage]) -> ToolResult:
        """The image with its marks. Raises ToolError: an argument is missing or wrong, or a point lies outside."""
        given = list_of("points", required(arguments, "points"), "[[x, y], ...]", MAX_POINTS)
        points = [point(f"points[{place}]", one) for place, one in enumerate(given)]
        image = chosen(arguments, images)
        draw, radius = ImageDraw.Draw(image), max(4, round(max(image.size) * MARK_SHARE))
        for number, one in enumerate(points, 1):
            x, y = _in_pixels(one, one, image).numbers[:2]
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=RED)
            draw.text((x, y), str(number), fill=WHITE, anchor="mm", font=ImageFont.load_default(size=radius))
        return ToolResult(text=f"marked {len(points)} point{'s' if len(points) > 1 else ''}", images=[encoded(image)])


def _in_pixels(start: tuple[float, float], end: tuple[float, float], image: Image.Image) -> OriginalBox:
    """Two points as one box, whose corners they are; it may be inverted."""
    return RelativeBox(*start, *end).in_original(Size(*image.size))
