"""Lessons as tensors: pictures through the image processor, conversations through the chat template, what is trained marked."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
_SAID = re.compile(r"(?<=<\|im_start\|>assistant\n).*?<\|im_end\|>", re.DOTALL)
PATCH, CHANNELS, FRAMES = 16, 3, 2


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
        patches = self.pixels(lesson.pictures)
        text, ids, labels, done = self.render(lesson.messages, lesson.tools), [], [], 0
        for match in _SAID.finditer(text):
            before, answer = (self.tokens(part, patches.shape[1] // 4) for part in (text[done : match.start()], match[0]))
            ids += before + answer
            labels += [IGNORED] * len(before) + answer
            done = match.end()
        return Sample(torch.tensor(ids), torch.tensor(labels), patches)


def batch_of(samples: list[Sample], image_id: int, pad_id: int) -> dict[str, Tensor]:
    """The model's inputs for several samples, padded on the right."""

    def padded(rows: list[Tensor], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    ids = padded([sample.ids for sample in samples], pad_id)
    images = torch.cat([sample.patches for sample in samples])
    return {
        "input_ids": ids,
        "attention_mask": padded([torch.ones_like(sample.ids) for sample in samples], 0),
        "mm_token_type_ids": (ids == image_id).int(),
        "labels": padded([sample.labels for sample in samples], IGNORED),
        "pixel_values": pixel_values(images),
        "image_grid_thw": torch.tensor([[1, 8, 8]]).expand(len(images), 3),
    }


def pixel_values(images: Tensor) -> Tensor:
    """What the image processor gives for uint8 patches: (images * patches, 1536)."""
    frames = images.flatten(0, 1).view(-1, CHANNELS, 1, PATCH * PATCH).float() / 127.5 - 1
    return frames.expand(-1, -1, FRAMES, -1).flatten(1)
