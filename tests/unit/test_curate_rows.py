"""Rows: what is read in which form, what cannot be read, and `normalise`."""

import base64
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from posttrain.curate.normalise import Normalise, normalised
from posttrain.curate.rows import Row, read, to_line, write, write_parquet
from posttrain.data.images import take_images
from posttrain.errors import UserError

ASKED = {"role": "user", "content": "What is 1 + 1?"}
ANSWERED = {"role": "assistant", "content": "2"}
SEEN = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "How many?"}]}


def row(**data):
    return Row(where="rows line 1", data=data)


@pytest.fixture
def jsonl(tmp_path):
    def put(*lines):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return put


@pytest.mark.parametrize(
    ("data", "question", "response"),
    [
        ({"prompt": "What is 1 + 1?"}, [ASKED], None),
        ({"prompt": "What is 1 + 1?", "response": "2"}, [ASKED], "2"),
        ({"messages": [ASKED]}, [ASKED], None),
        ({"messages": [ASKED], "response": "2"}, [ASKED], "2"),
        ({"messages": [ASKED, ANSWERED]}, [ASKED], "2"),
        ({"messages": [ASKED, ANSWERED, ASKED]}, [ASKED, ANSWERED, ASKED], None),
    ],
)
def test_question_and_response_in_every_form(jsonl, data, question, response):
    [found] = read(jsonl(data), "rows.jsonl")
    assert (found.question, found.response, found.where) == (question, response, "rows.jsonl line 1")
    assert found.data == data


def test_parquet_rows_have_all_columns_and_no_nulls(tmp_path):
    rows = [Row(where="", data={"messages": [ASKED], "answer": 2, "level": "a"}), Row(where="", data={"messages": [ASKED, ANSWERED]})]
    write_parquet(tmp_path / "rows.parquet", rows)
    assert [one.data for one in read(tmp_path / "rows.parquet", "p")] == [one.data for one in rows]
    assert [one.where for one in read(tmp_path / "rows.parquet", "p")] == ["p row 1", "p row 2"]


def test_values_of_two_types_do_not_fit_parquet(tmp_path):
    with pytest.raises(UserError, match="format=parquet: the rows do not fit a table"):
        write_parquet(tmp_path / "rows.parquet", [row(answer=1), row(answer="a")])


BAD = {
    '{"prompt": ': "not JSON",
    '{"answer": 1}': "expected one of `messages` and `prompt`; there is: answer",
    '{"prompt": "a", "messages": []}': "expected one of `messages` and `prompt`",
    '{"prompt": 5}': "`prompt` is 5",
    '{"messages": []}': "`messages` is []",
    '{"messages": [{"role": "usr", "content": "a"}]}': "message 0 has role 'usr'; did you mean user?",
    '{"messages": [{"role": "user", "content": 5}]}': "message 0 has content 5",
    '{"messages": [{"role": "user", "content": [{"text": "a"}]}]}': "expected a text or a list of typed parts",
    '{"messages": [{"role": "system", "content": "a"}]}': "no message is the user's",
    '{"prompt": "a", "response": 3}': "`response` is 3",
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "response": "c"}': "there is a `response` too",
}


@pytest.mark.parametrize("line", BAD)
def test_a_row_that_cannot_be_used_is_named_or_collected(jsonl, line):
    path = jsonl({"prompt": "a"}, line, {"prompt": "b"})
    with pytest.raises(UserError) as raised:
        [*read(path, "rows.jsonl")]
    assert str(raised.value).startswith("rows.jsonl line 2: ") and BAD[line] in str(raised.value)
    refused = []
    assert len([*read(path, "rows.jsonl", lambda one, reason: refused.append((one.where, reason)))]) == 2
    [(where, reason)] = refused
    assert where == "rows.jsonl line 2" and BAD[line] in reason


