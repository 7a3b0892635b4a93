"""Episodes in plain transformers: the model looks, calls the tool, reads what it shows, answers. Measures a checkpoint.

python examples/tiny_vlm/play.py examples/tiny_vlm/model
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from batches import Encoder
from lessons import COMPARE, FIND, TOOLS, asked, example_of, picture_of
from torch import Tensor
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from posttrain.data.generated.base import Example, Family
from posttrain.data.images import decode
from posttrain.rollout.tools.base import ToolError
from posttrain.rollout.tools.zoom import ZoomIn
from posttrain.tool_calls import written_calls
from posttrain.types import EncodedImage

MAX_TURN_TOKENS = 32
MAX_TURNS = 4
HELDOUT_SEED = 99


@dataclass(slots=True)
class Play:
    """An episode: its question, all its tokens and pictures, what the model said in each turn; patches and grid of each picture."""

    example: Example
    images: list[EncodedImage]
    ids: list[int]
    seen: list[tuple[Tensor, Tensor]]
    said: list[str] = field(default_factory=list)
    is_over: bool = False


class Player:
    """Lets a model play many episodes at a time."""

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self.model = model
        self.encoder = encoder

    def play(self, examples: Sequence[Example], *, with_tool: bool, temperature: float) -> list[Play]:
        """One episode an example. with_tool: otherwise the model is asked without it. temperature: 0 takes the likeliest token."""
        plays = [self._start(example, TOOLS if with_tool else []) for example in examples]
        for _ in range(MAX_TURNS):
            running = [one for one in plays if not one.is_over]
            if running:
                self._turn(running, temperature)
        return plays

    def _start(self, example: Example, tools: list[dict[str, Any]]) -> Play:
        seen = self.encoder.seen(picture_of(example))
        return Play(
            example, [*example.images], self._tokens(self.encoder.render([asked(example.question)], tools, opens=True), seen), [seen]
        )

    def _tokens(self, text: str, seen: tuple[Tensor, Tensor]) -> list[int]:
        return self.encoder.tokens(text, len(seen[0]) // 4)

    def _turn(self, plays: list[Play], temperature: float) -> None:
        tokenizer = self.encoder.tokenizer
        longest = max(len(one.ids) for one in plays)
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(one.ids)) + one.ids for one in plays])
        patches, grids = zip(*(seen for one in plays for seen in one.seen), strict=True)
        written = self.model.generate(
            input_ids=ids,
            attention_mask=torch.tensor([[0] * (longest - len(one.ids)) + [1] * len(one.ids) for one in plays]),
            mm_token_type_ids=(ids == self.encoder.image_id).int(),
            pixel_values=torch.cat(patches),
            image_grid_thw=torch.cat(grids),
            max_new_tokens=MAX_TURN_TOKENS,
            suppress_tokens=tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"]),  # only the template may write them
            **({"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}),
        )
        for one, row in zip(plays, written[:, longest:].tolist(), strict=True):
            end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            one.ids += row[:end]
            one.said.append(tokenizer.decode(row[:end], skip_special_tokens=True))
            one.is_over = not self._answer(one)

    def _answer(self, one: Play) -> bool:
        """Lets the tool answer the last turn; whether there was a call. A call that cannot be answered is told so."""
        calls = written_calls(one.said[-1])
        if not calls:
            return False
        try:
            one.images += ZoomIn().call(calls[0].arguments, one.images).images
            one.seen.append(self.encoder.seen(decode(one.images[-1])))
            shown = "<|vision_start|><|image_pad|><|vision_end|>"
        except ToolError as error:
            shown = f"Error: {error}"
        text = f"\n<|im_start|>user\n<tool_response>\n{shown}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        one.ids += self._tokens(text, one.seen[-1])
        return True


def measure(player: Player, family: Family, *, num_pictures: int, with_tool: bool, temperature: float) -> dict[str, float]:
    """Accuracy and calls an episode on held-out pictures."""
    rng = Random(HELDOUT_SEED)
    examples = [example_of(family, rng, heldout=True) for _ in range(num_pictures)]
    plays = player.play(examples, with_tool=with_tool, temperature=temperature)
    right = [one.said[-1].rpartition("</think>")[2].strip() == one.example.reference for one in plays]
    return {"accuracy": sum(right) / len(plays), "calls": sum(len(one.said) - 1 for one in plays) / len(plays)}


def report(model: Any, encoder: Encoder, num_pictures: int) -> dict[str, dict[str, float]]:
    """Both tasks, with and without the tool, sampled at temperature 1 and at its likeliest."""
    player, found = Player(model.eval(), encoder), {}
    for name, family in (("find_and_read", FIND), ("compare_two", COMPARE)):
        for with_tool in (True, False):
            for temperature in (1.0, 0.0):
                torch.manual_seed(0)
                key = f"{name}{'' if with_tool else ', no tool'}, temperature {temperature:g}"
                found[key] = measure(player, family, num_pictures=num_pictures, with_tool=with_tool, temperature=temperature)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--pictures", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(2)
    loaded = Qwen3VLForConditionalGeneration.from_pretrained(options.folder, dtype=torch.float32)
    print(json.dumps(report(loaded, Encoder(AutoProcessor.from_pretrained(options.folder)), options.pictures), indent=2))
