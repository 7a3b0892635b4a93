"""The image tools: pixel arithmetic against golden values, and any arguments whatever answered by a text."""

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from posttrain import plugins
from posttrain.data.images import decode
from posttrain.frames import OriginalBox, RelativeBox, ResizedBox, Size, fitted
from posttrain.rollout.tools.base import Tool, ToolError, ToolResult
from posttrain.rollout.tools.drawing import DrawLine, MarkPoints
from posttrain.rollout.tools.images import encoded
from posttrain.rollout.tools.rotate import Rotate
from posttrain.rollout.tools.zoom import ZoomIn, region_of, zoomed

TOOLS = [ZoomIn(), Rotate(), DrawLine(), MarkPoints()]
BOX = {"bbox_2d": [0, 0, 500, 500], "label": "x", "img_idx": 0}


def picture(width, height):
    """Every pixel says where it is."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x % 256, y % 256, (x // 256) * 16 + y // 256], -1).astype(np.uint8))


IMAGES = [encoded(picture(400, 300)), encoded(picture(64, 20))]


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ((0, 0, 1000, 1000), (1024, 768), (0, 0, 1024, 768)),
        ((125, 250, 250, 500), (1024, 1024), (128, 256, 256, 512)),
        ((100, 200, 300, 400), (4000, 3000), (400, 600, 1200, 1200)),
        ((333, 333, 667, 667), (1000, 100), (333, 33, 667, 67)),
        ((500, 500, 501, 501), (1024, 1024), (497, 497, 529, 529)),  # centre 512.512: 16 each way
        ((500, 500, 501, 900), (1024, 1024), (497, 512, 529, 922)),  # the short side alone
        ((0, 0, 1, 1), (1024, 1024), (0, 0, 32, 32)),  # moved inside
        ((999, 999, 1000, 1000), (1024, 1024), (992, 992, 1024, 1024)),
        ((-50, -50, 100, 100), (1000, 1000), (0, 0, 100, 100)),
        ((900, 900, 5000, 1e9), (1000, 1000), (900, 900, 1000, 1000)),
        ((0, 0, 1000, 1000), (10, 2000), (0, 0, 10, 2000)),  # a picture narrower than 32 pixels
        ((400, 0, 600, 10), (10, 2000), (0, 0, 10, 32)),
    ],
)
def test_the_region(box, size, expected):
    assert tuple(map(round, region_of(RelativeBox(*box), Size(*size)).numbers)) == expected


@given(
    st.tuples(*[st.floats(-200, 1200)] * 4),
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
)
def test_a_region_of_lies_inside_and_is_not_small(corners, size):
    x1, y1, x2, y2 = corners
    try:
        left, top, right, bottom = region_of(RelativeBox(*corners), Size(*size)).numbers
    except ToolError:
        assert x2 <= x1 or y2 <= y1 or x2 <= 0 or y2 <= 0 or x1 >= 1000 or y1 >= 1000
        return
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert right - left >= min(32, size[0]) - 1e-9 and bottom - top >= min(32, size[1]) - 1e-9
    exact = RelativeBox(max(x1, 0), max(y1, 0), min(x2, 1000), min(y2, 1000)).in_original(Size(*size))
    if exact.x2 - exact.x1 > 32:
        assert (left, right) == pytest.approx((exact.x1, exact.x2))
    else:
        assert abs((left + right) / 2 - (exact.x1 + exact.x2) / 2) <= 16


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((128, 128), (512, 512)),  # up to 256 tokens
        ((512, 512), (512, 512)),
        ((500, 530), (512, 544)),
        ((300, 100), (896, 320)),  # sqrt(262144 / 30000) = 2.956: 886.8 and 295.6, up
        ((8000, 6000), (4128, 3072)),  # sqrt(12845056 / 48e6) = 0.5173: 4138.5 and 3103.9, down
        ((102.4, 102.4), (512, 512)),
        ((0.1 * 1024, (0.35 - 0.25) * 1024), (512, 512)),  # a box that is square but for the last bit
    ],
)
def test_the_shown_size(size, expected):
    assert fitted(*size, multiple=32, min_pixels=262_144, max_pixels=12_845_056) == expected


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_shown_sizes_are_multiples_within_the_limits(width, height):
    shown = fitted(width, height, multiple=32, min_pixels=262_144, max_pixels=12_845_056)
    assert shown.width % 32 == shown.height % 32 == 0 and min(shown) >= 32
    if max(width, height) <= 100 * min(width, height):
        assert 262_144 <= shown.width * shown.height <= 12_845_056


def test_fitted_agrees_with_the_image_processor():
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    for width, height in [(128, 128), (640, 480), (3000, 2000), (100, 90), (33, 1000), (5000, 5000)]:
        theirs = smart_resize(height, width, factor=32, min_pixels=65536, max_pixels=2_000_000)
        assert fitted(width, height, multiple=32, min_pixels=65536, max_pixels=2_000_000) == (theirs[1], theirs[0])


@given(st.tuples(*[st.floats(0, 1000)] * 4), st.tuples(st.integers(1, 9000), st.integers(1, 9000)))
def test_frames_turn_into_one_another_and_back(corners, size):
    box = RelativeBox(*corners)
    assert box.in_original(Size(*size)).in_relative(Size(*size)).numbers == pytest.approx(corners, abs=1e-6)
    assert box.in_resized(Size(*size)).in_relative(Size(*size)).numbers == pytest.approx(corners, abs=1e-6)


def test_frames_of_a_picture_that_was_shrunk():
    original, resized = Size(4000, 3000), Size(1312, 992)
    box = OriginalBox(400, 600, 1200, 1200).in_relative(original)
    assert box.numbers == pytest.approx((100, 200, 300, 400))
    assert box.in_resized(resized).numbers == pytest.approx((131.2, 198.4, 393.6, 396.8))
    assert ResizedBox(131.2, 198.4, 393.6, 396.8).in_relative(resized).in_original(original).numbers == pytest.approx(
        (400, 600, 1200, 1200)
    )


def test_a_crop_has_the_original_pixels():
    source = picture(2048, 1024)
    crop = zoomed(source, RelativeBox(250, 500, 500, 1000))
    assert crop.size == (512, 512)
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(source)[512:1024, 512:1024])
    nearest = zoomed(source, RelativeBox(250.3, 500, 500.3, 1000))  # from 512.6 to 1024.6
    np.testing.assert_array_equal(np.asarray(nearest), np.asarray(source)[512:1024, 513:1025])


def test_a_strip_that_no_image_processor_takes_is_told():
    with pytest.raises(ToolError, match="bbox_2d is a strip of 8000 x 32 pixels, expected one side at most 150 times the other"):
        zoomed(Image.new("RGB", (8000, 400)), RelativeBox(0, 0, 1000, 1))
    assert zoomed(Image.new("RGB", (4800, 400)), RelativeBox(0, 0, 1000, 1)).size == (6272, 64)


def test_any_earlier_image_can_be_meant():
    [shown] = ZoomIn().call({"bbox_2d": [0, 0, 1000, 1000], "label": "", "img_idx": 1.0}, IMAGES).images
    assert (shown.width, shown.height) == (928, 288) and decode(shown).size == (928, 288)
    assert Image.open(io.BytesIO(shown.data)).format == "PNG"


def test_quarter_turns_lose_nothing_and_others_cut_nothing_off():
    [turned] = Rotate().call({"angle": 90, "img_idx": 0}, IMAGES).images
    np.testing.assert_array_equal(np.asarray(decode(turned)), np.rot90(np.asarray(picture(400, 300)), -1))
    [slanted] = Rotate().call({"angle": -30.0, "img_idx": 0}, IMAGES).images
    width = 400 * math.cos(math.pi / 6) + 300 * math.sin(math.pi / 6)
    assert abs(slanted.width - width) <= 2


def test_what_is_drawn_stands_where_it_was_asked_for():
    before = np.asarray(decode(IMAGES[0])).astype(int)
    [lined] = DrawLine().call({"start": [100, 500], "end": [900, 500], "img_idx": 0}, IMAGES).images
    changed = np.argwhere((np.asarray(decode(lined)) != before).any(-1))
    assert abs(changed[:, 0].mean() - 150) <= 1 and abs(changed[:, 1].min() - 40) <= 1 and abs(changed[:, 1].max() - 360) <= 1
    marked = MarkPoints().call({"points": [[250, 500]], "img_idx": 0}, IMAGES)
    changed = np.argwhere((np.asarray(decode(marked.images[0])) != before).any(-1))
    assert np.abs(changed.mean(0) - [150, 100]).max() <= 1 and marked.text == "marked 1 point"


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        (ZoomIn, {"label": "x", "img_idx": 0}, "bbox_2d is missing"),
        (ZoomIn, {**BOX, "bbox_2d": [500, 0, 100, 500]}, "bbox_2d has no area, expected [x1, y1, x2, y2] with x1 < x2 and y1 < y2"),
        (ZoomIn, {**BOX, "bbox_2d": [1000, 0, 1100, 500]}, "bbox_2d lies outside the image, expected coordinates from 0 to 1000"),
        (ZoomIn, {**BOX, "bbox_2d": [0, 0, 1]}, "bbox_2d has 3 entries, expected [x1, y1, x2, y2]"),
        (ZoomIn, {**BOX, "bbox_2d": "0, 0, 1, 1"}, "bbox_2d is a text, expected [x1, y1, x2, y2]"),
        (ZoomIn, {**BOX, "bbox_2d": [0, 0, float("nan"), 1]}, "bbox_2d[2] is not a finite number of reasonable size"),
        (ZoomIn, {**BOX, "bbox_2d": [0, 0, 10**400, 1]}, "bbox_2d[2] is not a finite number of reasonable size"),
        (ZoomIn, {**BOX, "bbox_2d": [0, 0, True, 1]}, "bbox_2d[2] is true or false, expected a number"),
        (ZoomIn, {**BOX, "img_idx": -1}, "img_idx is -1, expected a whole number from 0 to 1"),
        (ZoomIn, {**BOX, "img_idx": 2}, "img_idx is 2, expected a whole number from 0 to 1"),
        (ZoomIn, {**BOX, "img_idx": 0.5}, "img_idx is 0.5, expected a whole number from 0 to 1"),
        (ZoomIn, {**BOX, "label": 7}, "label is a number, expected a text"),
        (Rotate, {"angle": "90", "img_idx": 0}, "angle is a text, expected a number"),
        (DrawLine, {"start": [0, 0], "end": [0, 1001], "img_idx": 0}, "end is outside the picture, expected [x, y] from 0 to 1000"),
        (MarkPoints, {"points": [], "img_idx": 0}, "points has 0 entries, expected [[x, y], ...] with 1 to 100"),
        (MarkPoints, {"points": [[1, 2], [3]], "img_idx": 0}, "points[1] has 1 entries, expected [x, y]"),
    ],
)
def test_mistakes_are_told(tool, arguments, message):
    with pytest.raises(ToolError) as raised:
        tool().call(arguments, IMAGES)
    assert str(raised.value) == message


def test_without_an_image_that_is_what_is_told():
    for tool in TOOLS:
        arguments = {**BOX, "angle": 1, "start": [0, 0], "end": [1, 1], "points": [[0, 0]]}
        with pytest.raises(ToolError, match="there is no image in this conversation"):
            tool.call(arguments, [])


HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 1003)
    | st.sampled_from([10**400, -(10**400), 2**63, 1e308])
    | st.floats()
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
NUMBERS = st.integers(-100, 1100) | st.floats(allow_nan=True) | HOSTILE
NAMES = ("bbox_2d", "label", "img_idx", "angle", "start", "end", "points")
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "bbox_2d": st.lists(NUMBERS, min_size=4, max_size=4) | HOSTILE,
        "label": st.text() | HOSTILE,
        "img_idx": st.integers(0, 1) | HOSTILE,
        "angle": NUMBERS,
        "start": st.lists(NUMBERS, min_size=2, max_size=2) | HOSTILE,
        "end": st.lists(NUMBERS, min_size=2, max_size=2) | HOSTILE,
        "points": st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=3) | HOSTILE,
        "else": HOSTILE,
    },
)


@settings(max_examples=500)
@given(st.sampled_from(TOOLS), ARGUMENTS)
def test_hostile_arguments_are_answered(tool, arguments):
    try:
        result = tool.call(arguments, IMAGES)
    except ToolError as error:
        assert 0 < len(str(error)) < 200 and "\n" not in str(error)
    else:
        assert isinstance(result, ToolResult) and all(decode(image).size == (image.width, image.height) for image in result.images)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: type(tool).__name__)
@pytest.mark.parametrize("name", NAMES)
def test_huge_arguments_are_answered_briefly(tool, name):
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    valid = {**BOX, "angle": 1, "start": [0, 0], "end": [1, 1], "points": [[0, 0]]}
    for huge in ("x" * 100_000_000, nested, [0] * 1_000_000):
        try:
            tool.call({**valid, name: huge}, IMAGES)
        except ToolError as error:
            assert len(str(error)) < 200


def test_the_tools_are_registered_under_the_names_in_their_schemas():
    for tool in TOOLS:
        found = plugins.load("posttrain.tools", tool.schema["function"]["name"])
        assert found is type(tool) and issubclass(found, Tool)
        assert tool.schema["function"]["parameters"]["required"] == [*tool.schema["function"]["parameters"]["properties"]]
