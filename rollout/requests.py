"""What the episode loop's side and tool processes say to each other; `posttrain.rollout.process` says how."""

from dataclasses import dataclass
from typing import Any

from posttrain.rollout.tools.base import ToolResult
from posttrain.types import EncodedImage, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """A call of the tool `name`."""

    name: str
    arguments: dict[str, Any]
    images: list[EncodedImage]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """A turn for the environment `name`; state: as the answer to the turn before had it, None before the first."""

    name: str
    prompt: Prompt
    text: str
    state: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. is_refusal: it is a `ToolError`'s text. state, score, is_over: an environment's."""

    result: ToolResult
    is_refusal: bool = False
    state: bytes | None = None
    score: float | None = None
    is_over: bool = False
