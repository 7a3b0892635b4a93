"""Rows for the cold start: whole episodes of looking, calling the tool, reading and answering, as conversations with images.

python examples/thinking_with_images/make_rows.py rows.jsonl --rows 400 --seed 1
"""

import argparse
import base64
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from posttrain.rollout.tools.images import encoded

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tiny_vlm"))
from lessons import COMPARE, FIND, Lesson, hasty

SHARE_OF_COMPARISONS = 0.4


def row_of(lesson: Lesson) -> dict[str, Any]:
    """A lesson as a row of a task's file: each image part holds its picture as a data: URL."""
    urls = iter([f"data:image/png;base64,{base64.b64encode(encoded(picture).data).decode()}" for picture in lesson.pictures])
    messages = [{**message, "content": _filled(message["content"], urls)} for message in lesson.messages]
    return {"messages": messages, "tools": lesson.tools}


def _filled(content: Any, urls: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{**part, "image": next(urls)} if part["type"] == "image" else part for part in content]


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = Random(options.seed)
    lessons = (hasty(COMPARE if rng.random() < SHARE_OF_COMPARISONS else FIND, rng) for _ in range(options.rows))
    options.file.write_text("".join(f"{json.dumps(row_of(lesson))}\n" for lesson in lessons))


if __name__ == "__main__":
    main()
