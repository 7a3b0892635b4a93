"""Conversations to documents: which tokens the assistant wrote is found by rendering, never guessed.

Messages before an assistant's turn are rendered up to where it starts to write, and again with the turn: the first text has
to begin the second, and what follows, up to the token that ends the turn, is what the assistant wrote. Each such piece is
tokenised by itself, as prompts and observations are when the policy samples, so the tokens before a turn are the ones that
an engine would be given. A template that changes earlier messages when later ones follow (dropping earlier thinking, say)
makes texts that do not begin with one another: the conversation is then cut into several documents, so that each turn
follows exactly what an engine would be given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.data.conversations import THINK_BLOCK
from posttrain.data.messages import shorten
from posttrain.errors import UserError
from posttrain.rollout.render import Renderer
from posttrain.types import Conversation, Document, IntArray, Message
from posttrain.vision import ImageGeometry, read

_PROBE = "0"
"""Stands for a thought when the template is asked whether it takes thinking apart from the content."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """before: the text up to where the assistant starts to write; said: its text, the end-of-turn token included.

    num_images: those in the messages up to it.
    """

    before: str
    said: str
    num_images: int


class Transcriber:
    """Renders conversations by one model's chat template."""

    def __init__(self, tokenizer: Any, *, last_turn_only: bool, may_cut: bool, geometry: ImageGeometry | None = None) -> None:
        """last_turn_only: otherwise every assistant turn is trained. may_cut: otherwise a template that rewrites is refused.

        geometry: how the model reads images; None: it reads text only.
        """
        self.renderer = Renderer(tokenizer)
        self.geometry = geometry
        self.end_tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.last_turn_only = last_turn_only
        self.may_cut = may_cut
        self.takes_thinking_apart = self._takes_thinking_apart()

    def _takes_thinking_apart(self) -> bool:
        """Whether the template writes `reasoning_content`; what it does with <think> in the content is then its own affair."""
        turn = {"role": "assistant", "content": "", "reasoning_content": _PROBE}
        try:
            return _PROBE in self.renderer.render([{"role": "user", "content": ""}, turn], add_generation_prompt=False)
        except Exception:  # a template is a program of the model's author and may raise anything; each row will tell
            return False

    def documents(self, conversation: Conversation) -> list[Document]:
        """One document, or several where the template rewrites history; every trained turn stands in exactly one.

        Raises:
            UserError: the row holds an image that the model cannot read, or the template refuses it, leaves out what it says, or
            must not be cut.
        """
        messages = conversation.messages
        if self.takes_thinking_apart:
            messages = [_thinking_apart(message) for message in messages]
        places = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
        chains: list[list[_Turn]] = []
        for k in places[-1:] if self.last_turn_only or conversation.soft_targets else places:
            turn = self._turn(conversation, messages[: k + 1])
            if chains and turn.before.startswith(chains[-1][-1].before + chains[-1][-1].said):
                chains[-1].append(turn)
            else:
                chains.append([turn])
        if len(chains) > 1 and not self.may_cut:
            raise UserError(f"{conversation.where}: the chat template changes earlier messages when later ones follow")
        return [self._document(conversation, chain) for chain in chains]

    def answered(self, where: str, messages: Sequence[Message], answer: str) -> IntArray:
        """A prompt and any answer without thinking, up to the token that ends it, as `documents` has them; an empty one too.

        Raises:
            UserError: the template refuses the prompt.
        """
        prompt = [_thinking_apart(message) for message in messages] if self.takes_thinking_apart else list(messages)
        probed = [*prompt, {"role": "assistant", "content": _PROBE}]
        turn = self._turn(Conversation(where=where, digest=b"", messages=probed), probed)
        opening, _, closing = turn.said.partition(_PROBE)
        return np.concatenate([self.renderer.encode(turn.before), self.renderer.encode(opening + answer + closing)])

    def _turn(self, conversation: Conversation, messages: Sequence[Message]) -> _Turn:
        """The last of `messages`."""
        *context, message = messages
        thinking, answer = _thinking_and_answer(message)
        try:
            before, after = (
                self.renderer.render(part, add_generation_prompt=opens, tools=conversation.tools, enable_thinking=bool(thinking))
                for part, opens in ((context, True), (messages, False))
            )
        except Exception as error:  # a template is a program of the model's author and may raise anything
            raise UserError(f"{conversation.where}: the chat template refuses it: {' '.join(str(error).split())}") from error
        if not after.startswith(before):
            raise UserError(
                f"{conversation.where}: the chat template does not put message {len(context)} where the assistant starts to write"
            )
        said = after[len(before) :]
        end = max((said.rfind(token) + len(token) for token in self.end_tokens if token in said), default=0)
        if not end:
            raise UserError(f"{conversation.where}: the chat template ends message {len(context)} with no special token")
        parts = [thinking, answer, *(call["function"]["name"] for call in message.get("tool_calls", ()))]
        if not any(parts):
            raise UserError(f"{conversation.where}: message {len(context)} says nothing")
        tools = [tool.get("function", tool).get("name", "") for tool in conversation.tools or ()]
        missing = [part for part in parts if part not in said] + [name for name in tools if name not in before]
        if missing:
            raise UserError(f"{conversation.where}: the chat template leaves out {shorten(missing[0])} in message {len(context)}")
        num_images = sum(isinstance(message["content"], list) and _num_images(message["content"]) for message in context)
        return _Turn(before, said[:end], num_images)

    def _document(self, conversation: Conversation, chain: Sequence[_Turn]) -> Document:
        """Text between turns and text of turns, each tokenised by itself; nothing after the last turn."""
        token_ids, is_trained, done = [], [], 0
        for turn in chain:
            for tokens, trained in ((self.renderer.encode(turn.before[done:]), False), (self._written(conversation, turn.said), True)):
                token_ids.append(tokens)
                is_trained.append(np.full(len(tokens), trained))
            done = len(turn.before) + len(turn.said)
        document = Document(
            token_ids=np.concatenate(token_ids),
            is_trained=np.concatenate(is_trained),
            images=conversation.images[: chain[-1].num_images],
        )
        document.is_trained[0] = False  # nothing predicts it
        try:
            read(document.token_ids, document.images, self.geometry)
        except UserError as error:
            raise UserError(f"{conversation.where}: {error}") from error
        return document

    def _written(self, conversation: Conversation, said: str) -> IntArray:
        """The tokens of a turn: those that a teacher wrote where its word on them is learned, and is about them alone.

        Raises:
            UserError: the teacher's tokens are not this model's, or say something else than the message.
        """
        own, targets = self.renderer.encode(said), conversation.soft_targets
        if targets is None:
            return own
        highest, num_known = int(max(targets.token_ids.max(), targets.top_ids.max())), len(self.renderer.tokenizer)
        if highest >= num_known:
            raise UserError(f"{conversation.where}: `soft_targets` name token {highest}, and the model's tokenizer has {num_known}")
        theirs, ours = ("".join(self.renderer.text(ids).split()) for ids in (targets.token_ids, own))
        if theirs != ours:
            raise UserError(
                f"{conversation.where}: `soft_targets` say {shorten(theirs)} by the model's tokenizer, and the message {shorten(ours)}: "
                "another vocabulary, or the message was changed"
            )
        return targets.token_ids


def _num_images(parts: Sequence[Message]) -> int:
    return sum(part["type"] == "image" for part in parts)


def _thinking_apart(message: Message) -> Message:
    if not isinstance(message["content"], str):
        return message
    thinking, answer = _thinking_and_answer(message)
    return {**message, "content": answer, "reasoning_content": thinking} if thinking else message


def _thinking_and_answer(message: Message) -> tuple[str, str]:
    """Without white space around them; no thinking is ""."""
    block = THINK_BLOCK.match(message["content"])
    thinking = block[1].strip() if block else message.get("reasoning_content", "")
    return thinking, message["content"][block.end() if block else 0 :].strip()
