"""Pictures of many small coloured shapes: an attribute of one that is described, a count, a box.

How many shapes there are, how large they are and where they stand is drawn before what is asked, and says nothing of the answer. A shape's
side is 2.2 to 3 % of the picture's.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from posttrain.data.generated.base import Example, Family, whole
from posttrain.data.generated.pictures import COLOURS, SHAPES, Scene, places, random_size, relative
from posttrain.frames import OriginalBox

MIN_SIDE, MAX_SIDE = 0.022, 0.03
"""The side of a shape, in sides of the picture."""
NUM_QUARTERS = 4
"""A crowd is counted by looking at each quarter of the picture."""

# A shape and its colour.
Thing = tuple[str, str]
THINGS: tuple[Thing, ...] = tuple((kind, colour) for kind in SHAPES for colour in COLOURS)


@dataclass(frozen=True, kw_only=True)
class Crowd(Family):
    """Coloured shapes anywhere."""

    min_size: int = field(default=1024, metadata=whole(256, 4096))  # pixels of a side
    max_size: int = field(default=2048, metadata=whole(256, 4096))
    min_things: int = field(default=12, metadata=whole(10, 60))
    max_things: int = field(default=24, metadata=whole(10, 60))

    def drawn(self, rng: Random, asked: Sequence[Thing], others: Sequence[Thing]) -> tuple[Scene, list[OriginalBox]]:
        """The things `asked`, and of `others` as many as the crowd is to have; where the first stand."""
        size = random_size(rng, self.min_size, self.max_size)
        sides = [rng.uniform(MIN_SIDE, MAX_SIDE) * size.width for _ in range(rng.randint(self.min_things, self.max_things))]
        boxes = places(rng, size, sides)
        scene = Scene(size)
        things = [*asked, *(rng.choice(others) for _ in range(len(boxes) - len(asked)))]
        for box, (kind, colour) in zip(boxes, things, strict=True):
            scene.shape(box, kind, colour)
        return scene, boxes[: len(asked)]

    @abstractmethod
    def example(self, rng: Random) -> Example:
        """One problem."""


def seen(scene: Scene, boxes: Sequence[OriginalBox], content: str, num_calls: int, legible_within: int) -> dict[str, Any]:
    """The picture of an example, and what its metadata say of it."""
    found = [{"bbox_2d": relative(box, scene.size), "content": content} for box in boxes]
    return {"images": [scene.encoded()], "metadata": {"scene": found, "num_calls": num_calls, "legible_within": legible_within}}


@dataclass(frozen=True, kw_only=True)
class AttributeAtPlace(Crowd):
    """The colour or the shape of the one thing that a description fits."""

    def example(self, rng: Random) -> Example:
        """The reference is a colour or a shape, as a word."""
        kind, colour = rng.choice(THINGS)
        if rng.random() < 0.5:
            others = [thing for thing in THINGS if thing[0] != kind]
            question, answer = (
                f"There is exactly one {kind} in the picture. What colour is it? Answer with one of: {', '.join(COLOURS)}.",
                colour,
            )
        else:
            others = [thing for thing in THINGS if thing[1] != colour]
            question, answer = (
                f"Exactly one thing in the picture is {colour}. What shape is it? Answer with one of: {', '.join(SHAPES)}.",
                kind,
            )
        scene, boxes = self.drawn(rng, [(kind, colour)], others)
        return Example(question=question, reference=answer, solution=answer, **seen(scene, boxes, answer, 1, 400))


@dataclass(frozen=True, kw_only=True)
class CountingInCrowd(Crowd):
    """How many things are of a shape and a colour."""

    max_count: int = field(default=8, metadata=whole(1, 10))

    def example(self, rng: Random) -> Example:
        """The reference is the count, at least 1; more of the crowd share the shape or the colour."""
        kind, colour = rng.choice(THINGS)
        count = rng.randint(1, self.max_count)
        others = [thing for thing in THINGS if thing != (kind, colour)]
        alike = [thing for thing in others if thing[0] == kind or thing[1] == colour]
        scene, boxes = self.drawn(rng, [(kind, colour)] * count, others + 2 * alike)
        return Example(
            question=f"Count: how many {colour} {kind}s are in the picture? Answer with the number.".replace("crosss", "crosses"),
            reference=count,
            solution=str(count),
            **seen(scene, boxes, f"{colour} {kind}", NUM_QUARTERS, 600),
        )


@dataclass(frozen=True, kw_only=True)
class GroundingInCrowd(Crowd):
    """The box of the one thing of a shape and a colour."""

    def example(self, rng: Random) -> Example:
        """The reference is its box in 0..1000, in whole numbers; no call is expected, because a crop's frame is another."""
        kind, colour = rng.choice(THINGS)
        scene, boxes = self.drawn(rng, [(kind, colour)], [thing for thing in THINGS if thing != (kind, colour)])
        box = [round(number) for number in boxes[0].in_relative(scene.size).numbers]
        return Example(
            question=f'Where is the {colour} {kind}? Answer with its box, as JSON: {{"bbox_2d": [x1, y1, x2, y2]}}, from 0 to 1000.',
            reference={"bbox_2d": box},
            solution=f'{{"bbox_2d": {box}}}',
            **seen(scene, boxes, f"{colour} {kind}", 0, 400),
        )
