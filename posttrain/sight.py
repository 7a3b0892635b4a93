"""The blind test: whether the learner looks at images at all.

A learner that never receives the pixels trains with a loss that looks normal. So its log-probabilities of a few texts with images
are compared with those of the same texts with blank images: where nothing differs, the run stops.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from posttrain.data.images import blank
from posttrain.errors import RunError
from posttrain.fleet import Learners
from posttrain.inputs import Inputs
from posttrain.packing import sequence_batch
from posttrain.stats import Row
from posttrain.types import Batch

NUM_BATCHES = 4
SMALLEST_DIFFERENCE = 1e-6
"""Nats. Two passes over the same numbers give the same numbers; any use of the pixels gives much more."""


def prompts_to_look_at(inputs: Inputs) -> list[Batch]:
    """The first training prompts with images, each scored as a whole; none where the run is of text."""
    prompts = (pair for task in inputs.tasks.values() for pair in task.train)
    return first_with_images(sequence_batch(token_ids, prompt.images, inputs.geometry) for prompt, token_ids in prompts if prompt.images)


def first_with_images(batches: Iterable[Batch]) -> list[Batch]:
    """A few of these that show images."""
    found: list[Batch] = []
    for batch in batches:
        if batch.images and len(found) < NUM_BATCHES:
            found.append(batch)
    return found


def check_sight(learners: Learners, batches: Sequence[Batch]) -> Row:
    """How far log-probabilities with true and with blank images differ, as metrics; nothing where there are no batches.

    Raises:
        RunError: they do not.
    """
    if not batches:
        return {}
    seen = learners.score(batches)
    unseen = learners.score([replace(batch, images=[blank(image) for image in batch.images]) for batch in batches])
    gaps = np.concatenate([np.abs(one - other)[batch.loss_weights != 0] for batch, one, other in zip(batches, seen, unseen, strict=True)])
    if not gaps.max() > SMALLEST_DIFFERENCE:  # a NaN is no difference either
        raise RunError(
            f"vision is disconnected: log-probabilities of {len(gaps)} tokens in texts with images differ by {gaps.max():.1e} at most "
            "when the images are blank; the learner does not look at them"
        )
    return {"checks/blind_abs_mean": float(gaps.mean()), "checks/blind_abs_max": float(gaps.max())}
