"""Messages to tokens, by the model's own chat template; the only place where that happens.

Rendering only appends: a prompt is rendered once, and what follows a turn is rendered as the tokens that come after the
ones the policy sampled. A sampled id is never decoded and encoded again, and earlier turns are never rendered again, so a
template that rewrites history (dropping earlier thinking, say) cannot change tokens that the policy has seen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.errors import UserError
from posttrain.types import IntArray, Message

_PROBE = "0"
"""Stands for whatever the policy wrote when the template is asked what comes after it."""


class Renderer:
    """One model's chat template, applied append-only."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a Hugging Face tokenizer with a chat template."""
        self.tokenizer = tokenizer

    def prompt(self, messages: Sequence[Message], **variables: Any) -> IntArray:
        """The prompt's tokens, up to where the assistant starts to write; int64. variables: as `render` takes them.

        Raises:
            UserError: the template refuses these messages.
        """
        try:
            text = self.render(messages, add_generation_prompt=True, **variables)
        except Exception as error:  # a template is a program of the model's author and may raise anything
            raise UserError(f"the model's chat template refuses the messages {_shorten(messages)}: {error}") from error
        return self.encode(text)

    def observation(self, messages: Sequence[Message], observed: Sequence[Message]) -> IntArray:
        """The tokens between a turn's stop token and the policy's next token; int64.

        messages: the conversation before the turn. observed: what came back, as the messages that follow the turn.

        Raises:
            UserError: the template does not append, or does not close a turn with the stop token.
        """
        turn = {"role": "assistant", "content": _PROBE}
        opened = self.render(messages, add_generation_prompt=True)
        closed = self.render([*messages, turn], add_generation_prompt=False)
        continued = self.render([*messages, turn, *observed], add_generation_prompt=True)
        stop = opened + _PROBE + self.tokenizer.eos_token
        if not (closed.startswith(stop) and continued.startswith(closed)):
            raise UserError(
                "the model's chat template does not append: it changes earlier messages when later ones follow, so turns cannot be chained"
            )
        return self.encode(continued[len(stop) :])

    def text(self, token_ids: IntArray) -> str:
        """What a turn says, special tokens left out; for rewards and people, never for the model again."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool, **variables: Any) -> str:
        """The template's text; `variables` are its own (tools, enable_thinking), and one that does not know them ignores them."""
        options = {**variables, "tokenize": False, "add_generation_prompt": add_generation_prompt}
        return str(self.tokenizer.apply_chat_template(list(messages), **options))

    def encode(self, text: str) -> IntArray:
        """Tokens of a rendered text, which holds its special tokens already; int64."""
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)


def _shorten(messages: Sequence[Message]) -> str:
    text = str(list(messages))
    return text if len(text) <= 200 else f"{text[:200]}..."
