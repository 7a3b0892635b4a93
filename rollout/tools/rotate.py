"""The tool `rotate`: turns any image so far by an angle, for writing that stands on its side."""

from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image

from posttrain.rollout.tools.arguments import number, required
from posttrain.rollout.tools.base import Tool, ToolResult
from posttrain.rollout.tools.images import INDEX_SCHEMA, chosen, encoded, function_schema
from posttrain.types import EncodedImage

GROUND = (128, 128, 128)
"""What shows in the corners of a picture that was turned by no multiple of 90 degrees."""
FULL_TURN = 360


class Rotate(Tool):
    """Turns, and enlarges the frame so that nothing is cut off."""

    schema: ClassVar[dict[str, Any]] = function_schema(
        "rotate",
        "Rotate an image clockwise by an angle",
        {"angle": {"type": "number", "description": "Degrees clockwise"}, "img_idx": INDEX_SCHEMA},
    )

    def call(self, arguments: dict[str, Any], images: Sequence[EncodedImage]) -> ToolResult:
        """The turned image; quarter turns move pixels and change none. Raises ToolError: an argument is missing or wrong."""
        angle = number("angle", required(arguments, "angle"))
        image = chosen(arguments, images)
        turned = image.rotate(-angle % FULL_TURN, Image.Resampling.BICUBIC, expand=True, fillcolor=GROUND)
        return ToolResult(images=[encoded(turned)])
