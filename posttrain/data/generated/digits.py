"""Real handwritten digits: 8 x 8 pixels each, ten labels, 174 of each.

They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998,
CC BY 4.0), as scikit-learn carries it, in one picture: `digits.png`, a row a label, 15 grey levels a unit of ink (0..16).

Held-out problems hold held-out digits, whatever `task.heldout_fraction` is: digits come in hands of two of each label, a
problem takes all its digits from one hand, and the hand decides which half the problem is in.
"""

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 8
PER_HAND = 2
"""Digits of each label in a hand."""
NUM_HANDS = 87
SHEET = Path(__file__).with_name("digits.png")


@functools.cache
def _sheet() -> NDArray[np.uint8]:
    with Image.open(SHEET) as image:
        return np.asarray(image)


def digit(hand: int, label: int, number: int) -> NDArray[np.uint8]:
    """Ink of the digit `label`, number 0 or 1 of its hand: (8, 8), 0 (none) to 240 (most)."""
    column = hand * PER_HAND + number
    return _sheet()[label * SIDE : (label + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
