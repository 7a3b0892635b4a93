"""What a tool is: a function the policy calls by name, described to it by a JSON schema."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from posttrain.types import EncodedImage


class ToolError(Exception):
    """The call cannot be answered as it is; the text goes to the policy, which can read it and try again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What came back: text, images, or both."""

    text: str = ""
    images: list[EncodedImage] = field(default_factory=list)


class Tool(ABC):
    """One tool, found by its entry-point name; constructed once in each tool process.

    schema: the function's description as chat templates list it in the system message:
    {"type": "function", "function": {"name": ..., "description": ..., "parameters": {JSON schema of an object}}}.
    """

    schema: ClassVar[dict[str, Any]]

    @abstractmethod
    def call(self, arguments: dict[str, Any], images: Sequence[EncodedImage]) -> ToolResult:
        """Answers one call.

        arguments: what the policy wrote: any JSON object, not checked against the schema. images: all images of the
        conversation so far, original pixels, in the order in which they appeared; never to be changed.

        Raises ToolError for a mistake of the policy. Any other exception is the tool's own failure.
        """
