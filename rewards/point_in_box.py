"""The reward `point_in_box`: the answer is a point, and it has to lie on the object.

Left out on purpose: a distance to the box's centre (any place on the object is right), and several points at once.
"""

from posttrain.rewards.base import Reward, answer_text
from posttrain.rewards.boxes import reference_boxes, shapes
from posttrain.types import Episode, Prompt


class PointInBox(Reward):
    """1.0 when the answer's last point lies in the reference box, or in any of several, 0.0 otherwise."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """x1 <= x <= x2 and y1 <= y <= y2 in the relative frame 0..1000: the border is inside.

        The point is {"point_2d": [x, y]}, [x, y], (x, y), or an answer of two numbers. The reference is
        {"bbox_2d": [x1, y1, x2, y2]}, the four numbers, or a list of such boxes. An answer without a point, or with one that
        is not two finite numbers, scores 0.0. Raises ValueError: the reference has no box, or one that is invalid.
        """
        boxes = [box.numbers for box in reference_boxes(prompt.reference)]
        if not boxes:
            raise ValueError("the reference is an empty list, expected at least one box")
        points = shapes(answer_text(episode), "point_2d", 2)
        if not points or not points[-1].numbers:
            return 0.0
        x, y = points[-1].numbers
        return float(any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes))
