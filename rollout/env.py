"""What answers the policy between turns."""

from typing import Protocol

from posttrain.types import Message, Prompt, Turn


class Environment(Protocol):
    """The other side of a conversation.

    `respond` is called in a thread of its own after every turn that ended with the stop token, while other episodes go
    on; it may take its time. It raises only for a failure of its own, which costs the episode, never for a mistake of
    the policy: that is an answer too.
    """

    def respond(self, prompt: Prompt, turns: list[Turn]) -> list[Message] | None:
        """The messages that follow the last turn, or None when the episode is over."""


class SingleTurn:
    """The policy speaks once."""

    def respond(self, prompt: Prompt, turns: list[Turn]) -> list[Message] | None:
        """Always None."""
        return None
