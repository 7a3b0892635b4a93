"""The tiny model's chat template against Qwen3-VL's own, of which TRL carries a copy."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.model import load_tokenizer
from posttrain.rollout.render import Renderer

TOOLS = [
    {"type": "function", "function": {"name": "image_zoom_in_tool", "description": "Zoom in.", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "calculator", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}},
]

TEXTS = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "Zs")) | st.sampled_from("\né数<>"), max_size=12)
PARTS = st.lists(st.just({"type": "image"}) | st.builds(lambda text: {"type": "text", "text": text}, TEXTS), min_size=1, max_size=4)
CALLS = st.lists(
    st.builds(
        lambda name, arguments, is_bare: (
            {"name": name, "arguments": arguments} if is_bare else {"function": {"name": name, "arguments": arguments}}
        ),
        st.sampled_from(["image_zoom_in_tool", "calculator"]),
        st.dictionaries(st.sampled_from(["bbox_2d", "label", "x"]), st.lists(st.integers(0, 1000), max_size=4) | TEXTS, max_size=3) | TEXTS,
        st.booleans(),
    ),
    max_size=2,
)


@st.composite
def conversations(draw):
    """System message or none, then turns: question, tool calls with their results, answer."""
    messages = draw(
        st.sampled_from(
            [[], [{"role": "system", "content": "Be brief."}], [{"role": "system", "content": [{"type": "text", "text": "?"}]}]]
        )
    )
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXTS | PARTS)})
        for _ in range(draw(st.integers(0, 2))):
            messages.append({"role": "assistant", "content": draw(TEXTS), "tool_calls": draw(CALLS)})
            messages += [{"role": "tool", "content": draw(TEXTS | PARTS)} for _ in range(draw(st.integers(0, 2)))]
        messages.append({"role": "assistant", "content": draw(TEXTS)})
    return messages[: draw(st.integers(len(messages) - 1, len(messages)))] or messages


@pytest.fixture(scope="module")
def tokenizer(tiny_vl_path):
    return load_tokenizer(tiny_vl_path)


@pytest.fixture(scope="module")
def official():
    trl = pytest.importorskip("trl", reason="TRL carries the copy of Qwen3-VL's template; pip install -r requirements/bench.txt")
    return (Path(trl.__file__).parent / "chat_templates" / "qwen3_vl.jinja").read_text()


@given(conversations(), st.sampled_from([None, TOOLS]), st.booleans(), st.booleans())
def test_what_is_rendered_is_qwen3_vls_own_token_for_token(tokenizer, official, messages, tools, opens, add_vision_id):
    options = {"tools": tools, "add_vision_id": add_vision_id}
    renderer = Renderer(tokenizer)
    ours = renderer.render(messages, add_generation_prompt=opens, **options)
    theirs = renderer.render(messages, add_generation_prompt=opens, chat_template=official, **options)
    assert ours == theirs
    assert renderer.encode(ours).tolist() == tokenizer.apply_chat_template(
        messages, chat_template=official, tokenize=True, add_generation_prompt=opens, return_dict=False, **options
    )


def test_special_tokens_are_one_token_each_and_tool_tags_are_said(tokenizer):
    from posttrain.builtin_vision import SPECIAL_TOKENS

    ids = [tokenizer.encode(token, add_special_tokens=False) for token in SPECIAL_TOKENS]
    assert all(len(found) == 1 for found in ids)
    text = "<think>\na\n</think>\n<tool_call>\n{}\n</tool_call>"
    assert Renderer(tokenizer).text(tokenizer.encode(text + "<|im_end|>", add_special_tokens=False)) == text
