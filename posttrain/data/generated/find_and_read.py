"""Pictures in which a handwritten digit is too small to read until it is enlarged: one place to read, or two to compare.

A digit's side is 2.5 to 3.2 % of the picture's, three or four pixels of a 128-pixel view: enough to be seen, too little to be
read. Position and size are drawn before the digit, so they say nothing of it.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from random import Random
from typing import Any

from posttrain.data.generated.base import Example, Family, whole
from posttrain.data.generated.digits import NUM_HANDS, PER_HAND, digit
from posttrain.data.generated.pictures import COLOURS, SHAPES, Scene, places, random_size, relative
from posttrain.frames import OriginalBox

MIN_DIGIT, MAX_DIGIT = 0.025, 0.032
"""The side of a digit, in sides of the picture."""


def hand_key(hand: int) -> str:
    """What all examples with digits of a hand are split by."""
    return f"digits of hand {hand}"


@dataclass(frozen=True, kw_only=True)
class SmallDigits(Family):
    """Handwritten digits among coloured shapes of about their size."""

    min_size: int = field(default=1024, metadata=whole(256, 4096))  # pixels of a side
    max_size: int = field(default=2048, metadata=whole(256, 4096))
    num_distractors: int = field(default=3, metadata=whole(0, 12))

    def drawn(self, rng: Random, num_digits: int) -> tuple[Scene, list[OriginalBox]]:
        """A picture with its distractors, and free places for the digits."""
        size = random_size(rng, self.min_size, self.max_size)
        sides = [rng.uniform(MIN_DIGIT, MAX_DIGIT) * size.width for _ in range(num_digits + self.num_distractors)]
        boxes = places(rng, size, sides)
        scene = Scene(size)
        for box in boxes[num_digits:]:
            scene.shape(box, rng.choice(SHAPES), rng.choice([*COLOURS]))
        return scene, boxes[:num_digits]

    def written(self, rng: Random, scene: Scene, boxes: list[OriginalBox], labels: list[int]) -> dict[str, Any]:
        """Writes digits of one hand into the boxes; what the example says of them."""
        hand = rng.randrange(NUM_HANDS)
        for box, label in zip(boxes, labels, strict=True):
            scene.handwriting(box, digit(hand, label, rng.randrange(PER_HAND)))
        found = [{"bbox_2d": relative(box, scene.size), "content": str(label)} for box, label in zip(boxes, labels, strict=True)]
        return {
            "images": [scene.encoded()],
            "split_by": hand_key(hand),
            "metadata": {"scene": found, "num_calls": len(found), "legible_within": 250},
        }

    @abstractmethod
    def example(self, rng: Random) -> Example:
        """One problem."""


@dataclass(frozen=True, kw_only=True)
class FindAndRead(SmallDigits):
    """One digit to read: one call."""

    def example(self, rng: Random) -> Example:
        """The reference is the digit, as a text."""
        scene, boxes = self.drawn(rng, 1)
        label = rng.randrange(10)
        return Example(
            question="Which handwritten digit is in the picture? Answer with the digit.",
            reference=str(label),
            solution=str(label),
            **self.written(rng, scene, boxes, [label]),
        )


@dataclass(frozen=True, kw_only=True)
class CompareTwo(SmallDigits):
    """Two digits, of which one is larger as a number: both places have to be read."""

    def example(self, rng: Random) -> Example:
        """The reference is the larger digit's side, left or right of the other."""
        scene, boxes = self.drawn(rng, 2)
        boxes.sort(key=lambda box: box.x1 + box.x2)
        labels = rng.sample(range(10), 2)
        side = "left" if labels[0] > labels[1] else "right"
        return Example(
            question="There are two handwritten digits. Which is the greater number, the left one or the right one? Answer left or right.",
            reference=side,
            solution=side,
            **self.written(rng, scene, boxes, labels),
        )
