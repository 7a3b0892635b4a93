"""A tool process: `python -m posttrain.rollout.process FD MEMORY_GB KIND:NAME...` answers tool calls and steps environments.

It is a process of a lane (`posttrain.lane_process`) that `posttrain.rollout.desk` asks. KIND is `tool` or `environment`. The greeting
is the schemas of the tools by name. A request is a `CallRequest` or a `StepRequest`; the answer is one `Answer` or `Failure`.
"""

import io
import math
import pickle
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from posttrain import plugins
from posttrain.errors import UserError
from posttrain.lane_process import Answering, Send, construct_plugin, serve
from posttrain.lanes import Failure
from posttrain.rollout.env import ENTRY_POINTS as ENVIRONMENTS
from posttrain.rollout.env import Environment, Observation
from posttrain.rollout.requests import Answer, CallRequest, StepRequest
from posttrain.rollout.tools.base import ENTRY_POINTS as TOOLS
from posttrain.rollout.tools.base import Tool, ToolError, ToolResult
from posttrain.types import EncodedImage

MAX_RESULT_CHARACTERS = 20_000
"""What is longer is cut, and says so: no context holds it, and a tokenizer would take long over it."""


def prepare(words: Sequence[str]) -> tuple[dict[str, dict[str, Any]], Answering, int]:
    """Constructs the tools and one of each environment, which shows that it can be.

    Raises UserError: one is unknown or broken, or its schema is none.
    """
    names = [word.partition(":")[::2] for word in words]
    tools: dict[str, Tool] = {name: construct_plugin(TOOLS, name, Tool) for kind, name in names if kind == "tool"}
    environments = {name: type(construct_plugin(ENVIRONMENTS, name, Environment)) for kind, name in names if kind == "environment"}
    schemas = {name: _checked_schema(name, tool) for name, tool in tools.items()}

    def answer(request: CallRequest | StepRequest, send: Send) -> None:
        try:
            if isinstance(request, CallRequest):
                send(call(tools[request.name], request))
            else:
                send(step(environments[request.name], request))
        except UserError as error:
            send(Failure("error", str(error), is_mistake=True))
        except Exception as error:  # somebody else's code on the policy's text: anything can happen, and one call is not the run
            send(Failure("error", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"))

    return schemas, answer, 1


def call(tool: Tool, request: CallRequest) -> Answer:
    """Lets the tool answer. Raises whatever is the tool's own failure."""
    try:
        result = tool.call(request.arguments, request.images)
    except ToolError as error:
        return Answer(result=ToolResult(text=cut(str(error))), is_refusal=True)
    if not isinstance(result, ToolResult):
        raise TypeError(f"the tool returned {type(result).__name__}, expected a ToolResult")
    return Answer(result=plain(result))


def step(kind: type[Environment], request: StepRequest) -> Answer:
    """Lets the environment answer. Raises whatever is its own failure."""
    if request.state is None:
        environment = kind()
        environment.reset(request.prompt)
    else:
        environment = pickle.loads(request.state)
    observed = environment.step(request.text)
    if not isinstance(observed, Observation):
        raise TypeError(f"the environment returned {type(observed).__name__}, expected an Observation")
    if not math.isfinite(observed.score):
        raise ValueError(f"the score is {observed.score}, expected a finite number")
    result = plain(ToolResult(text=observed.text, images=observed.images))
    return Answer(result=result, state=pickle.dumps(environment), score=float(observed.score), is_over=bool(observed.is_over))


def plain(result: ToolResult) -> ToolResult:
    """The result as data that any process can read, and no longer than is allowed.

    Raises TypeError, ValueError, or what Pillow raises: it holds something else than text and images that can be decoded.
    """
    for image in result.images:
        if type(image) is not EncodedImage:
            raise TypeError(f"an image is {type(image).__name__}, expected an EncodedImage")
        with Image.open(io.BytesIO(image.data)) as picture:
            picture.load()
            if picture.size != (image.width, image.height):
                raise ValueError(f"an image is {picture.size} pixels large, expected {(image.width, image.height)} as it says")
    return ToolResult(text=cut(str(result.text)), images=[*result.images])


def cut(text: str) -> str:
    """The text, or its beginning and how much is missing."""
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    return f"{text[:MAX_RESULT_CHARACTERS]}\n... ({len(text) - MAX_RESULT_CHARACTERS} more characters were cut off)"


def _checked_schema(name: str, tool: Tool) -> dict[str, Any]:
    match tool.schema:
        case {"type": "function", "function": {"name": str(named), "parameters": Mapping()}} if named == name:
            return dict(tool.schema)
    raise UserError(
        f"{plugins.describe(TOOLS, name)} has the schema {str(tool.schema)[:200]}, "
        f'expected {{"type": "function", "function": {{"name": {name!r}, "description": ..., "parameters": {{...}}}}}}'
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]), lambda: prepare(sys.argv[3:]))
