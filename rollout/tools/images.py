"""Pixels in and out of tools: files' bytes to pictures and back. Shared by the image tools."""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from posttrain.data.images import decode
from posttrain.rollout.tools.arguments import image_index, required
from posttrain.types import EncodedImage

INDEX_SCHEMA = {"type": "number", "description": "The index of the image to work on (starting from 0)"}


def chosen(arguments: dict[str, Any], images: Sequence[EncodedImage]) -> Image.Image:
    """The image that `img_idx` names, in RGB and original pixels.

    Raises ToolError: the argument is missing or names none.
    """
    return decode(images[image_index(required(arguments, "img_idx"), images)])


def encoded(image: Image.Image) -> EncodedImage:
    """A picture as PNG: quickly rather than small, as it is read again at once."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return EncodedImage(data=file.getvalue(), width=image.width, height=image.height)


def function_schema(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """A tool's schema in which every argument is required."""
    parameters = {"type": "object", "properties": properties, "required": [*properties]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
