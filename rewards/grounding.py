"""The reward `iou`: the answer is one box, and it is scored by its overlap with the reference box.

Left out on purpose: several objects and their labels (`detection`), and bonuses above a threshold: the overlap is the score.
"""

from posttrain.rewards.base import Reward, answer_text
from posttrain.rewards.boxes import iou, reference_boxes, shapes
from posttrain.types import Episode, Prompt


class Grounding(Reward):
    """Intersection over union of the answer's last box and the reference box."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """|A n B| / |A u B| of areas in the relative frame 0..1000, so in [0, 1], and 1.0 for the same box alone.

        The reference is {"bbox_2d": [x1, y1, x2, y2]} or the four numbers. An answer without a box, or whose last one is
        invalid (x2 <= x1, y2 <= y1, not four finite numbers), scores 0.0; boxes before the last are drafts. Raises ValueError:
        the reference is not one valid box.
        """
        references = reference_boxes(prompt.reference)
        if len(references) != 1:
            raise ValueError(f"the reference holds {len(references)} boxes, expected 1; the reward `detection` takes several")
        predicted = shapes(answer_text(episode), "bbox_2d", 4)
        return iou(predicted[-1].numbers, references[0].numbers) if predicted else 0.0
