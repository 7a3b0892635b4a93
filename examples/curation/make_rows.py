"""Makes rows.jsonl and evaluation.jsonl: clean rows, and rows with one planted defect each, which the field `planted` names.

The same files every time. Nothing in curation looks at `planted`; the test of this example does.
"""

import json
import random
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

Row = dict[str, Any]

NAMES = ("Ada", "Bo", "Chen", "Dina", "Emil", "Fatou", "Gita", "Hugo", "Ines", "Jonas")
THINGS = ("apples", "stamps", "pencils", "coins", "shells", "marbles")
SHAPES = ("garden", "room", "field", "table top", "poster", "carpet", "court", "window")
THINGS_ZH = ("书", "香蕉", "邮票", "铅笔")


def words(rng: random.Random) -> tuple[str, str, str]:
    """(question, reasoning, answer)."""
    (name, friend), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
    a, b, c, d = rng.randint(12, 60), rng.randint(3, 30), rng.randint(2, 11), rng.randint(2, 20)
    question = (
        f"{name} has {a} {thing} at home, finds {b} more, gives {c} to {friend}, and finally buys {d} in a shop. "
        f"How many {thing} does {name} have now?"
    )
    reasoning = (
        f"{name} begins with {a} and finds {b}, which makes {a + b}. After giving {c} away there are {a + b - c}. "
        f"With the {d} from the shop it is {a + b - c + d}."
    )
    return question, reasoning, str(a + b - c + d)


def area(rng: random.Random) -> tuple[str, str, str]:
    """(question, reasoning, answer)."""
    shape, a, b = rng.choice(SHAPES), rng.randint(3, 99), rng.randint(3, 99)
    question = f"A {shape} measures {a} by {b} metres. What is its area?"
    return question, f"The area of a rectangle is its length times its width. Here that is {a} * {b} = {a * b} square metres.", str(a * b)


def chinese(rng: random.Random) -> tuple[str, str, str]:
    """(question, reasoning, answer)."""
    thing, a, b = rng.choice(THINGS_ZH), rng.randint(5, 99), rng.randint(5, 99)
    question = f"小明有{a}个{thing},妈妈又给了他{b}个,小明现在一共有多少个{thing}?"
    return question, f"原来有{a}个,又得到了{b}个,所以一共有{a}+{b}={a + b}个。", str(a + b)


KINDS: dict[str, Callable[[random.Random], tuple[str, str, str]]] = {"words": words, "area": area, "chinese": chinese}


def row(kind: str, rng: random.Random) -> Row:
    """A clean row: question, thinking, final answer."""
    question, reasoning, answer = KINDS[kind](rng)
    last = f"答案是{answer}。" if kind == "chinese" else f"The answer is {answer}."
    response = f"<think>\n{reasoning}\n</think>\n\n{last}"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
    return {"task": kind, "messages": messages, "answer": answer}


def answered(one: Row, response: str) -> Row:
    """The row with another response."""
    return {**one, "messages": [one["messages"][0], {"role": "assistant", "content": response}]}


def asked(one: Row, question: str) -> Row:
    """The row with another question."""
    return {**one, "messages": [{"role": "user", "content": question}, one["messages"][1]]}


def duplicate(one: Row) -> Row:
    """The same content under other white space."""
    return asked(one, f"  {question_of(one)} \r\n")


def near_duplicate(one: Row) -> Row:
    """The question in almost the same words."""
    return asked(one, question_of(one).replace(" finally", ""))


def wrong(one: Row) -> Row:
    """Another final answer than the row's."""
    return answered(one, response_of(one).replace(f"answer is {one['answer']}", f"answer is {int(one['answer']) + 7}"))


def repeating(one: Row) -> Row:
    """A thought that goes round in circles."""
    circle = "We add the numbers once more to be sure. " * 12
    return answered(one, f"<think>\n{circle}\n</think>\n\nThe answer is {one['answer']}.")


def mixed(one: Row) -> Row:
    """An English thought that goes on in Chinese."""
    return answered(
        one, response_of(one).replace("\n</think>", " 因为原来的数量加上新得到的数量再减去送出的数量就是最后的结果。\n</think>")
    )


def question_of(one: Row) -> str:
    """The user's text."""
    return str(one["messages"][0]["content"])


def response_of(one: Row) -> str:
    """The assistant's text."""
    return str(one["messages"][1]["content"])


DEFECTS: dict[str, Callable[[Row], Row]] = {
    "exact duplicate": duplicate,
    "near duplicate": near_duplicate,
    "contaminated": lambda one: asked(one, f"Here is a puzzle for you. {question_of(one)}"),
    "empty response": lambda one: answered(one, " \n\u200b"),
    "cut off": lambda one: answered(one, f"{response_of(one)} To see why, start from the number of things that there were and then take"),
    "malformed": lambda one: answered(one, response_of(one).replace("<think>", "<think>\n<think>")),
    "repetition": repeating,
    "language mixing": mixed,
    "guess": lambda one: answered(one, f"I'll just guess: the answer is {one['answer']}."),
    "wrong answer": wrong,
}


def make() -> tuple[list[Row], list[Row]]:
    """(rows, evaluation rows): 240 clean ones of three tasks and 6 of each defect, shuffled; 24 questions for evaluation."""
    rng = random.Random(7)
    pools = {kind: distinct(kind, rng, 130) for kind in KINDS}
    evaluation = [pools[kind].pop() for kind, _ in product(KINDS, range(8))]
    clean = [{**pools[kind].pop(), "planted": ""} for kind in KINDS for _ in range(80)]
    planted = []
    for name, spoil in DEFECTS.items():
        for number in range(6):
            if name == "contaminated":
                one = evaluation[4 * number]  # two of each kind
            else:  # the first eighty clean rows are of the kind words
                one = clean[number + 6 * (name == "near duplicate")] if name.endswith("duplicate") else pools["words"].pop()
            planted.append({**spoil(one), "planted": name})
    rows = clean + planted
    rng.shuffle(rows)
    return rows, [{"messages": one["messages"][:1], "answer": one["answer"]} for one in evaluation]


def distinct(kind: str, rng: random.Random, number: int) -> list[Row]:
    """Rows whose questions have different numbers."""
    found: dict[tuple[str, ...], Row] = {}
    while len(found) < number:
        one = row(kind, rng)
        found[tuple(re.findall(r"\d+", question_of(one)))] = one
    return [*found.values()]


def write(path: Path, rows: list[Row]) -> None:
    """As JSON lines."""
    path.write_text("".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in rows), encoding="utf-8")


if __name__ == "__main__":
    here = Path(__file__).parent
    rows, evaluation = make()
    write(here / "rows.jsonl", rows)
    write(here / "evaluation.jsonl", evaluation)
