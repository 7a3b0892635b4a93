"""The block and flex backends against a plain masked softmax."""

import pytest
import torch

from posttrain import attention_blocks
from posttrain.attention import attend, layout_of
from posttrain.attention_blocks import BLOCK_ROWS


def stream(*trees):
    """Stops of trees in depth-first order, given as (length of a stretch, what branches from its end...)."""
    stops = []

    def write(tree):
        length, *branches = tree if isinstance(tree, tuple) else (tree,)
        start = len(stops)
        stops.extend([0] * length)
        for branch in branches:
            write(branch)
        stops[start : start + length] = [len(stops)] * length

    for tree in trees:
        write(tree)
    return torch.tensor(stops)


STREAMS = {
    "one token": stream((1,)),
    "small": stream((3, 2, 4), (5,), (1, 1, 1)),
    "blocks of several branches": stream((2 * BLOCK_ROWS + 5, 60, 60, 60), (7, 300, 30, 290, 20), (300,)),
    "branches of branches": stream((20, (30, 5, 5, (3, 60, 1, 61), 8), 40, (BLOCK_ROWS, 50, (70, 90, 100), 20)), (3, 1, 1)),
    "units side by side": stream((9, 40, 3, 38, 41), (30, 12, 40, 35), (BLOCK_ROWS, BLOCK_ROWS, 100), (5, BLOCK_ROWS + 1)),
}


def inputs(length, dtype=torch.float32, heads=4, key_heads=2):
    torch.manual_seed(length)
    return [torch.randn(1, h, length, 8, dtype=dtype, requires_grad=True) for h in (heads, key_heads, key_heads)]


def plain(query, key, value, stops):
    order = torch.arange(len(stops))
    sees = (order <= order[:, None]) & (order[:, None] < stops)
    scores = query @ key.repeat_interleave(2, 1).transpose(-1, -2) * 0.3
    return (scores.masked_fill(~sees, -torch.inf).softmax(-1) @ value.repeat_interleave(2, 1)).transpose(1, 2)


def packed(query, key, value, stops, backend="blocks"):
    layout = layout_of(stops, backend)
    return attend(torch.nn.Identity(), query, key, value, None, layout=layout, scaling=0.3, dropout=0.0)[0]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("kept_keys", [0, 1024])
def test_blocks_equal_plain_attention(name, kept_keys, monkeypatch):
    monkeypatch.setattr(attention_blocks, "KEPT_KEYS", kept_keys)
    stops = STREAMS[name]
    tensors = inputs(len(stops), torch.float64)
    outputs = [function(*tensors, stops) for function in (packed, plain)]
    torch.testing.assert_close(*outputs)
    upstream = torch.randn_like(outputs[0])
    mine, theirs = (torch.autograd.grad((output * upstream).sum(), tensors) for output in outputs)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("name", STREAMS)
def test_flex_equals_blocks(name):
    stops = STREAMS[name]
    with torch.no_grad():
        tensors = [tensor.detach() for tensor in inputs(len(stops))]
        torch.testing.assert_close(packed(*tensors, stops, "flex"), packed(*tensors, stops))


def test_scores_are_float32_where_the_model_is_bfloat16():
    """Large scores that differ by less than bfloat16 tells apart."""
    query = torch.tensor([[[[16.0, 0.25]] * 3]], dtype=torch.bfloat16)
    key = torch.tensor([[[[16.0, 0.0], [16.0, 1.0], [16.0, 2.0]]]], dtype=torch.bfloat16)
    value = torch.eye(3, 2, dtype=torch.bfloat16)[None, None]
    layout = layout_of(stream(3), "blocks")
    output, _ = attend(torch.nn.Identity(), query, key, value, None, layout=layout, scaling=1.0, dropout=0.0)
    expected = torch.softmax(torch.tensor([256.0, 256.25, 256.5]), 0)[:2]
    torch.testing.assert_close(output[0, 2, 0].float(), expected, rtol=5e-3, atol=5e-3)


def test_dropout_is_refused():
    layout = layout_of(stream(2), "blocks")
    with pytest.raises(ValueError, match="dropout"):
        attend(torch.nn.Identity().train(), *inputs(2), None, layout=layout, scaling=1.0, dropout=0.1)
