"""A group of 16 on a prompt with an image of 1,024 tokens, with and without a shared prefix: `shared_image.py` prints JSON.

builtin:tiny_vl, float32. Without a shared prefix the prompt stands once an episode; an image that several
episodes of a micro-batch show is encoded once in both.
"""

import io
import json

import numpy as np
import torch
from learner import accumulate_gradient, make_learner, random_groups, seconds_of_a_step
from PIL import Image

from posttrain.builtin_models import resolve
from posttrain.model import Reading, load_model
from posttrain.packing import pack
from posttrain.pixels import PixelReader, image_geometry
from posttrain.types import Batch, EncodedImage, Group

GROUP_SIZE, COMPLETION_TOKENS, TEXT_TOKENS, IMAGE_SIDE = 16, 32, 32, 1024


def measure() -> dict[str, object]:
    """Seconds of an optimizer step each way, after one to warm up, and the difference of the gradients over their norm."""
    path = resolve("builtin:tiny_vl")
    groups = visual_groups(path)
    on, off = (packed(groups, path, shared_prefix) for shared_prefix in (True, False))
    first, second = (gradient(path, batches, shared_prefix) for batches, shared_prefix in ((on, True), (off, False)))
    learner = make_learner(path, dtype="float32")
    on_s, off_s = (seconds_of_a_step(learner, batches, 1, shared_prefix) for batches, shared_prefix in ((on, True), (off, False)))
    return {
        "tokens_on": sum(batch.num_tokens for batch in on),
        "tokens_off": sum(batch.num_tokens for batch in off),
        "on_s": on_s,
        "off_s": off_s,
        "speed_up": off_s / on_s,
        "gradient_difference": ((first - second).norm() / second.norm()).item(),
    }


def visual_groups(path: str) -> list[Group]:
    """One group, its prompt an image and some text."""
    geometry = image_geometry(path)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    groups = random_groups(1, GROUP_SIZE, TEXT_TOKENS, COMPLETION_TOKENS, 250)
    for turn in (turn for group in groups for episode in group.episodes for turn in episode.turns):
        turn.token_ids += 20  # past the special tokens
    for group in groups:
        group.prompt_token_ids += 20
        group.prompt.images = [EncodedImage(data=file.getvalue(), width=IMAGE_SIDE, height=IMAGE_SIDE)]
        group.prompt_token_ids[TEXT_TOKENS // 2] = geometry.image_token_id
    return groups


def packed(groups: list[Group], path: str, shared_prefix: bool) -> list[Batch]:
    """The step's micro-batches at the default budget."""
    options = {"normalization": "sequence_mean", "microbatch_tokens": 2048}
    return pack(groups, **options, shared_prefix=shared_prefix, geometry=image_geometry(path))


def gradient(path: str, batches: list[Batch], shared_prefix: bool) -> torch.Tensor:
    """Of the advantage-weighted log-probabilities."""
    model = load_model(path, "float32")
    accumulate_gradient(model, batches, chunk_mb=100.0, pixels=PixelReader(path), reading=Reading(is_merged=shared_prefix))
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


if __name__ == "__main__":
    print(json.dumps(measure()))
