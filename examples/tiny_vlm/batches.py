"""Lessons as tensors: pictures through the image processor, conversations through the chat template, what is trained marked."""

import re
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
_SAID = re.compile(r"(?<=<\|im_start\|>assistant\n).*?<\|im_end\|>", re.DOTALL)
PATCH, CHANNELS, FRAMES = 16, 3, 2
SIDE, MERGED = 8, 2
"""Patches of a picture's side, and how many of each side become one token."""
MAX_MOVE = 12
"""Pixels."""


@dataclass(slots=True)
class Sample:
    """A lesson as tokens: ids and labels (T,), patches (images, patches, 768) in uint8, a frame of each."""

    ids: Tensor
    labels: Tensor
    patches: Tensor


class Encoder:
    """Encodes lessons for one processor."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_id = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], *, opens: bool = False) -> str:
        """The conversation's text by the chat template."""
        return str(self.processor.apply_chat_template(messages, tools=tools or None, tokenize=False, add_generation_prompt=opens))

    def seen(self, picture: Any) -> tuple[Tensor, Tensor]:
        """A picture of any proportions as the model's input: (patches, 1536) and its grid (1, 3)."""
        processed = self.processor.image_processor(images=[picture], return_tensors="pt")
        return processed["pixel_values"], processed["image_grid_thw"]

    def pixels(self, pictures: list[Any]) -> Tensor:
        """Square pictures as the model sees them: (images, patches, 768), uint8, the one frame of each."""
        processed = self.processor.image_processor(images=pictures, return_tensors="pt")
        frames = processed["pixel_values"].view(len(pictures), -1, CHANNELS, FRAMES, PATCH * PATCH)[:, :, :, 0]
        return ((frames + 1) * 127.5).round().to(torch.uint8).flatten(2)

    def tokens(self, text: str, tokens_per_image: int) -> list[int]:
        """Tokens of a rendered text, with as many placeholders for an image as it has tokens."""
        return list(self.tokenizer.encode(text.replace("<|image_pad|>", "<|image_pad|>" * tokens_per_image), add_special_tokens=False))

    def sample(self, lesson: Any) -> Sample:
        """What the assistant says is trained, its end of turn included."""
        no_patches = torch.empty(0, SIDE * SIDE, CHANNELS * PATCH * PATCH, dtype=torch.uint8)
        patches = self.pixels(lesson.pictures) if lesson.pictures else no_patches
        text, ids, labels, done = self.render(lesson.messages, lesson.tools), [], [], 0
        for turn, match in enumerate(_SAID.finditer(text)):
            before, answer = (self.tokens(part, patches.shape[1] // 4) for part in (text[done : match.start()], match[0]))
            ids += before + answer
            labels += [IGNORED] * len(before) + (answer if turn >= lesson.first_trained_turn else [IGNORED] * len(answer))
            done = match.end()
        return Sample(torch.tensor(ids), torch.tensor(labels), patches)


def batch_of(samples: list[Sample], image_id: int, pad_id: int) -> dict[str, Tensor]:
    """The model's inputs for several samples, padded on the right."""

    def padded(rows: list[Tensor], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    ids = padded([sample.ids for sample in samples], pad_id)
    images = torch.cat([sample.patches for sample in samples])
    batch = {
        "input_ids": ids,
        "attention_mask": padded([torch.ones_like(sample.ids) for sample in samples], 0),
        "mm_token_type_ids": (ids == image_id).int(),
        "labels": padded([sample.labels for sample in samples], IGNORED),
    }
    if len(images):
        batch |= {"pixel_values": pixel_values(images), "image_grid_thw": torch.tensor([[1, SIDE, SIDE]]).expand(len(images), 3)}
    return batch


def drawn_moves(number: int, rng: Random) -> list[tuple[int, int]]:
    """How far a picture each is to be moved to the right and down, in pixels."""
    return [(rng.randint(-MAX_MOVE, MAX_MOVE), rng.randint(-MAX_MOVE, MAX_MOVE)) for _ in range(number)]


def moved(patches: Tensor, moves: list[tuple[int, int]]) -> Tensor:
    """Pictures (images, patches, 768), each moved to the right and down by at most MAX_MOVE pixels; its edge is repeated."""
    blocks = SIDE // MERGED
    tiles = patches.view(-1, blocks, blocks, MERGED, MERGED, CHANNELS, PATCH, PATCH)  # rows and columns of blocks, then within one
    whole = tiles.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(-1, CHANNELS, SIDE * PATCH, SIDE * PATCH)
    wide = torch.nn.functional.pad(whole.float(), [MAX_MOVE] * 4, mode="replicate").to(torch.uint8)
    corners = [(MAX_MOVE - right, MAX_MOVE - down) for right, down in moves]
    shown = torch.stack([one[:, y : y + SIDE * PATCH, x : x + SIDE * PATCH] for one, (x, y) in zip(wide, corners, strict=True)])
    tiles = shown.view(-1, CHANNELS, blocks, MERGED, PATCH, blocks, MERGED, PATCH)
    return tiles.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(patches.shape)


def pixel_values(images: Tensor) -> Tensor:
    """What the image processor gives for uint8 patches: (images * patches, 1536)."""
    frames = images.flatten(0, 1).view(-1, CHANNELS, 1, PATCH * PATCH).float() / 127.5 - 1
    return frames.expand(-1, -1, FRAMES, -1).flatten(1)
