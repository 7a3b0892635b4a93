"""The step `normalise`: one way to write the same text, and no fields without content.

Texts become Unicode NFC with line feeds as line ends, without control and zero-width characters, without blanks at the ends of
lines and of the text, and with at most one blank line in a row. Indentation and blanks inside a line stay: code means them.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.curate.base import Bench, Drop, Outcome, Step, sift
from posttrain.curate.rows import Row

# Joiners (U+200C, U+200D) stay: they spell words in several scripts, and emoji.
_INVISIBLE = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u0080-\u0084\u0086-\u009f\u00ad\u200b\u2060\ufeff\ud800-\udfff]")
_LINE_END = re.compile("\r\n|[\r\u0085\u2028\u2029]")
_BLANK = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_TRAILING = re.compile(r"[ \t]++$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass
class Normalise(Step):
    """One way to write the same text; rows with nothing in them go."""

    blank_lines: bool = False  # keep runs of blank lines as they are

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Reasons: empty question, empty response, empty answer."""
        outcome = sift(rows, self._look)
        before = {row.where: row.data for row in rows}
        outcome.counts["rows changed"] = sum(row.data != before[row.where] for row in outcome.kept)
        return outcome

    def _look(self, row: Row) -> Row | Drop:
        found = row.with_texts(lambda text: normalised(text, keep_blank_lines=self.blank_lines))
        if not found.pictures and not any(map(_has_content, found.question)):
            return Drop("empty question")
        if found.response == "" and not found.conversation[-1].get("tool_calls"):
            return Drop("empty response")
        if found.data.get("answer") == "":
            return Drop("empty answer")
        return Row(where=found.where, data={name: value for name, value in found.data.items() if not _is_empty(value)})


def normalised(text: str, *, keep_blank_lines: bool = False) -> str:
    """`text` as this module writes it; doing it twice changes nothing more."""
    text = _BLANK.sub(" ", _INVISIBLE.sub("", _LINE_END.sub("\n", text)))
    text = _TRAILING.sub("", unicodedata.normalize("NFC", text))
    text = text.strip("\n")
    text = text if "\n" in text else text.strip()  # before several lines it is indentation
    return text if keep_blank_lines else _BLANK_LINES.sub("\n\n", text)


def _has_content(message: dict[str, Any]) -> bool:
    content = message.get("content")
    if message["role"] == "system" or not content:
        return False
    return isinstance(content, str) or any(part["type"] != "text" or part["text"] for part in content)


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value == [] or value == {}
