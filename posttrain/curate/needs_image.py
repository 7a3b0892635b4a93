"""The step `needs_image`: a question about a picture that a model answers without the picture does not teach to look.

Rows without pictures stay as they are. What a model is shown of the others is their text alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.curate.base import Bench, Drop, Outcome, require
from posttrain.curate.rows import Row
from posttrain.curate.sampling import Measured, Sampled
from posttrain.types import Message


@dataclass
class NeedsImage(Sampled):
    """Questions with pictures that a text-only model answers without them go."""

    num_samples: int = 8  # blind samples a question
    save_as: str = "blind_pass_rate"  # the row's field for counts and sampler
    max_rate: float = 0.5  # a question that is answered blind in a larger share of its samples goes

    def validate(self) -> None:
        """The rate is a share."""
        super().validate()
        require("max_rate", self.max_rate, 0 <= self.max_rate <= 1, "a share from 0 to 1")

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Reasons: solved without the image, not scored, too long."""
        asked = [row for row in rows if row.pictures and _has_text(blind(row.question))]
        found = self.measure(asked, bench, lambda row: blind(row.question)) if asked else {}
        outcome = self.verdicts(rows, found, bench, self._verdict)
        outcome.counts["rows without pictures"] = sum(not row.pictures for row in rows)
        return outcome

    def _verdict(self, measured: Measured) -> Drop | None:
        solved = measured.rate > self.max_rate
        return Drop("solved without the image", f"{measured.passed} of {measured.scored}") if solved else None


def blind(messages: Sequence[Message]) -> list[Message]:
    """The messages with their text alone."""
    return [
        {**message, "content": _texts(message["content"])} if isinstance(message.get("content"), list) else message for message in messages
    ]


def _texts(parts: list[dict[str, str]]) -> str:
    return "\n".join(part["text"] for part in parts if part["type"] == "text")


def _has_text(messages: Sequence[Message]) -> bool:
    return any(message.get("content") for message in messages if message["role"] == "user")
