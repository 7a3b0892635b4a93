"""The reward `detection`: the answer lists the boxes of all objects, labelled or not.

Left out on purpose: confidences and average precision (a policy states boxes, it does not rank them), and optimal in place of
greedy matching.
"""

from posttrain.rewards.base import Reward, Score, answer_text
from posttrain.rewards.boxes import Shape, iou, reference_boxes, shapes
from posttrain.types import Episode, Prompt

IOU_MIN = 0.5
OVERLAP_WEIGHT = 0.7


class Detection(Reward):
    """How well the answer's boxes cover the reference boxes, and how few of either are left over."""

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """0.7 * sum IoU / #gt + 0.3 * (1 - (miss/#gt + false/#pred) / 2), in [0, 1]; 1.0 for exactly the reference boxes alone.

        The sum runs over matched pairs, miss and false are the unmatched boxes of the reference and of the answer. The
        reference is a list of boxes {"bbox_2d": [x1, y1, x2, y2], "label": ...} or [x1, y1, x2, y2], in the frame 0..1000.
        An invalid box of the answer matches nothing and counts as false. Degenerate cases: nothing to detect and an answer
        that says so (any text without a box) 1.0, and with boxes 0.0; something to detect and no box 0.0; an empty answer 0.0
        in either case, so that silence is never right. Raises ValueError: the reference is not a list of valid boxes.
        """
        references, answer = reference_boxes(prompt.reference), answer_text(episode)
        predicted = shapes(answer, "bbox_2d", 4)
        if not references or not predicted:
            value = float(bool(answer) and not references and not predicted)
            return Score(value, {"sum_iou": 0.0, "missed": len(references), "false": len(predicted)})
        overlaps = matched_overlaps(predicted, references)
        missed, false = len(references) - len(overlaps), len(predicted) - len(overlaps)
        balance = 1 - (missed / len(references) + false / len(predicted)) / 2
        value = OVERLAP_WEIGHT * (sum(overlaps) / len(references)) + (1 - OVERLAP_WEIGHT) * balance
        return Score(value, {"sum_iou": sum(overlaps), "missed": missed, "false": false})


def matched_overlaps(predicted: list[Shape], references: list[Shape]) -> list[float]:
    """IoU of each matched pair, largest first.

    Greedy: the pair of the largest IoU first (ties in the order of the reference), each box in at most one pair, down to
    IOU_MIN. Where the reference box has a label the other must have the same, but for case and white space.
    """
    pairs = [
        (overlap, r, p)
        for r, reference in enumerate(references)
        for p, shape in enumerate(predicted)
        if (overlap := iou(shape.numbers, reference.numbers)) >= IOU_MIN and _labels_agree(shape.label, reference.label)
    ]
    overlaps: list[float] = []
    used_references: set[int] = set()
    used_predictions: set[int] = set()
    for overlap, r, p in sorted(pairs, key=lambda pair: -pair[0]):
        if r not in used_references and p not in used_predictions:
            overlaps.append(overlap)
            used_references.add(r)
            used_predictions.add(p)
    return overlaps


def _labels_agree(predicted: str | None, reference: str | None) -> bool:
    return reference is None or (predicted is not None and predicted.casefold().split() == reference.casefold().split())
