"""Makes rows.jsonl, sums with a thought before the answer, some of them spoilt, and heldout.jsonl, the questions that are held out.

Questions are those of the task `chains` (task/chains.yaml), split as a run splits them, so that no row of the training half is a
question that the pipeline evaluates on. The same files every time. The field `planted` names a row's defect; nothing but the test
of this example looks at it.
"""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from posttrain.config import TaskConfig
from posttrain.data.sources import load_task
from posttrain.types import Prompt

Row = dict[str, Any]
HERE = Path(__file__).parent
NUM_EACH = 8
"""Rows of each defect."""


def row_of(prompt: Prompt) -> Row:
    """A clean row: question, a thought a line, final answer."""
    total, *rest = [int(number) for number in re.findall(r"\d+", prompt.messages[-1]["content"])]
    steps = []
    for number in rest:
        steps.append(f"{total} + {number} = {total + number}")
        total += number
    assert str(total) == str(prompt.reference), prompt
    response = "<think>\n" + "\n".join(steps) + f"\n</think>\n\nThe answer is {total}."
    return {"messages": [*prompt.messages, {"role": "assistant", "content": response}], "answer": str(total), "planted": ""}


def answered(row: Row, response: str) -> Row:
    """The row with another response."""
    return {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": response}]}


def response_of(row: Row) -> str:
    """What the assistant says in it."""
    return str(row["messages"][-1]["content"])


def slipped(row: Row) -> Row:
    """The last sum is ten too many, and so is the answer."""
    wrong = str(int(row["answer"]) + 10)
    return answered(row, re.sub(rf"(= |is ){row['answer']}\b", rf"\g<1>{wrong}", response_of(row)))


DEFECTS: dict[str, Callable[[Row], Row]] = {
    "exact duplicate": lambda row: row,
    "contaminated": lambda row: row,
    "cut off": lambda row: answered(row, response_of(row).partition("\n</think>")[0]),
    "malformed": lambda row: answered(row, response_of(row).replace("<think>", "<think>\n<think>")),
    "guess": lambda row: answered(row, f"I'll just guess: the answer is {row['answer']}."),
    "wrong answer": slipped,
}


def make() -> tuple[list[Row], list[Row]]:
    """(rows, held-out questions)."""
    task = load_task(TaskConfig(**yaml.safe_load((HERE / "task/chains.yaml").read_text())))
    train, heldout = ([row_of(prompt) for prompt in half] for half in (task.train, task.heldout))
    rng = random.Random(5)
    spoilt = []
    for name, spoil in DEFECTS.items():
        if name == "exact duplicate":
            chosen = train[-NUM_EACH:]  # none of these is spoilt below
        else:
            chosen = heldout[:NUM_EACH] if name == "contaminated" else [train.pop(0) for _ in range(NUM_EACH)]
        spoilt += [{**spoil(row), "planted": name} for row in chosen]
    rows = train + spoilt
    rng.shuffle(rows)
    return rows, [{"messages": row["messages"][:-1], "answer": row["answer"]} for row in heldout]


def write(path: Path, rows: list[Row]) -> None:
    """As JSON lines."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    made, questions = make()
    write(HERE / "rows.jsonl", made)
    write(HERE / "heldout.jsonl", questions)
