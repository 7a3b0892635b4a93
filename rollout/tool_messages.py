"""Tools in plain messages, for chat templates that know of none: in the form that Qwen's templates write.

The system message lists the schemas between `<tools></tools>` and says how to call; a call stands between `<tool_call></tool_call>` in
the assistant's text; results stand between `<tool_response></tool_response>` in a user's message, those of one turn in one message.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from posttrain.types import Message, text_of

_TOOLS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{schemas}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def in_plain_messages(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """The same conversation in messages of system, user and assistant that hold text and images only."""
    runs = ((is_result, [*run]) for is_result, run in groupby(messages, lambda message: message["role"] == "tool"))
    plain = [one for is_result, run in runs for one in ([_results(run)] if is_result else map(_spoken, run))]
    if not tools:
        return plain
    listed = _TOOLS.format(schemas="\n".join(_json(schema) for schema in tools))
    if plain and plain[0]["role"] == "system":
        return [{"role": "system", "content": f"{text_of(plain[0])}\n\n{listed}"}, *plain[1:]]
    return [{"role": "system", "content": listed}, *plain]


def _spoken(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [f"<tool_call>\n{_json(call.get('function', call))}\n</tool_call>" for call in calls]
    text = "\n".join(filter(None, [message.get("content"), *written]))
    return {**{key: value for key, value in message.items() if key != "tool_calls"}, "content": text}


def _results(messages: Iterable[Message]) -> Message:
    contents = [message["content"] for message in messages]
    if all(isinstance(content, str) for content in contents):
        return {"role": "user", "content": "\n".join(f"<tool_response>\n{content}\n</tool_response>" for content in contents)}
    parts: list[Any] = []
    for content in contents:
        inside = [{"type": "text", "text": content}] if isinstance(content, str) else content
        opening = "\n<tool_response>\n" if parts else "<tool_response>\n"
        parts += [{"type": "text", "text": opening}, *inside, {"type": "text", "text": "\n</tool_response>"}]
    return {"role": "user", "content": parts}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
