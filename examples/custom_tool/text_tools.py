"""A tool and an environment in a package of its own: a class each here, an entry point each in setup.cfg."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from posttrain.rollout.env import Environment, Observation
from posttrain.rollout.tools.base import Tool, ToolError, ToolResult
from posttrain.types import EncodedImage, Prompt


class CountLetters(Tool):
    """How often a letter stands in a text."""

    schema: ClassVar[dict[str, Any]] = {
        "type": "function",
        "function": {
            "name": "count_letters",
            "description": "Counts a letter in a text.",
            "parameters": {
                "type": "object",
                "properties": {"letter": {"type": "string"}, "text": {"type": "string"}},
                "required": ["letter", "text"],
            },
        },
    }

    def call(self, arguments: dict[str, Any], images: Sequence[EncodedImage]) -> ToolResult:
        """What is wrong with the arguments is said, so that the policy can try again."""
        letter, text = arguments.get("letter"), arguments.get("text")
        if not isinstance(letter, str) or not isinstance(text, str) or len(letter) != 1:
            raise ToolError("expected letter, a text of one character, and text")
        return ToolResult(text=str(text.lower().count(letter.lower())))


class HotOrCold(Environment):
    """The answer is a number, and whoever guesses is told whether it is larger or smaller; four guesses."""

    def reset(self, prompt: Prompt) -> None:
        """Remembers the prompt's answer."""
        self.answer = int(prompt.reference)
        self.num_left = 4

    def step(self, text: str) -> Observation:
        """Score 1 for the answer, else nothing."""
        self.num_left -= 1
        numbers = re.findall(r"-?\d{1,15}", text)
        guess = int(numbers[-1]) if numbers else None
        if guess == self.answer:
            return Observation(text="Right.", score=1.0, is_over=True)
        told = "Say a number." if guess is None else "It is larger." if guess < self.answer else "It is smaller."
        return Observation(text=told, score=0.0, is_over=not self.num_left)