def test_bytes_are_no_rows(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"], "image": [b"png"]}), tmp_path / "r.parquet")
    with pytest.raises(UserError, match="r row 1: Object of type bytes"):
        [*read(tmp_path / "r.parquet", "r")]


def test_files_that_are_none(tmp_path):
    for name, message in (("rows.csv", "ends in .jsonl or .parquet"), ("rows.jsonl", "there is no such file")):
        with pytest.raises(UserError, match=message):
            [*read(tmp_path / name, name)]


def test_pictures_are_what_is_not_text():
    assert row(messages=[SEEN]).pictures and row(prompt="a", images=["b.png"]).pictures
    assert not row(messages=[ASKED]).pictures and not row(prompt="a").pictures
    assert row(messages=[SEEN]).question_text == "[image]\nHow many?"


def test_pictures_beside_the_file_are_found_from_where_rows_are_written(jsonl, tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(file, "PNG")
    (tmp_path / "dot.png").write_bytes(file.getvalue())
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    shown = [{"type": "image", "image": "dot.png"}, *({"type": "image_url", "image_url": {"url": name}} for name in ("dot.png", url))]
    shown += [
        {"type": "image", "path": "dot.png"},
        {"type": "image", "image": {"path": "dot.png"}},
        {"type": "image", "url": "file://dot.png"},
    ]
    monkeypatch.chdir(jsonl({"messages": [{"role": "user", "content": [*shown, {"type": "text", "text": "dot.png"}]}]}).parent.parent)
    [row] = read(Path(f"{tmp_path.name}/rows.jsonl"), "rows")
    [message], images = take_images("row", json.loads(json.dumps(row.question)), tmp_path / "elsewhere")
    assert [image.data for image in images] == [file.getvalue()] * 6 and message["content"][-1]["text"] == "dot.png"


def test_a_rewritten_question_keeps_what_it_shows():
    assert row(prompt="a", answer=1).with_question("b").data == {"prompt": "b", "answer": 1}
    assert row(messages=[ASKED, ANSWERED]).with_question("b").data["messages"] == [{"role": "user", "content": "b"}, ANSWERED]
    assert row(messages=[SEEN]).with_question("b").data["messages"][0]["content"] == [SEEN["content"][0], {"type": "text", "text": "b"}]


def test_the_content_is_what_is_asked_and_answered():
    assert row(prompt="a", answer=1, task="x", id=3).content_hash == row(prompt="a", answer=1).content_hash
    assert len({row(prompt="a", **more).content_hash for more in ({}, {"answer": 1}, {"response": "b"}, {"images": ["c"]})}) == 4
    assert row(prompt="a", response="b").question_hash == row(messages=[{"role": "user", "content": "a"}]).question_hash


def test_a_lone_surrogate_can_be_written(tmp_path):
    write(tmp_path / "a.jsonl", [{"prompt": "\ud800"}])
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"prompt": "\ud800"}
    assert to_line({"a": "\u4e2d"}) == '{"a": "\u4e2d"}'


# normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a \r\n", "a"),
        ("e\u0301", "\u00e9"),
        ("a\u00a0b\u200bc\ufeff", "a bc"),
        ("a\n\n\n\nb \t\nc", "a\n\nb\nc"),
        ("    if x:\n        y\n", "    if x:\n        y"),
        ("a\x00b\ud800", "ab"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        (" \n \u200b", ""),
    ],
)
def test_a_text_is_written_in_one_way(text, expected):
    assert normalised(text) == expected


@given(st.text(alphabet=st.sampled_from("ab \t\n\r\u00a0\u200b\u0301\u3000e\u2028x")))
def test_normalising_twice_is_normalising_once(text):
    assert normalised(normalised(text)) == normalised(text)
    assert normalised(text, keep_blank_lines=True) == normalised(normalised(text, keep_blank_lines=True), keep_blank_lines=True)


@given(st.text())
def test_any_text_can_be_normalised_once_and_for_all(text):
    assert normalised(normalised(text)) == normalised(text)


def test_rows_with_nothing_in_them_go(bench):
    datas = [
        {"prompt": " a "},
        {"prompt": "\u200b"},
        {"prompt": "a", "response": " "},
        {"prompt": "a", "answer": "\n"},
        {"prompt": "a", "answer": 0, "note": "", "tags": []},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]},
        {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}]},
    ]
    rows = [Row(where=str(index), data=data) for index, data in enumerate(datas)]
    outcome = Normalise().apply(rows, bench)
    assert [(one.where, drop.reason) for one, drop in outcome.dropped] == [
        ("1", "empty question"),
        ("2", "empty response"),
        ("3", "empty answer"),
        ("5", "empty question"),
    ]
    assert [one.data for one in outcome.kept][:2] == [{"prompt": "a"}, {"prompt": "a", "answer": 0}]
    assert outcome.counts["rows changed"] == 2
    assert Normalise().apply(outcome.kept, bench).counts["rows changed"] == 0
