"""The tool `python`: runs the policy's code in the sandbox; what it prints comes back, and the PNG files that it leaves.

As in a notebook the value of a last expression is printed too; unlike there nothing is kept from one call to the next. The code has
Python's standard library, no network, and an empty folder of its own. Left out on purpose: installed packages and the conversation's
images, which nothing in the standard library reads.
"""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from PIL import Image

from posttrain.rollout.tools.base import Tool, ToolError, ToolResult
from posttrain.sandbox.runner import Limits, Outcome, run
from posttrain.types import EncodedImage

LIMITS = Limits(cpu_s=5, wall_s=8.0, file_mb=4, output_kb=16, results_kb=16384)
MAX_IMAGES = 4
MAX_PIXELS = 16_000_000

# Runs inside. Descriptor 3 takes a line of JSON for each picture.
_HARNESS = """
import ast, base64, json, linecache, os, sys, traceback
def _run(code):
    linecache.cache["code.py"] = (len(code), None, code.splitlines(True), "code.py")
    names = {"__name__": "__main__"}
    tree = ast.parse(code, "code.py")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "code.py", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "code.py", "eval"), names)
        if value is not None:
            print(repr(value))
def _show(names):
    for name in names:
        with open(name, "rb") as file:
            data = base64.b64encode(file.read()).decode()
        os.write(3, (json.dumps({"name": name, "data": data}) + "\\n").encode())
_status = 0
try:
    _run(sys.stdin.read())
except SystemExit as error:
    _status = int(bool(error.code))
except BaseException as error:
    _status = 1
    frames = error.__traceback__.tb_next
    traceback.print_exception(error.with_traceback(frames and frames.tb_next))
sys.stdout.flush()
_show(sorted(name for name in os.listdir() if name.endswith(".png"))[:MAX_IMAGES])
os._exit(_status)
""".replace("MAX_IMAGES", str(MAX_IMAGES))


class Python(Tool):
    """Runs code."""

    schema: ClassVar[dict[str, Any]] = {
        "type": "function",
        "function": {
            "name": "python",
            "description": "Runs Python 3 code with the standard library and returns what it prints, and the value of a last expression. "
            "PNG files that it writes into the current folder are shown. Nothing is kept between calls.",
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string", "description": "The code to run"}},
                "required": ["code"],
            },
        },
    }

    def __init__(self) -> None:
        """Raises UserError: the machine gives no sandbox that code which nobody has read may run in."""
        run("")

    def call(self, arguments: dict[str, Any], images: Sequence[EncodedImage]) -> ToolResult:
        """What the code printed, what ended it, and its pictures. Raises ToolError: there is no code."""
        code = arguments.get("code")
        if not isinstance(code, str):
            raise ToolError("code is missing or not a text")
        outcome = run(_HARNESS, stdin=code, limits=LIMITS, has_results=True)
        shown, notes = [], []
        for name, data in _files(outcome.results):
            image = _picture(data)
            if image is None:
                notes.append(f"({name} is no PNG picture of at most {MAX_PIXELS} pixels)")
            else:
                shown.append(image)
        text = "\n".join(filter(None, [outcome.stdout.rstrip(), outcome.stderr.rstrip(), _ended(outcome), *notes]))
        return ToolResult(text=text or ("" if shown else "(the code printed nothing)"), images=shown)


def _ended(outcome: Outcome) -> str:
    if outcome.reason in ("ok", "crash"):
        return "" if outcome.exit_status in (0, 1) else f"(the code ended with status {outcome.exit_status})"
    return f"(the code was stopped, because it passed its limit: {outcome.reason})"


def _files(results: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents. The code can write here too: what makes no sense is left out."""
    for line in results.splitlines()[:MAX_IMAGES]:
        try:
            entry = json.loads(line)
            yield str(entry["name"])[:100], base64.b64decode(entry["data"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue


def _picture(data: bytes) -> EncodedImage | None:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.load()
            return EncodedImage(data=data, width=image.width, height=image.height)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, for what is no such file
        return None
