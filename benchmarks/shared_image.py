"""A group of 16 on a prompt with an image of 1,024 tokens, with and without a shared prefix: `shared_image.py` prints JSON.

A Qwen3-VL of 7 million random parameters, float32. Without a shared prefix the prompt stands once an episode; an image that several
episodes of a micro-batch show is encoded once in both.
"""

import io
import json
import tempfile

import numpy as np
import torch
from learner import accumulate_gradient, make_learner, random_groups, seconds_of_a_step
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from posttrain.builtin_models import resolve
from posttrain.builtin_vision import draw_weights
from posttrain.model import load_model
from posttrain.packing import pack
from posttrain.pixels import PixelReader, image_geometry, save_processor
from posttrain.types import Batch, EncodedImage, Group

GROUP_SIZE, COMPLETION_TOKENS, TEXT_TOKENS, IMAGE_SIDE = 16, 32, 32, 1024
TEXT = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4}
VISION = {"hidden_size": 128, "intermediate_size": 384, "depth": 4, "num_heads": 4, "out_hidden_size": 256}


def measure() -> dict[str, object]:
    """Median seconds of an optimizer step each way, and the difference of the gradients over their norm."""
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder)
        groups = visual_groups(folder)
        on, off = (packed(groups, folder, shared_prefix) for shared_prefix in (True, False))
        first, second = (gradient(folder, batches) for batches in (on, off))
        learner = make_learner(folder, dtype="float32")
        on_s, off_s = (seconds_of_a_step(learner, batches) for batches in (on, off))
        return {
            "tokens_on": sum(batch.num_tokens for batch in on),
            "tokens_off": sum(batch.num_tokens for batch in off),
            "on_s": on_s,
            "off_s": off_s,
            "speed_up": off_s / on_s,
            "gradient_difference": ((first - second).norm() / second.norm()).item(),
            "parameters": learner.model.num_parameters(),
        }


def make_model(folder: str) -> None:
    """A larger builtin:tiny_vl."""
    path = resolve("builtin:tiny_vl")
    config = AutoConfig.from_pretrained(path)
    config.text_config.update(TEXT)
    config.vision_config.update(VISION)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    draw_weights(model)
    model.save_pretrained(folder)
    save_processor(path, folder)


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


def gradient(path: str, batches: list[Batch]) -> torch.Tensor:
    """Of the advantage-weighted log-probabilities."""
    model = load_model(path, "float32")
    accumulate_gradient(model, batches, chunk_mb=100.0, pixels=PixelReader(path))
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


if __name__ == "__main__":
    print(json.dumps(measure()))
