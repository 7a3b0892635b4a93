"""Reading a policy's arguments: what is wrong with one becomes a text that the policy can act on. Shared by the image tools.

Arguments are any JSON, and more: NaN, numbers of a thousand digits, texts of a hundred megabytes. Nothing here repeats them
back at length or trusts their size.
"""

from collections.abc import Sequence
from typing import Any

from posttrain.frames import FULL
from posttrain.rollout.tools.base import ToolError
from posttrain.types import EncodedImage

MAX_MAGNITUDE = 1e9
"""Coordinates and angles beyond it are nobody's intention."""
NAMES = {bool: "true or false", str: "a text", dict: "an object", type(None): "null", list: "a list"}


def required(arguments: dict[str, Any], name: str) -> Any:
    """The argument `name`.

    Raises ToolError: it is missing.
    """
    if name not in arguments:
        raise ToolError(f"{name} is missing")
    return arguments[name]


def number(name: str, value: Any) -> float:
    """A finite number of reasonable size.

    Raises ToolError.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ToolError(f"{name} is {NAMES.get(type(value), 'something else')}, expected a number")
    if not -MAX_MAGNITUDE <= value <= MAX_MAGNITUDE:  # so NaN and whole numbers that no float holds are refused too
        raise ToolError(f"{name} is not a finite number of reasonable size")
    return float(value)


def numbers(name: str, value: Any, meaning: str) -> list[float]:
    """As many numbers as `meaning` names, such as "[x, y]".

    Raises ToolError.
    """
    count = meaning.count(",") + 1
    if not isinstance(value, list | tuple):
        raise ToolError(f"{name} is {NAMES.get(type(value), 'something else')}, expected {meaning}")
    if len(value) != count:
        raise ToolError(f"{name} has {len(value)} entries, expected {meaning}")
    return [number(f"{name}[{place}]", entry) for place, entry in enumerate(value)]


def point(name: str, value: Any) -> tuple[float, float]:
    """A point of the picture in the relative frame.

    Raises ToolError: no point, or outside the picture.
    """
    x, y = numbers(name, value, "[x, y]")
    if not (0 <= x <= FULL and 0 <= y <= FULL):
        raise ToolError(f"{name} is outside the picture, expected [x, y] from 0 to {FULL:.0f}")
    return x, y


def text(name: str, value: Any) -> str:
    """A text.

    Raises ToolError.
    """
    if not isinstance(value, str):
        raise ToolError(f"{name} is {NAMES.get(type(value), 'a number')}, expected a text")
    return value


def image_index(value: Any, images: Sequence[EncodedImage]) -> int:
    """Which image is meant, counted from 0.

    Raises ToolError: no whole number, or no such image.
    """
    index = number("img_idx", value)
    if not images:
        raise ToolError("there is no image in this conversation")
    if index != int(index) or not 0 <= index < len(images):
        expected = f"a whole number from 0 to {len(images) - 1}" if len(images) > 1 else "0"
        raise ToolError(f"img_idx is {index:g}, expected {expected}")
    return int(index)


def list_of(name: str, value: Any, meaning: str, most: int) -> list[Any]:
    """A list of 1 to `most` entries, whatever they are.

    Raises ToolError.
    """
    if not isinstance(value, list | tuple):
        raise ToolError(f"{name} is {NAMES.get(type(value), 'a number')}, expected {meaning}")
    if not 1 <= len(value) <= most:
        raise ToolError(f"{name} has {len(value)} entries, expected {meaning} with 1 to {most}")
    return list(value)
