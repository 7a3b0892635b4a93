"""Messages to tokens, by the model's own chat template; the only place where that happens.

Rendering only appends: a prompt is rendered once, and what follows a turn is rendered as the tokens that come after the
ones the policy sampled. A sampled id is never decoded and encoded again, and earlier turns are never rendered again, so a
template that rewrites history (dropping earlier thinking, say) cannot change tokens that the policy has seen.

Where a chat template knows of no tools, they are told of in plain messages (`tool_messages.py`).
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from posttrain.errors import UserError
from posttrain.rollout.tool_messages import in_plain_messages
from posttrain.types import IntArray, Message

_PROBE = "0"
"""Stands for whatever the policy wrote when the template is asked what comes after it."""
_PROBE_TOOL = "probe_tool"


class Renderer:
    """One model's chat template, applied append-only."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a Hugging Face tokenizer with a chat template."""
        self.tokenizer = tokenizer

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), **variables: Any) -> IntArray:
        """The prompt's tokens, up to where the assistant starts to write; int64.

        tools: schemas of what may be called. variables: as `render` takes them.

        Raises:
            UserError: the template refuses these messages.
        """
        try:
            text = self.render(messages, add_generation_prompt=True, tools=tools, **variables)
        except Exception as error:  # a template is a program of the model's author and may raise anything
            raise UserError(f"the model's chat template refuses the messages {_shorten(messages)}: {error}") from error
        return self.encode(text)

    def observation(self, messages: Sequence[Message], observed: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> IntArray:
        """The tokens between a turn's stop token and the policy's next token; int64.

        messages: the conversation before the turn. observed: what came back, as the messages that follow the turn. What earlier turns
        say does not matter: `written` may stand in their place.

        Raises:
            UserError: the template refuses these messages, does not append, or does not close a turn with the stop token.
        """
        try:
            before = self.render(messages, add_generation_prompt=False, tools=tools)
            continued = self.render([*messages, self.written, *observed], add_generation_prompt=True, tools=tools)
        except Exception as error:  # as above
            raise UserError(f"the model's chat template refuses the messages {_shorten(observed)} after a turn: {error}") from error
        _, found, following = continued[len(before) :].partition(_PROBE + self.tokenizer.eos_token)
        if not (found and continued.startswith(before)):
            raise UserError(
                "the model's chat template does not append: it changes earlier messages when later ones follow, so turns cannot be chained"
            )
        return self.encode(following)

    @property
    def written(self) -> Message:
        """An assistant's message that stands for whatever the policy wrote."""
        return {"role": "assistant", "content": _PROBE}

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template itself lists tools."""
        parameters = {"type": "object", "properties": {}}
        tool = {"type": "function", "function": {"name": _PROBE_TOOL, "description": _PROBE, "parameters": parameters}}
        try:
            probed = self._apply([{"role": "user", "content": _PROBE}], add_generation_prompt=True, tools=[tool])
        except Exception:  # as above; what it does to a conversation is told by that
            return False
        return _PROBE_TOOL in probed

    @cached_property
    def _special_tokens(self) -> re.Pattern[str]:
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        special = [content for content in special if len(content.split()) == 1 < len(content)]  # a blank cannot break a blank
        return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def harmless(self, text: str) -> str:
        """The text with a space in whatever is a special token to the tokenizer, and nothing that UTF-8 has no bytes for.

        What comes back to a policy must not end its turn, speak in another's name or stand for an image.
        """
        text = text.encode(errors="replace").decode()
        while self._special_tokens.search(text):
            text = self._special_tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return text

    def text(self, token_ids: IntArray) -> str:
        """What a turn says, special tokens left out; for rewards and people, never for the model again."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))

    def raw_text(self, token_ids: IntArray) -> str:
        """What a turn says with its special tokens, which is where calls are looked for."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=False))

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, tools: Sequence[dict[str, Any]] | None = (), **variables: Any
    ) -> str:
        """The template's text; `variables` are its own (enable_thinking), and one that does not know them ignores them."""
        has_tools = tools or any(message["role"] == "tool" or message.get("tool_calls") for message in messages)
        if has_tools and not self.knows_tools:
            return self._apply(in_plain_messages(messages, tools or ()), add_generation_prompt=add_generation_prompt, **variables)
        return self._apply(messages, add_generation_prompt=add_generation_prompt, tools=list(tools) if tools else None, **variables)

    def _apply(self, messages: Sequence[Message], **variables: Any) -> str:
        return str(self.tokenizer.apply_chat_template(list(messages), **{**variables, "tokenize": False}))

    def encode(self, text: str) -> IntArray:
        """Tokens of a rendered text, which holds its special tokens already; int64."""
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)


def _shorten(messages: Sequence[Message]) -> str:
    text = str(list(messages))
    return text if len(text) <= 200 else f"{text[:200]}..."
