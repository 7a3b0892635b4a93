"""Pictures are decoded once for as long as they are remembered."""

import io

import pytest
from PIL import Image

from posttrain.data import images
from posttrain.types import EncodedImage


def picture(shade, side=10):
    file = io.BytesIO()
    Image.new("L", (side, side), shade).save(file, "PNG")
    return EncodedImage(data=file.getvalue(), width=side, height=side)


@pytest.fixture
def decoded(monkeypatch):
    """The widths of the pictures that were decoded, in order."""
    seen, decode = [], images.decode
    monkeypatch.setattr(images, "decode", lambda image: (seen.append(image.width), decode(image))[1])
    return seen


def test_a_picture_is_decoded_once(decoded):
    decoder = images.Decoder()
    for shade in (3, 7, 3):
        assert decoder(picture(shade)).getpixel((0, 0)) == (shade,) * 3
    assert len(decoded) == 2


def test_what_was_asked_for_longest_ago_is_forgotten(decoded):
    decoder = images.Decoder(max_pixels=200)
    first, second, third = (picture(shade) for shade in (1, 2, 3))
    for image in (first, second, first, third, first, second):
        decoder(image)
    assert len(decoded) == 4  # the second was forgotten for the third, and then decoded again


def test_a_picture_larger_than_all_that_is_remembered(decoded):
    decoder = images.Decoder(max_pixels=100)
    for image in (picture(1, side=20), picture(2), picture(1, side=20)):
        assert decoder(image).width == image.width
    assert decoded == [20, 10, 20]
