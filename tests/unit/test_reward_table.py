"""TEDS: distances by hand, HTML and Markdown as trees, and the caps."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.base import Abstain
from posttrain.rewards.table import (
    ANSWER_NODES_MAX,
    REFERENCE_NODES_MAX,
    Node,
    Table,
    change_cost,
    last_html_table,
    last_table,
    num_nodes,
    tree_distance,
)
from posttrain.types import Episode, Prompt, Turn

SIZE = 100_000


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def score(reference, text):
    prompt = Prompt(id="test/1", task="test", messages=[{"role": "user", "content": "copy the table"}], reference=reference)
    return Table().score(prompt, episode(text))


def html(*rows):
    """A table of cell texts."""
    return "<table>" + "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows) + "</table>"


def texts(table):
    return [[cell.text for cell in row.children] for row in table.children]


SQUARE = html(["a", "b"], ["c", "d"])  # 2 rows and 4 cells


# The formula


@pytest.mark.parametrize(
    ("answer", "distance", "num_nodes"),
    [
        (SQUARE, 0, 6),
        (html(["a", "b"], ["c", "x"]), 1, 6),
        (html(["a", "b"], ["c", "dd"]), 1 / 2, 6),
        (html(["a", "b"], ["c", ""]), 1, 6),
        (html(["a", "b"], ["c"]), 1, 6),
        (html(["a", "b"]), 3, 6),
        (html(["a", "b"], ["c", "d"], ["e", "f"]), 3, 9),
        (html(["a", "b", "c", "d"]), 3, 6),  # the row goes and two come; the cells stay
        ("<table></table>", 6, 6),
        ("<table><tr><td>a<td colspan=2>b<tr><td>c<td>d", 1, 6),
        ("<table><tr><td>a<td rowspan='2'>b<tr><td>c<td>d</table>", 1, 6),
    ],
)
def test_distances_by_hand(answer, distance, num_nodes):
    scored = score(SQUARE, answer)
    assert scored.details["distance"] == pytest.approx(distance)
    assert scored.value == pytest.approx(1 - distance / num_nodes)


def test_the_score_is_never_below_0():
    row, column = html(["a"] * 5), html(*[[]] * 6)  # 6 nodes each: five cells become rows, one row goes, one comes
    scored = score(column, row)
    assert scored.details == {"num_nodes": 6, "distance": 7.0}
    assert scored.value == 0.0


def test_the_cost_of_changing_a_node():
    assert change_cost(Node("td", "kitten"), Node("td", "sitting")) == pytest.approx(3 / 7)
    assert change_cost(Node("td"), Node("td")) == 0
    assert change_cost(Node("td", "a"), Node("td")) == 1
    assert change_cost(Node("td", "a", column_span=2), Node("td", "a")) == 1
    assert change_cost(Node("td", "a", row_span=2), Node("td", "a", row_span=3)) == 1
    assert change_cost(Node("tr"), Node("tr")) == 0
    assert change_cost(Node("tr"), Node("td")) == 1


# Tables as trees


@pytest.mark.parametrize(
    "text",
    [
        "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>c</td><td>d</td></tr></tbody></table>",
        "<TABLE border='1'>\n <TR>\n  <TD align=left> a </TD><td>b\n <tr><td>c<td>d",  # closing tags left out, cut off
        "<table><td>a<td>b<tr><td>c<td>d</table>",
        "```html\n" + SQUARE + "\n```",
        "Here it is:\n\n" + SQUARE + "\n\nThe end.",
        html(["x"]) + SQUARE.replace(">a<", "> a\n<"),
        "<table><caption>no cell</caption><tr><td><b>a</b></td><td><i>b</i></td></tr><tr><td>c<br/></td><td>&#100;</td></tr></table>",
        "| a | b |\n|---|---|\n| c | d |",
        "Text\n\na | b\n:-- | --:\nc | d\n\nText",
        "|x|\n|-|\n\n| a | b |\n|:-:|-|\n| c | d |\nno row",
        "<think>" + html(["x"]) + "</think>" + SQUARE,
        SQUARE.replace("<td>a", "<td><p>a</p>"),
    ],
)
def test_forms_of_one_table(text):
    assert score(SQUARE, text).value == 1.0


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("<table><tr><td>1 &lt; 2 &amp; 3</td></tr></table>", [["1 < 2 & 3"]]),
        ("<table><tr><td>1 < 2</td><td>a <3</td></tr></table>", [["1 < 2", "a <3"]]),
        ("<table><tr><td>H<sub>2</sub>O</td><td>a<br>b</td></tr></table>", [["H2O", "a b"]]),
        ("<table><tr><td>a&nbsp; \n b</td></tr></table>", [["a b"]]),
        ("<table><tr><td>a<table><tr><td>b</td></tr></table>c</td><td>d</td></tr></table>", [["abc", "d"]]),
        ("<table><tr></tr><tr><td></td></tr></table>", [[], [""]]),
        ("<table>stray<tr>stray<td>a</td>stray</tr></table>stray", [["a"]]),
        ("</table></td><table><tr><td>a", [["a"]]),
        ("<td>x</td><table><tr><td>a</table><td>y</td>", [["a"]]),
        ("| a \\| b | c |\n|---|---|\n| d |\n| 1 < 2 | **e** | f |", [["a | b", "c"], ["d"], ["1 < 2", "**e**", "f"]]),
        ("| a<br>b | &lt; |\n|---|---|", [["a b", "<"]]),
        ("|姓名|\n|---|\n|张三|", [["姓名"], ["张三"]]),
        ("||a|\n|-|-|\n|||", [["", "a"], ["", ""]]),
    ],
)
def test_cells_of_a_table(text, rows):
    assert texts(last_table(text)) == rows


@pytest.mark.parametrize(
    ("written", "span"), [("2", 2), (" 2 ", 2), ("0", 1), ("-1", 1), ("x", 1), ("", 1), ("1e9", 1), ("9" * 5000, 1), ("NaN", 1)]
)
def test_spans(written, span):
    cell = last_html_table(f'<table><tr><td colspan="{written}" rowspan="{written}">a').children[0].children[0]
    assert (cell.column_span, cell.row_span) == (span, span)


@pytest.mark.parametrize(
    "text", ["", "no table", "<think>" + SQUARE, "a | b\nc | d", "a | b\n|---|", "---|---", "<tr><td>a</td></tr>", "&lt;table&gt;"]
)
def test_an_answer_without_a_table_scores_0(text):
    assert last_table(text.partition("<think>")[0]) is None
    assert score(SQUARE, text).value == 0.0


@pytest.mark.parametrize("reference", [None, "", "a", "<table></table>", "| a |\n|---|", 5, ["<table>"], float("nan")])
def test_a_reference_without_a_table_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="expected HTML with a table"):
        score(reference, SQUARE)


# Properties

cells = st.lists(st.lists(st.text(alphabet="ab", max_size=3), max_size=3), min_size=1, max_size=3)


@given(cells, cells)
def test_symmetric_between_0_and_1_and_1_for_the_same_table_alone(a, b):
    first, second = score(html(*a), html(*b)), score(html(*b), html(*a))
    assert first.value == pytest.approx(second.value)
    assert 0 <= first.value <= 1
    assert (first.value == 1) == (a == b)


@given(cells, cells, cells)
def test_the_distance_obeys_the_triangle_on_whole_costs(a, b, c):
    # Cells of at most one letter: then every cost is 0 or 1, and the cost of a change is a metric.
    x, y, z = (last_html_table(html(*[[cell[:1] for cell in row] for row in rows])) for rows in (a, b, c))
    assert tree_distance(x, z) <= tree_distance(x, y) + tree_distance(y, z)


@given(cells, cells)
def test_the_distance_is_at_least_the_difference_in_size(a, b):
    x, y = last_html_table(html(*a)), last_html_table(html(*b))
    assert abs(num_nodes(x) - num_nodes(y)) <= tree_distance(x, y) + 1e-9 <= num_nodes(x) + num_nodes(y) + 2e-9


@given(st.lists(st.lists(st.sampled_from(["a", "b c", "1 < 2", "x & y", ""]), min_size=2, max_size=2), min_size=1, max_size=4))
def test_markdown_and_html_are_one_table(rows):
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    markdown = "\n".join([lines[0], "|---|---|", *lines[1:]])
    assert texts(last_table(markdown)) == texts(last_table(html(*rows))) == rows


@given(
    st.lists(
        st.sampled_from(
            ["<table", "<table>", "</table>", "<tr>", "<td", " colspan=", '"', "'", ">", "<", "/", "a", "&", "|", "-", "\n", "<!--", "\\"]
        )
    )
)
def test_no_text_of_the_policy_breaks_it(pieces):
    assert 0 <= score(SQUARE, "".join(pieces)).value <= 1


# Size


def test_a_reference_above_the_cap_is_abstained_from():
    rows = REFERENCE_NODES_MAX // 2
    assert score(html(*[["a"]] * rows), html(["a"])).value > 0
    above = score(html(*[["a"]] * (rows + 1)), html(["a"]))
    assert isinstance(above, Abstain) and f"has {2 * rows + 2} rows and cells" in above.reason


def test_an_answer_above_the_cap_scores_0_at_once():
    rows = ANSWER_NODES_MAX // 2
    assert score(SQUARE, html(["a", "b"], ["c", "d"], *[["a"]] * (rows - 3))).value > 0
    assert score(SQUARE, html(["a", "b"], ["c", "d"], *[["a"]] * rows)).value == 0.0


@pytest.mark.slow
def test_the_largest_pair_is_done_in_some_seconds():
    columns = 9
    reference = html(*[[f"r{i}{j}" for j in range(columns)] for i in range(REFERENCE_NODES_MAX // (columns + 1))])
    answer = html(*[[f"a{i}{j}" for j in range(columns)] for i in range(ANSWER_NODES_MAX // (columns + 1))])
    began = time.process_time()
    assert 0 < score(reference, answer).value < 1
    assert time.process_time() - began < 30


@pytest.mark.parametrize("start", ["", "<table>", "<table><tr><td>"])
@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "</",
        "<a ",
        "<a b",
        "<a/",
        '<a a="',
        "<a =",
        "<td ",
        "<td a='>",
        '<td a=">',
        "<td a='>\"",
        "<td a>",
        "<td/",
        "<td/>",
        "</td ",
        "</td a>",
        "<table>",
        "<table ",
        "<!--",
        "<!-- -",
        "<![CDATA[",
        "<?",
        "<script>",
        "<td>",
        "<tr>",
        "&",
        "&#",
        "&lt;",
        "|",
        "|-",
        "|-\n",
        "|a\n|-\n",
        "\\|",
        "\n",
        " ",
        "-",
        "<td =\"'>",
        "<td a=' b=\" >",
        "<table>a",
    ],
)
def test_long_texts_are_scored_in_time(start, piece):
    text = start + piece * (SIZE // len(piece))
    began = time.process_time()
    score(SQUARE, text)
    assert time.process_time() - began < 5
