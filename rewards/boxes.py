"""Boxes and points: reading them out of answers and references, and the overlap of two boxes. Not a reward itself.

Coordinates are Qwen3-VL's relative frame: 0..1000 along each side of the image, from the top left corner, whatever its size
in pixels. A box is (x1, y1, x2, y2), a point (x, y).

Left out on purpose: pixel coordinates, masks and polygons, rotated boxes, and mending of broken JSON.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

FRAME = 1000
# Innermost brackets only: a run ends at the next bracket of its kind, so a search takes time linear in the text.
_OBJECT = re.compile(r"\{[^{}]*\}")
_LIST = re.compile(r"[\[(]([^\[\](){}]*)[\])]")


@dataclass(frozen=True, slots=True)
class Shape:
    """A box or a point that was stated: two or four finite numbers, or none at all where what was stated is no such thing."""

    numbers: tuple[float, ...]
    label: str | None = None


def shapes(answer: str, key: str, length: int) -> list[Shape]:
    """What `answer` states, in its order: each of `length` numbers under `key` ("bbox_2d", "point_2d").

    Where the answer has ```json fences only the last one is read. The first of these that finds anything is used: JSON
    objects with `key` (flat: an object that holds another is not seen); bracketed lists of exactly `length` numbers; a text
    that is nothing but those numbers. A stated shape that cannot be used (NaN, text, another length) has no numbers; an
    answer without any shape is an empty list.
    """
    _, fence, fenced = answer.rpartition("```json")
    text = fenced.partition("```")[0] if fence else answer
    records = [record for found in _OBJECT.findall(text) if key in (record := _flat_object(found))]
    if records:
        return [Shape(_finite(record[key], length), _label(record)) for record in records]
    rows = [row.split(",") for row in [*_LIST.findall(text), text.strip()] if row.count(",") == length - 1] or [text.split(maxsplit=length)]
    return [Shape(_finite(row, length)) for parts in rows if len(row := _floats(parts)) == length]


def reference_boxes(reference: Any) -> list[Shape]:
    """The boxes of a reference: one box or a list of boxes, each {"bbox_2d": [x1, y1, x2, y2], "label": ...} or four numbers.

    The label may be missing; an empty list is no boxes. Raises ValueError: not that, or a box that is empty or reaches out of
    0..1000 (pixel coordinates, as a rule): a mistake in the data.
    """
    is_one = isinstance(reference, dict) or (_is_list(reference) and len(reference) == 4 and not any(map(_is_box_like, reference)))
    boxes = [reference] if is_one else reference
    if not _is_list(boxes):
        raise ValueError(f"the reference is {reference!r}, expected a box, such as {{'bbox_2d': [0, 0, 1000, 1000]}}, or a list of boxes")
    return [_reference_box(box) for box in boxes]


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Area of the intersection / area of the union, in [0, 1]; a, b: (x1, y1, x2, y2) in one frame.

    0.0 when either box is invalid, that is, when it has no area (x2 <= x1, y2 <= y1) or is not four numbers. Symmetric, and
    1.0 for equal boxes alone.
    """
    if not _area(a) or not _area(b):
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    return intersection / (_area(a) + _area(b) - intersection)


def _area(box: tuple[float, ...]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) if len(box) == 4 else 0.0


def _flat_object(text: str) -> dict[str, Any]:
    try:
        # parse_int: an int() of thousands of digits is refused, a float is merely infinite.
        record: dict[str, Any] = json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        return {}
    return record


def _label(record: dict[str, Any]) -> str | None:
    label = record.get("label")
    return label if isinstance(label, str) else None


def _floats(parts: list[str]) -> list[float]:
    try:
        return [float(part) for part in parts]
    except ValueError:
        return []


def _finite(values: Any, length: int) -> tuple[float, ...]:
    """`values` as `length` finite floats, or nothing."""
    if not _is_list(values) or len(values) != length:
        return ()
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return ()
    return tuple(map(float, values)) if all(map(math.isfinite, values)) else ()


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_box_like(value: Any) -> bool:
    return isinstance(value, dict) or _is_list(value)


def _reference_box(value: Any) -> Shape:
    record = value if isinstance(value, dict) else {"bbox_2d": value}
    box, label = _finite(record.get("bbox_2d"), 4), record.get("label")
    if not _area(box) or min(box) < 0 or max(box) > FRAME:
        raise ValueError(f"a box of the reference is {value!r}, expected [x1, y1, x2, y2] with 0 <= x1 < x2 <= {FRAME}, and y likewise")
    if not isinstance(label, str | None):
        raise ValueError(f"the label of a box of the reference is {label!r}, expected a text or none")
    return Shape(box, label)
