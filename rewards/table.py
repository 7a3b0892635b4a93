"""The reward `teds`: the answer is a table, and it is scored by its tree edit distance from the reference table.

A table is a tree: the table, its rows, their cells. `th` is a cell like `td`, and `thead`, `tbody` and `tfoot` are not nodes,
so that HTML and Markdown of one table are one tree. Left out on purpose: inline markup (bold is its text), attributes other
than the spans, comments, tables in a cell (their text is the cell's), and captions.

The tree distance is zss's, whose time grows with the product of both sizes and more: at the caps below about 4 s of one core
and 250 MB, at 100 nodes a side 0.3 s.
"""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import takewhile

import zss
from rapidfuzz.distance import Levenshtein

from posttrain.rewards.base import Abstain, Reward, Score, answer_text
from posttrain.types import Episode, Prompt

REFERENCE_NODES_MAX = 200
ANSWER_NODES_MAX = 2 * REFERENCE_NODES_MAX
# HTMLParser takes quadratic time over brackets that never close, so it is given whole table tags and nothing else with a "<".
_BRACKET = re.compile(
    r"<(?:(?P<kept>/?(?:table|tr|td|th)(?=[\s/>])[^<>]*>)|(?P<line>/?(?:br|p|div|li)(?=[\s/>])[^<>]*>)|/?[a-z][^<>]*>)?", re.I
)
_COLUMN_BREAK = re.compile(r"(?<!\\)\|")
_DELIMITER = re.compile(r":?-+:?")
_SPAN = re.compile(r"[1-9]\d{0,3}", re.ASCII)


@dataclass(slots=True)
class Node:
    """A table, a row (`tr`) or a cell (`td`). Text with single spaces, and spans, of cells alone; a cell has no children."""

    tag: str
    text: str = ""
    column_span: int = 1
    row_span: int = 1
    children: list["Node"] = field(default_factory=list)


class Table(Reward):
    """TEDS (arXiv 1911.10683) of the answer's last table, HTML or Markdown, with the reference, HTML."""

    def score(self, prompt: Prompt, episode: Episode) -> Score | Abstain:
        """1 - distance / max(|a|, |b|), in [0, 1], where |.| counts rows and cells; 1.0 for the same tree alone.

        HTML wins over Markdown in one answer; a table that was cut off counts as far as it goes. An answer without a table
        scores 0.0, and so does one of more than ANSWER_NODES_MAX rows and cells, unseen: the distance would take too long.
        Abstains when the reference has more than REFERENCE_NODES_MAX. Raises ValueError: the reference is not HTML with a
        table that has a row.
        """
        reference = last_html_table(prompt.reference) if isinstance(prompt.reference, str) else None
        if reference is None or not reference.children:
            raise ValueError(f"the reference is {prompt.reference!r}, expected HTML with a table that has a row")
        if (num_reference := num_nodes(reference)) > REFERENCE_NODES_MAX:
            return Abstain(f"the reference table has {num_reference} rows and cells, more than {REFERENCE_NODES_MAX}")
        answer = last_table(answer_text(episode))
        num_answer = num_nodes(answer) if answer else 0
        if answer is None or num_answer > ANSWER_NODES_MAX:
            return Score(0.0, {"num_nodes": num_answer})
        distance = tree_distance(answer, reference)
        return Score(max(0.0, 1 - distance / max(num_answer, num_reference)), {"num_nodes": num_answer, "distance": distance})


def tree_distance(a: Node, b: Node) -> float:
    """The least cost of edits that turn `a` into `b` (Zhang and Shasha): inserting and deleting cost 1, changing see `change_cost`.

    Symmetric, and 0.0 for equal trees alone. It may pass max(|a|, |b|), where one table is all rows and the other all
    columns, which is why the reward is cut off at 0.
    """
    if a == b:
        return 0.0
    return float(zss.distance(a, b, lambda node: node.children, lambda node: 1, lambda node: 1, change_cost))


