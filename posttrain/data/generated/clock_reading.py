"""An analogue clock somewhere in a picture, too small to be read to the minute, among coloured shapes.

The face has a tick for each hour and two hands, the shorter one for hours. Its side is 7 to 10 % of the picture's.
"""

import math
from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import Example, Family, whole
from posttrain.data.generated.crowds import MAX_SIDE, MIN_SIDE, seen
from posttrain.data.generated.pictures import COLOURS, SHAPES, Scene, places, random_size
from posttrain.frames import OriginalBox

MIN_FACE, MAX_FACE = 0.07, 0.10
FACE_MINUTES = 720
HOURS = 12
# Lengths in radii of the face.
TICK, HOUR_HAND, MINUTE_HAND = 0.82, 0.5, 0.78


@dataclass(frozen=True, kw_only=True)
class ClockReading(Family):
    """What time is it?"""

    min_size: int = field(default=1024, metadata=whole(256, 4096))  # pixels of a side
    max_size: int = field(default=2048, metadata=whole(256, 4096))
    num_distractors: int = field(default=4, metadata=whole(0, 12))
    minute_step: int = field(default=5, metadata=whole(1, 60))  # times are multiples of it

    def example(self, rng: Random) -> Example:
        """The reference is the time, such as "3:45"."""
        size = random_size(rng, self.min_size, self.max_size)
        sides = [rng.uniform(MIN_FACE, MAX_FACE), *(rng.uniform(MIN_SIDE, MAX_SIDE) for _ in range(self.num_distractors))]
        face, *others = places(rng, size, [side * size.width for side in sides])
        scene = Scene(size)
        for box in others:
            scene.shape(box, rng.choice(SHAPES), rng.choice([*COLOURS]))
        minutes = self.minute_step * rng.randrange(FACE_MINUTES // self.minute_step)
        draw_clock(scene, face, minutes)
        time = f"{minutes // 60 or HOURS}:{minutes % 60:02}"
        return Example(
            question="What time does the clock show? Answer as hours:minutes, such as 3:45.",
            reference=time,
            solution=time,
            **seen(scene, [face], time, 1, 300),
        )


def draw_clock(scene: Scene, face: OriginalBox, minutes: int) -> None:
    """A face that shows `minutes` after twelve."""
    x, y, radius = (face.x1 + face.x2) / 2, (face.y1 + face.y2) / 2, (face.x2 - face.x1) / 2
    thin = max(1, round(radius / 20))

    def at(turn: float, length: float) -> tuple[float, float]:
        angle = 2 * math.pi * turn
        return x + math.sin(angle) * length * radius, y - math.cos(angle) * length * radius

    scene.ring(face, None, thin)
    for hour in range(HOURS):
        scene.line([at(hour / HOURS, TICK), at(hour / HOURS, 1 - 1 / 20)], None, thin)
    scene.line([(x, y), at(minutes / FACE_MINUTES, HOUR_HAND)], None, 3 * thin)
    scene.line([(x, y), at(minutes % 60 / 60, MINUTE_HAND)], None, 2 * thin)
