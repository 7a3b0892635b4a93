"""Preference pairs: rows with a prompt and two answers to it, of which one was chosen and the other rejected.

A row: `messages` (or `prompt`, a text or messages), `chosen` and `rejected`. An answer is a text, the assistant's message, or a
conversation that ends with it; `messages` may be left out where both answers are conversations. An
answer counts without its thinking, as the reward of that name reads it. Left out on purpose: tools, images, and ties.
"""

from collections.abc import Iterable
from typing import Any

from posttrain.config import TaskConfig
from posttrain.data.conversations import from_json, plain, think_inline, without_thinking
from posttrain.data.messages import check_messages, digest_of, shorten, with_system_prompt
from posttrain.data.rows import RawRow, fields_of, usable_rows
from posttrain.errors import UserError
from posttrain.types import Conversation, Message

COLUMNS = ("messages", "prompt", "chosen", "rejected")


def load_pairs(task: TaskConfig) -> tuple[list[tuple[Conversation, Conversation]], list[str]]:
    """(chosen, rejected) of all rows that can be used, in the order of the source, and one line about each of the others.

    The digest of both is that of the prompt, so that pairs of one prompt are held out together.

    Raises UserError: there is no such file or dataset, or reading it cannot go on.
    """
    return usable_rows(task, COLUMNS, _check_columns, _pair)


def _check_columns(where: str, names: Iterable[str]) -> None:
    got = set(names)
    if not {"chosen", "rejected"} <= got:
        raise UserError(f"{where}: expected `chosen` and `rejected`; there is: {', '.join(sorted(got)) or 'nothing'}")


def _pair(task: TaskConfig, where: str, raw: RawRow) -> tuple[Conversation, Conversation]:
    row = fields_of(where, raw)
    _check_columns(where, row)
    prompts = [_prompt(where, row)] if {"messages", "prompt"} & set(row) else []
    answers = []
    for name in ("chosen", "rejected"):
        *before, answer = _messages(f"{where}, {name}", _answer(row[name]))
        if answer["role"] != "assistant":
            raise UserError(f"{where}: `{name}` ends with a message of role {answer['role']}, expected the assistant's")
        prompts += [before] if before else []
        answers.append({"role": "assistant", "content": without_thinking(answer)["content"].strip()})
    if not prompts:
        raise UserError(f"{where}: no prompt; expected `messages` or `prompt`, or conversations as `chosen` and `rejected`")
    if any(prompt != prompts[0] for prompt in prompts):
        raise UserError(f"{where}: `chosen` and `rejected` answer different prompts")
    if answers[0] == answers[1]:
        raise UserError(f"{where}: `chosen` and `rejected` are the same: {shorten(answers[0]['content'])}")
    digest, prompt = digest_of(prompts[0]), with_system_prompt(where, prompts[0], task.system_prompt)
    chosen, rejected = (Conversation(where=where, digest=digest, messages=[*prompt, answer]) for answer in answers)
    return chosen, rejected


def _prompt(where: str, row: dict[str, Any]) -> list[Message]:
    if "messages" in row:
        return _messages(where, from_json(where, row["messages"]))
    prompt = row["prompt"]
    return _messages(f"{where}, prompt", [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)


def _answer(value: Any) -> Any:
    """As messages."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return [value] if isinstance(value, dict) else value


def _messages(where: str, value: Any) -> list[Message]:
    messages = [think_inline(plain(where, message)) for message in check_messages(where, value)]
    if not all(isinstance(message["content"], str) for message in messages):
        raise UserError(f"{where}: holds an image, and a reward model reads text only")
    return messages
