"""Conversations: which rows can be used, which tokens the assistant wrote, and nothing else trained."""

import base64
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from posttrain.config import TaskConfig
from posttrain.data.conversations import load_conversations
from posttrain.data.rendered import render_rows
from posttrain.errors import UserError
from posttrain.model import load_tokenizer
from posttrain.rollout.transcript import Transcriber

ONE_PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
REWRITES = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and not loop.last %}{{ message.content.split('</think>')[-1].strip() }}"
    "{% else %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def pair(i, answer="yes"):
    return {"messages": [user(f"{i}?"), assistant(answer)]}


@pytest.fixture
def jsonl(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    return write


def task(path, **keys):
    return TaskConfig(**{"name": "chat", "source": "file", "path": str(path)} | keys)


@pytest.fixture(scope="module")
def tokenizer(tiny_path):
    return load_tokenizer(tiny_path)


def transcriber(tokenizer, template=None, *, last_turn_only=False, may_cut=True):
    if template:
        tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|im_end|>", chat_template=template)
    return Transcriber(tokenizer, last_turn_only=last_turn_only, may_cut=may_cut)


def spoken(tokenizer, document):
    """(whole text, [text of each trained stretch])."""
    ids, trained = document.token_ids, document.is_trained
    edges = np.flatnonzero(np.diff(np.concatenate([[0], trained.astype(int), [0]])))
    stretches = [tokenizer.decode(ids[start:stop]) for start, stop in edges.reshape(-1, 2)]
    return tokenizer.decode(ids), stretches


# Rows


def test_every_source_gives_the_same_conversations(jsonl, tmp_path):
    rows = [pair(i) for i in range(5)]
    expected = [row.messages for row in load_conversations(task(jsonl(*rows)))[0]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "folder").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "folder/a.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:]), tmp_path / "folder/b.parquet")
    for path, source in (("rows.parquet", "file"), ("saved", "dataset"), ("splits", "dataset"), ("folder", "dataset")):
        conversations, problems = load_conversations(task(tmp_path / path, source=source))
        assert not problems and [row.messages for row in conversations] == expected, path
    assert conversations[2].where == f"{tmp_path}/folder/b.parquet row 1"
    with pytest.raises(UserError, match=r"task\.path=.*nowhere/at-all \(missing folder or unknown hub name\)"):
        load_conversations(task("nowhere/at-all", source="dataset"))


BAD = {
    '{"messages": [': "not JSON",
    '{"messages": []}': "`messages` is [], expected a list",
    '{"prompt": "?"}': "no `messages`; there is: prompt",
    json.dumps({"messages": [{"role": "narrator", "content": "?"}]}): "message 0 has role 'narrator'; known: assistant, system",
    json.dumps({"messages": [user("?")]}): "no message is the assistant's",
    json.dumps({"messages": [user("?"), assistant("")]}): "message 1 has content '', expected a text",
    json.dumps({"messages": [user("?"), assistant("", tool_calls=[{"function": {"name": "add", "arguments": "{"}}])]}): "tool call 0",
    json.dumps({"messages": [user([{"type": "image", "image": "gone.png"}]), assistant("a cat")]}): "cannot be read",
    json.dumps({"messages": [user([{"type": "image", "image": "rows.jsonl"}]), assistant("a cat")]}): "image 0 is broken",
    json.dumps({"messages": [user([{"type": "video", "video": "a.mp4"}]), assistant("a cat")]}): "a part of type 'video', expected text",
    json.dumps({**pair(0), "thinking": "yes"}): "`thinking` is 'yes', expected true or false",
    json.dumps({**pair(0), "tools": ["add"]}): "`tools` is ['add'], expected a list of schemas",
}


def test_each_bad_row_is_one_line_with_its_place_and_the_others_are_used(jsonl):
    path = jsonl(pair(0), *BAD, pair(1))
    conversations, problems = load_conversations(task(path))
    assert [row.where for row in conversations] == [f"{path} line 1", f"{path} line {len(BAD) + 2}"]
    assert len(problems) == len(BAD)
    for number, (problem, expected) in enumerate(zip(problems, BAD.values(), strict=True), start=2):
        assert problem.startswith(f"{path} line {number}: ") and expected in problem and "\n" not in problem


def test_images_are_carried_and_refused_by_a_text_model(jsonl, tokenizer, tmp_path):
    (tmp_path / "dot.png").write_bytes(ONE_PIXEL)
    url = f"data:image/png;base64,{base64.b64encode(ONE_PIXEL).decode()}"
    parts = [{"type": "image", "image": "dot.png"}, {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    ([row], problems) = load_conversations(task(jsonl({"messages": [user(parts), assistant("dots")]})))
    assert not problems and [image.data for image in row.images] == [ONE_PIXEL, ONE_PIXEL]
    assert [part["type"] for part in row.messages[0]["content"]] == ["image", "image", "text"]
    with pytest.raises(UserError, match="line 1: holds an image, and the model reads text only"):
        transcriber(tokenizer).documents(row)


def test_thinking_is_kept_by_the_rows_word_or_in_exactly_the_set_share(jsonl):
    inline = [pair(i, f"<think>\nhm {i}\n</think>\n\nyes") for i in range(40)]
    apart = [{"messages": [user(f"{i}"), assistant("no", reasoning_content=f"hm {i}")]} for i in range(40)]
    own = [{**pair(f"own {i}", "<think>so</think>yes"), "thinking": i % 2 == 0} for i in range(10)]
    path = jsonl(*inline, *apart, *own, *(pair(i) for i in range(7)))

    def kept(share):
        conversations, _ = load_conversations(task(path, thinking=share))
        return {row.where for row in conversations if "<think>" in row.messages[-1]["content"]}, conversations

    quarter, conversations = kept(0.25)
    assert len(quarter) == 20 + 5
    assert quarter < kept(0.5)[0] and len(kept(1.0)[0]) == 85 and len(kept(0.0)[0]) == 5
    texts = {row.messages[-1]["content"] for row in conversations}
    assert {"yes", "no"} < texts and any(text.startswith("<think>\nhm") and text.endswith("</think>\n\nno") for text in texts)


def test_parts_that_are_all_text_are_one_text(jsonl):
    parts = [{"type": "text", "text": "<think>hm</think>"}, {"type": "text", "text": "yes"}]
    (apart, whole), _ = load_conversations(task(jsonl({"messages": [user("?"), assistant(parts)]}, pair("")), thinking=0.0))
    assert apart.messages == whole.messages and apart.messages[1]["content"] == "yes"


# Tokens


def conversation(jsonl, *messages, **fields):
    ([row], problems) = load_conversations(task(jsonl({"messages": list(messages), **fields})))
    assert not problems
    return row


def test_what_the_assistant_says_and_its_end_of_turn_are_trained_and_nothing_else(jsonl, tokenizer):
    row = conversation(jsonl, {"role": "system", "content": "Be brief."}, user("1 + 1?"), assistant("2"), user("and 1?"), assistant("\n3"))
    (document,) = transcriber(tokenizer).documents(row)
    text, stretches = spoken(tokenizer, document)
    assert stretches == ["2<|im_end|>", "\n3<|im_end|>"]
    assert text == tokenizer.apply_chat_template(row.messages, tokenize=False).removesuffix("\n")
    # A turn's context is what an engine would be given.
    opened = tokenizer.apply_chat_template(row.messages[:2], tokenize=False, add_generation_prompt=True)
    assert document.token_ids[: int(np.flatnonzero(document.is_trained)[0])].tolist() == tokenizer.encode(opened)
    (last,) = transcriber(tokenizer, last_turn_only=True).documents(row)
    assert spoken(tokenizer, last) == (text, ["\n3<|im_end|>"])


def test_a_template_that_rewrites_history_is_cut_by_turns_or_refused(jsonl, tokenizer):
    thought = "<think>hm</think>two"
    row = conversation(jsonl, user("1 + 1?"), assistant(thought), user("and 1?"), assistant("<think>so</think>three"))
    first, second = transcriber(tokenizer, REWRITES).documents(row)
    assert spoken(tokenizer, first)[1] == [f"{thought}<|im_end|>"]
    text, stretches = spoken(tokenizer, second)
    assert stretches == ["<think>so</think>three<|im_end|>"] and "hm" not in text and "two<|im_end|>" in text
    with pytest.raises(UserError, match="line 1: the chat template changes earlier messages"):
        transcriber(tokenizer, REWRITES, may_cut=False).documents(row)
    (document,) = transcriber(tokenizer).documents(row)  # a template that appends needs no cut
    assert len(spoken(tokenizer, document)[1]) == 2


def test_tool_calls_are_trained_and_results_are_not(jsonl, tokenizer):
    call = assistant(None, tool_calls=[{"function": {"name": "add", "arguments": '{"a": 1}'}}])
    row = conversation(jsonl, user("1 + 1?"), call, {"role": "tool", "content": "2"}, assistant("It is 2."), tools=[TOOL])
    (document,) = transcriber(tokenizer, WITH_TOOLS).documents(row)
    text, stretches = spoken(tokenizer, document)
    assert '"name": "add", "description": "Adds."' in text
    assert stretches == ['<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|im_end|>', "It is 2.<|im_end|>"]
    (plain,) = transcriber(tokenizer).documents(row)  # a template that knows no tools is told of them in plain messages
    text, stretches = spoken(tokenizer, plain)
    assert '<tools>\n{"type": "function", "function": {"name": "add"' in text and "<tool_response>\n2\n</tool_response>" in text
    assert stretches == ['<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>', "It is 2.<|im_end|>"]


def test_a_turn_that_is_empty_without_its_thinking_is_refused(jsonl, tokenizer):
    row = conversation(jsonl, user("?"), assistant("<think>hm</think>"), thinking=False)
    with pytest.raises(UserError, match="line 1: message 1 says nothing"):
        transcriber(tokenizer).documents(row)


def test_thinking_goes_where_the_template_wants_it(jsonl, tokenizer):
    apart = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<thought>{{ m.reasoning_content }}</thought>"
        "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = conversation(jsonl, user("1 + 1?"), assistant("<think>\nhm\n</think>\n\ntwo"))
    (document,) = transcriber(tokenizer, apart).documents(row)
    assert spoken(tokenizer, document)[1] == ["<thought>hm</thought>two<|im_end|>"]
    (document,) = transcriber(tokenizer).documents(row)
    assert spoken(tokenizer, document)[1] == ["<think>\nhm\n</think>\n\ntwo<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no\nsystem') }}", "the chat template refuses it: no system"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}", "where the assistant starts"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "ends message 1 with no special token"),
        ("{% for m in messages %}{{ m.content.split('>')[-1] }}<|im_end|>{% endfor %}", "leaves out 'hm'"),
    ],
)
def test_a_template_that_cannot_be_trained_on_is_told_in_one_line(jsonl, tokenizer, template, message):
    row = conversation(jsonl, user("1 + 1?"), assistant("<think>hm</think>2"))
    with pytest.raises(UserError) as raised:
        transcriber(tokenizer, template).documents(row)
    assert str(raised.value).startswith(row.where) and message in str(raised.value) and "\n" not in str(raised.value)


def test_rendered_rows_come_from_the_cache_until_anything_changes(jsonl, tokenizer, tmp_path):
    rows, _ = load_conversations(task(jsonl(*(pair(i, "yes " * i + "!") for i in range(4)))))
    rendered = []

    def render(row):
        rendered.append(row.where)
        if len(rendered) == 2:
            raise UserError(f"{row.where}: no")
        return transcriber(tokenizer).documents(row)

    first = render_rows(rows, render, "a", tmp_path / "cache")
    again = render_rows(rows, render, "a", tmp_path / "cache")
    assert len(rendered) == 4 and again.problems == first.problems == {1: ": no"} and again.key == first.key
    for row in range(4):
        expected = [] if row == 1 else transcriber(tokenizer).documents(rows[row])
        assert [document.token_ids.tolist() for document in again.documents(row)] == [d.token_ids.tolist() for d in expected]
        assert again.lengths()[0][row] == again.lengths()[1][row] == sum(len(d.token_ids) for d in expected)
    render_rows(rows, render, "b", tmp_path / "cache")
    rows[0].messages[1]["content"] = "no"
    render_rows(rows, render, "a", tmp_path / "cache")
    assert len(rendered) == 12


def test_loading_prompts_does_not_import_datasets_or_pillow():
    program = "import sys, posttrain.data.sources; print(*{'datasets', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout == "\n"
