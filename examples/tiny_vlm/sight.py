"""Teaching the vision tower to see, before there is any language: where is the digit, and which one is it?

Each picture holds one digit, either as large as in a crop or as small as in a whole picture. Small heads on the tower's output tokens say
which token holds the digit's centre, its place on a grid of 20 x 20, and, for a large one, its label. Through a language model's answer
alone the same takes many times as long: nothing tells the tower which token was meant. The heads are thrown away.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from batches import IGNORED, PATCH, SIDE, Encoder, drawn_moves, moved, pixel_values
from lessons import STEP, TRAIN_HANDS, WIDTH
from torch import Tensor, nn

from posttrain.data.generated.digits import PER_HAND, digit
from posttrain.data.generated.find_and_read import MAX_DIGIT, MIN_DIGIT
from posttrain.data.generated.pictures import COLOURS, SHAPES, Scene, places
from posttrain.data.images import decode
from posttrain.frames import FULL, Size

TOKENS_PER_SIDE = 4
BINS = int(FULL) // STEP
LARGE_SIDE, SMALL_SIDE = 112, 512
"""Pixels of the pictures that are drawn: a crop's, and enough for a view."""


@dataclass(slots=True)
class Sights:
    """Pictures with one digit: patches (N, 64, 768) uint8; labels (N,), IGNORED where it is too small; centres (N, 2) in 0..1000."""

    patches: Tensor
    labels: Tensor
    centres: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, places: Tensor) -> "Sights":
        """Some of them."""
        return Sights(self.patches[places], self.labels[places], self.centres[places])

    def moved(self, rng: Random) -> "Sights":
        """Each by a few pixels, so that few are seen twice."""
        moves = drawn_moves(len(self), rng)
        centres = self.centres + torch.tensor(moves) * (FULL / (SIDE * PATCH))
        return Sights(moved(self.patches, moves), self.labels, centres)


def large(encoder: Encoder, rng: Random, number: int) -> Sights:
    """Digits of the size that they have in crops."""
    return _drawn(encoder, rng, number, FULL / WIDTH, LARGE_SIDE)


def small(encoder: Encoder, rng: Random, number: int) -> Sights:
    """Digits of the size that they have in whole pictures, beside three shapes."""
    return _drawn(encoder, rng, number, 1.0, SMALL_SIDE)


def _drawn(encoder: Encoder, rng: Random, number: int, magnified: float, side: int) -> Sights:
    size, patches, labels, centres = Size(side, side), [], [], []
    for _ in range(number):
        scene, label = Scene(size), rng.randrange(10)
        num_shapes = 3 if magnified == 1 else 0
        boxes = places(rng, size, [rng.uniform(MIN_DIGIT, MAX_DIGIT) * magnified * side for _ in range(1 + num_shapes)])
        for box in boxes[1:]:
            scene.shape(box, rng.choice(SHAPES), rng.choice([*COLOURS]))
        scene.handwriting(boxes[0], digit(rng.choice(TRAIN_HANDS), label, rng.randrange(PER_HAND)))
        x1, y1, x2, y2 = boxes[0].in_relative(size).numbers
        patches.append(encoder.pixels([decode(scene.encoded())])[0])
        labels.append(IGNORED if magnified == 1 else label)
        centres.append([(x1 + x2) / 2, (y1 + y2) / 2])
    return Sights(torch.stack(patches), torch.tensor(labels), torch.tensor(centres))


class Heads(nn.Module):
    """What is asked of the tower's tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.here = nn.Linear(width, 1)
        self.label = nn.Linear(width, 10)
        self.place = nn.Linear(width, 2 * BINS)

    def loss(self, tower: Any, sights: Sights) -> Tensor:
        """Cross-entropies of token, place and label, added up."""
        grid = torch.tensor([[1, SIDE, SIDE]]).expand(len(sights), 3)
        seen_NTD = tower(pixel_values(sights.patches), grid_thw=grid).pooler_output.view(len(sights), TOKENS_PER_SIDE**2, -1)
        column, row = (sights.centres * TOKENS_PER_SIDE / FULL).long().clamp(0, TOKENS_PER_SIDE - 1).T
        token = row * TOKENS_PER_SIDE + column
        at_ND = seen_NTD[torch.arange(len(sights)), token]
        bins = (sights.centres / STEP).long().clamp(0, BINS - 1)
        num_labels = max(1, int((sights.labels != IGNORED).sum()))
        label = F.cross_entropy(self.label(at_ND), sights.labels, ignore_index=IGNORED, reduction="sum") / num_labels
        place = F.cross_entropy(self.place(at_ND).view(-1, BINS), bins.flatten()) * 2
        return F.cross_entropy(self.here(seen_NTD)[..., 0], token) + place + label
