"""The step `exact_duplicates`: of rows with the same content, the first stands."""

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.curate.base import Bench, Drop, Outcome, Step, require, sift
from posttrain.curate.rows import Row


@dataclass
class ExactDuplicates(Step):
    """Of rows with the same content, the first stands."""

    by: str = "content"  # content: question, response, answer and images; question: the question and its images alone

    def validate(self) -> None:
        """`by` is one of two."""
        require("by", self.by, self.by in ("content", "question"), "content or question")

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Reason: exact duplicate, of a row that is kept."""
        first: dict[str, str] = {}

        def look(row: Row) -> Row | Drop:
            digest = row.content_hash if self.by == "content" else row.question_hash
            kept = first.setdefault(digest, row.where)
            return row if kept == row.where else Drop("exact duplicate", f"of {kept}")

        return sift(rows, look)
