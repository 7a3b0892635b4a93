"""Images of messages: found, read and looked at, so that a broken one is told by its row."""

import base64
import binascii
import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat, UnidentifiedImageError

from posttrain.data.messages import shorten
from posttrain.errors import UserError
from posttrain.types import EncodedImage, Message


def decode(image: EncodedImage) -> Image.Image:
    """The picture's pixels, RGB: what engine and learner both give to their image processors. Transparency becomes white."""
    with Image.open(io.BytesIO(image.data)) as opened:
        if not opened.has_transparency_data:
            return opened.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened.convert("RGBA")).convert("RGB")


class Decoder:
    """`decode` that remembers the pictures it gave last: the turns of a group's episodes ask for the same ones again and again."""

    def __init__(self, max_pixels: int = 64_000_000) -> None:
        """max_pixels: of all remembered pictures together, three bytes each."""
        self.max_pixels = max_pixels
        self._known: OrderedDict[str, Image.Image] = OrderedDict()  # by digest, the latest asked for at the end

    def __call__(self, image: EncodedImage) -> Image.Image:
        """The picture's pixels, RGB; not to be written into."""
        if image.digest not in self._known:
            self._known[image.digest] = decode(image)
        self._known.move_to_end(image.digest)
        while len(self._known) > 1 and sum(known.width * known.height for known in self._known.values()) > self.max_pixels:
            self._known.popitem(last=False)
        return self._known[image.digest]


def blank(image: EncodedImage) -> EncodedImage:
    """A picture of the same size in one shade, black for a bright one and white for a dark one, so that it always differs."""
    shade = 0 if ImageStat.Stat(decode(image).convert("L")).mean[0] > 127 else 255
    file = io.BytesIO()
    Image.new("L", (image.width, image.height), shade).save(file, format="PNG")
    return EncodedImage(data=file.getvalue(), width=image.width, height=image.height)


def data_url(image: EncodedImage) -> str:
    """The picture as it is sent inside a message."""
    with Image.open(io.BytesIO(image.data)) as opened:
        kind = opened.get_format_mimetype()
    return f"data:{kind};base64,{base64.b64encode(image.data).decode()}"


def take_images(where: str, messages: list[Message], folder: Path) -> tuple[list[Message], list[EncodedImage]]:
    """The messages with `{type: image}` for each image, as chat templates take them, and the images in their order.

    A part is {type: image, image: ...} or {type: image_url, image_url: {url: ...}} with a file (beside the data, unless its
    path is absolute), a data: URL, or, in Parquet and datasets, {bytes, path}.

    Raises UserError: an image that cannot be found or decoded.
    """
    images: list[EncodedImage] = []
    for message in messages:
        if isinstance(message["content"], list):
            found = [(i, part) for i, part in enumerate(message["content"]) if part["type"] in ("image", "image_url")]
            for i, part in found:
                message["content"][i] = {"type": "image"}
                images.append(_decodable(f"{where}: image {len(images)}", _read(where, part, folder)))
    return messages, images


def located(part: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A part that names a file beside the data, in any form that `take_images` reads, with the file's absolute path."""

    def absolute(held: Any) -> Any:
        if isinstance(held, dict):
            return {name: absolute(value) if name in ("url", "path") else value for name, value in held.items()}
        if not isinstance(held, str) or held.startswith(("data:", "http:", "https:")):
            return held
        return str((folder / held.removeprefix("file://")).absolute())

    if part["type"] not in ("image", "image_url"):
        return part
    return {name: absolute(held) if name in (part["type"], "url", "path") else held for name, held in part.items()}


def _read(where: str, part: dict[str, Any], folder: Path) -> bytes:
    held = part.get(part["type"]) or part.get("url") or part.get("path")
    if isinstance(held, dict):
        held = held.get("bytes") or held.get("url") or held.get("path")
    if isinstance(held, bytes):
        return held
    if not isinstance(held, str) or held.startswith(("http:", "https:")):
        raise UserError(f"{where}: image {shorten(held)}: expected a file, a data: URL or bytes")
    try:
        if held.startswith("data:"):
            return base64.b64decode(held.partition(",")[2], validate=True)
        return (folder / held.removeprefix("file://")).read_bytes()
    except (OSError, binascii.Error) as error:
        raise UserError(f"{where}: image {shorten(held)} cannot be read: {error}") from error


def _decodable(where: str, data: bytes) -> EncodedImage:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return EncodedImage(data=data, width=image.width, height=image.height)
    except UnidentifiedImageError as error:
        raise UserError(f"{where} is broken: it is no picture of a known format") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where} is broken: {error}") from error