def change_cost(a: Node, b: Node) -> float:
    """Cost of changing one node into the other, in [0, 1].

    Two cells of equal spans: Levenshtein / max length of their texts (0.0 when both are empty). Two rows, or two tables: 0.0.
    All else 1.0.
    """
    if (a.tag, a.column_span, a.row_span) != (b.tag, b.column_span, b.row_span):
        return 1.0
    return Levenshtein.normalized_distance(a.text, b.text)


def num_nodes(table: Node) -> int:
    """Rows and cells of `table`; the table itself is not counted, so that an empty one has nothing in common with any other."""
    return sum(1 + len(row.children) for row in table.children)


def last_table(text: str) -> Node | None:
    """The last HTML table of `text`; where there is none, its last Markdown table; None without either."""
    table = last_html_table(text)
    if table is not None:
        return table
    markdown = _last_markdown_table(text)
    return last_html_table(_as_html(markdown)) if markdown else None


def last_html_table(text: str) -> Node | None:
    """The last table that `text` opens, None when it opens none.

    As lenient as a browser: closing tags may be missing, a cell outside of a row opens one, entities are resolved, a span
    that is no number from 1 to 9999 is 1. An attribute cannot hold "<" or ">".
    """
    parser = _TableParser()
    parser.feed(_BRACKET.sub(_table_markup, text))
    parser.close()
    if not parser.tables:
        return None
    table = parser.tables[-1]
    for row in table.children:
        for cell in row.children:
            cell.text = " ".join(cell.text.split())
    return table


class _TableParser(HTMLParser):
    """Collects the outermost tables; the open row and cell are those of the outermost, `_depth` is how many tables are open."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[Node] = []
        self._depth = 0
        self._row: Node | None = None
        self._cell: Node | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._depth += 1
            if self._depth == 1:
                self.tables.append(Node("table"))
        elif self._depth == 1 and tag == "tr":
            self._row, self._cell = self._open_row(), None
        elif self._depth == 1:
            self._row = self._row or self._open_row()
            spans = dict(attrs)
            self._cell = Node("td", column_span=_span(spans.get("colspan")), row_span=_span(spans.get("rowspan")))
            self._row.children.append(self._cell)

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._depth = max(0, self._depth - 1)
        if self._depth > 1 or (self._depth == 1 and tag == "table"):
            return
        self._cell = None
        if tag in ("tr", "table"):
            self._row = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.text += data

    def _open_row(self) -> Node:
        row = Node("tr")
        self.tables[-1].children.append(row)
        return row


def _table_markup(match: re.Match[str]) -> str:
    if match["kept"]:
        return match[0]
    if match["line"]:
        return " "
    return "" if len(match[0]) > 1 else "&lt;"


def _span(value: str | None) -> int:
    match = _SPAN.fullmatch((value or "").strip())
    return int(match[0]) if match else 1


def _last_markdown_table(text: str) -> list[list[str]]:
    """Cells of the last table in pipes: a row of heads, a row of dashes with as many cells, then rows up to a line without a pipe."""
    lines = [_markdown_cells(line) for line in text.splitlines()]
    for i in range(len(lines) - 1, 0, -1):
        if len(lines[i]) == len(lines[i - 1]) and lines[i] and all(map(_DELIMITER.fullmatch, lines[i])):
            return [lines[i - 1], *takewhile(bool, lines[i + 1 :])]
    return []


def _markdown_cells(line: str) -> list[str]:
    """The cells of a line, none where it has no pipe; a pipe is written as \\| inside of a cell."""
    cells = [cell.strip().replace("\\|", "|") for cell in _COLUMN_BREAK.split(line.strip())]
    if len(cells) < 2:
        return []
    return cells[(not cells[0]) : len(cells) - (not cells[-1])]


def _as_html(rows: list[list[str]]) -> str:
    return f"<table>{''.join('<tr>' + ''.join(f'<td>{cell}' for cell in row) for row in rows)}</table>"
