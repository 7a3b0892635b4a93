"""Verifiable constraints on the layout of a text: lists, headings, marks of Markdown, JSON, parts in an agreed order.

Markdown is read line by line and what stands in fenced blocks is no Markdown. Left out on purpose: a Markdown parser; nesting of
lists; layout that only shows when rendered.
"""

import json
import re
from collections.abc import Mapping

from posttrain.rewards.constraints_base import Check, Count
from posttrain.rewards.texts import fenced_blocks, lines, paragraphs, without_fenced_blocks

_BULLET = re.compile(r"\s*+[-*+\u2022\u00b7][^\S\n]++(?=\S)")
_NUMBER = re.compile(r"\s*+(\d{1,4})(?:[.)][^\S\n]|[\u3001\uff0e])\s*+\S")
_HEADING = re.compile(r"[^\S\n]{0,3}(#{1,6})[^\S\n]++\S")
_HIGHLIGHT = re.compile(r"\*\*(?!\s)[^*\n]++(?<!\s)\*\*|\*(?!\s)[^*\n]++(?<!\s)\*|==(?!\s)[^=\n]++(?<!\s)==")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]++\](?!\()|\u3010[^\u3010\u3011\n]++\u3011")
_TITLE = re.compile(r"<<[^\S\n]*+[^<>\s][^<>\n]*+>>|\u300a[^\S\n]*+[^\u300a\u300b\s][^\u300a\u300b\n]*+\u300b")
_TABLE_RULE = re.compile(r"\s*+\|?[\s:]*+-[-:|\s]*+")
_RESPONSE_SEPARATOR = "******"
_JSON_LABELS = frozenset({"", "json"})


def bullets(text: str) -> int:
    """Items of bulleted lists."""
    return sum(1 for line in _markdown(text) if _BULLET.match(line))


def numbered_items(text: str) -> int:
    """Items of the longest numbered list, counted from 1 as long as each number follows the one before."""
    numbers = [int(found[1]) for line in _markdown(text) if (found := _NUMBER.match(line))]
    longest = current = 0
    for number in numbers:
        current = number if number in (1, current + 1) else 0
        longest = max(longest, current)
    return longest


def headings(text: str) -> int:
    """Markdown headings, # to ######."""
    return sum(1 for line in _markdown(text) if _HEADING.match(line))


def heading_levels(text: str) -> int:
    """Different levels of Markdown headings."""
    return len({len(found[1]) for line in _markdown(text) if (found := _HEADING.match(line))})


def sections(text: str, *, marker: str) -> int:
    """Sections that start with a line "marker 1", "marker 2" and so on, such as SECTION 1 or # Part 2."""
    pattern = re.compile(rf"[\s#*]*+{re.escape(marker.strip())}\s*+\d")
    return sum(1 for line in _markdown(text) if pattern.match(line))


def highlights(text: str) -> int:
    """Spans set off by *one*, **two** or ==equals== signs."""
    return sum(len(_HIGHLIGHT.findall(line, bullet.end() if (bullet := _BULLET.match(line)) else 0)) for line in _markdown(text))


def placeholders(text: str) -> int:
    """Placeholders in square brackets, such as [name]; links are none."""
    return len(_PLACEHOLDER.findall(text))


def table_rows(text: str) -> int:
    """Lines of Markdown tables, headers included and rules (|---|) left out."""
    rows = (line.strip() for line in _markdown(text))
    return sum(1 for row in rows if row.startswith("|") and row.endswith("|") and len(row) > 1 and not _TABLE_RULE.fullmatch(row))


def code_blocks(text: str) -> int:
    """Fenced blocks of whatever language."""
    return len(fenced_blocks(text))


def postscript(text: str, *, marker: str) -> bool:
    """The last paragraph starts a line with the marker, such as P.S., and something follows the marker."""
    last = paragraphs(text)[-1:]
    return any(line.lstrip("* ").startswith(marker.strip()) and line.strip("* ") != marker.strip() for part in last for line in lines(part))


def title(text: str) -> bool:
    """Has a title in double angle brackets, << >>, or in the Chinese \u300a\u300b."""
    return _TITLE.search(text) is not None


def json_only(text: str) -> bool:
    """Is a JSON object or array and nothing else; a fence around it is allowed."""
    blocks = fenced_blocks(text)
    if len(blocks) == 1 and blocks[0].label in _JSON_LABELS and not without_fenced_blocks(text).strip():
        text = blocks[0].code
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def two_responses(text: str) -> bool:
    """Two different responses, and nothing else, with ****** between them."""
    parts = [part.strip() for part in text.split(_RESPONSE_SEPARATOR)]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def paragraph_starts_with(text: str, *, number: int, prefix: str) -> bool:
    """The paragraph of this number, counted from 1, starts with the prefix, without regard to case."""
    found = paragraphs(text)[number - 1 : number] if number else []
    return any(paragraph.casefold().startswith(prefix.strip().casefold()) for paragraph in found)


def paragraphs_separated_by(text: str, *, separator: str) -> bool:
    """At least two parts stand between lines that hold the separator alone, and none of them is empty."""
    parts, current = [], list[str]()
    for line in text.split("\n"):
        if line.strip() == separator.strip():
            parts.append(current)
            current = []
        else:
            current.append(line)
    parts.append(current)
    return len(parts) > 1 and all("".join(part).strip() for part in parts)


def no_markdown(text: str) -> bool:
    """No heading, bullet, highlight, inline code or fence."""
    return "`" not in text and not (headings(text) or bullets(text) or highlights(text))


def _markdown(text: str) -> list[str]:
    return without_fenced_blocks(text).split("\n")


COUNTS: Mapping[str, Count] = {
    count.__name__: count
    for count in (bullets, numbered_items, headings, heading_levels, sections, highlights, placeholders, table_rows, code_blocks)
}
"""Counting functions by name; each becomes a constraint with the bounds min and max."""

CHECKS: tuple[Check, ...] = (
    postscript,
    title,
    json_only,
    two_responses,
    paragraph_starts_with,
    paragraphs_separated_by,
    no_markdown,
)
"""Constraints that hold or do not."""
