"""What a tool is: a function the policy calls by name, described to it by a JSON schema.

A tool of your own, in a package of your own:

    # my_tools/dice.py
    from random import Random
    from posttrain.rollout.tools.base import Tool, ToolError, ToolResult

    class Dice(Tool):
        \"\"\"A die of any number of sides.\"\"\"

        schema = {"type": "function", "function": {
            "name": "dice",
            "description": "Rolls a die.",
            "parameters": {"type": "object", "properties": {"sides": {"type": "integer"}}, "required": ["sides"]},
        }}

        def call(self, arguments, images):
            sides = arguments.get("sides")
            if not isinstance(sides, int) or not 2 <= sides <= 100:
                raise ToolError("sides is not a whole number from 2 to 100")
            return ToolResult(text=str(Random(str(images)).randint(1, sides)))

    # setup.cfg of my-tools
    [options.entry_points]
    posttrain.tools =
        dice = my_tools.dice:Dice

After `pip install`, `task.tools=[dice]` offers it. The entry point's name is the function's. A tool is constructed without arguments,
once in each tool process, and answers that process's calls one after another, of any episodes in any order. A call that takes longer
than `rollout.tool_timeout_s` or ends the process has failed; the policy is told so in a text, and the process is replaced.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from posttrain.types import EncodedImage

ENTRY_POINTS = "posttrain.tools"


class ToolError(Exception):
    """The call cannot be answered as it is; the text goes to the policy, which can read it and try again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What came back: text, images, or both. The images are shown before the text."""

    text: str = ""
    images: list[EncodedImage] = field(default_factory=list)


class Tool(ABC):
    """One tool; a subclass is a plug-in under the entry-point group `posttrain.tools`.

    schema: the function's description as chat templates list it in the system message:
    {"type": "function", "function": {"name": ..., "description": ..., "parameters": {JSON schema of an object}}}.
    """

    schema: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def call(self, arguments: dict[str, Any], images: Sequence[EncodedImage]) -> ToolResult:
        """Answers one call.

        arguments: what the policy wrote: any JSON object, not checked against the schema. images: all images of the
        conversation so far, original pixels, in the order in which they appeared; never to be changed.

        Raises ToolError for a mistake of the policy, UserError where only the user can mend it (this ends the run). Any other
        exception is the tool's own failure: the policy is told, and it is counted.
        """
