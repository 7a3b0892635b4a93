"""SFT on rows with images: from rows to log-probabilities, on the tiny model that reads images, float32."""

import base64
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from posttrain.algorithms.sft import SftConfig
from posttrain.algorithms.sft_recipe import SftRecipe
from posttrain.config import Config, ModelConfig, TaskConfig, TrainConfig
from posttrain.data.images import decode
from posttrain.errors import UserError
from posttrain.model import TokenScorer, load_model, stream_tensors
from posttrain.packing import pack_documents
from posttrain.pixels import PixelReader

CPU = torch.device("cpu")


def shown(image):
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(image.data).decode()}"}}


@pytest.fixture
def rows(picture):
    """Questions about pictures, answered at once or after a tool has shown another one; every third is text alone."""
    made = []
    for number in range(12):
        first, second = picture(number, 50 + 9 * number, 150 - 7 * number), picture(100 + number, 64, 96)
        question = [shown(first), {"type": "text", "text": f"What is number {number}?"}]
        call = {"function": {"name": "look", "arguments": {"at": number}}}
        asked = [{"role": "user", "content": question if number % 3 else f"What is number {number}?"}]
        looked = [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": [shown(second)]}]
        answer = {"role": "assistant", "content": f"It is {number + 1}, I think."}
        made.append({"messages": [*asked, *(looked if number % 3 == 2 else []), answer]})
    return made


@pytest.fixture
def prepare(tmp_path, monkeypatch, tiny_vl_path):
    """prepare(rows, model path, **keys of algo): the recipe."""
    model_folder = tiny_vl_path
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))

    def make(rows, path=model_folder, context_tokens=512, **keys):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        algo = SftConfig(**keys)
        task = TaskConfig(name="chat", source="file", path=str(file), heldout_fraction=0.3)
        model = ModelConfig(path=path, dtype="float32", context_tokens=context_tokens)
        return SftRecipe.prepare(Config(model=model, task=task, algo=algo, train=TrainConfig(steps=3)), algo)

    return make


def all_documents(recipe):
    rendered = recipe.tasks["chat"].rows.rendered
    return [document for row in range(len(rendered.images)) for document in rendered.documents(row)]


def logprobs(model, pixels, batches):
    """Of the trained tokens of each document, by its tokens."""
    found = {}
    for batch in batches:
        scored, _ = TokenScorer(model, 1.0)(stream_tensors(batch, CPU, "blocks", pixels), 1.0)
        trained = np.flatnonzero(batch.loss_weights)
        for segment in np.unique(batch.segment_ids):
            own = batch.segment_ids == segment
            found[batch.token_ids[own].tobytes()] = scored[torch.tensor(batch.segment_ids[trained] == segment)]
    return found


def test_packed_equals_unpacked_equals_transformers(prepare, rows, tiny_vl_path):
    recipe = prepare(rows)
    model, pixels = load_model(tiny_vl_path, "float32"), PixelReader(tiny_vl_path)
    reference = AutoModelForImageTextToText.from_pretrained(tiny_vl_path, dtype=torch.float32, attn_implementation="sdpa")
    processor = AutoProcessor.from_pretrained(tiny_vl_path)
    documents = all_documents(recipe)
    assert [len(document.images) for document in documents] == [0, 1, 2] * 4
    options = {"normalization": "token_mean", "geometry": recipe.model.geometry}
    with torch.no_grad():
        together = logprobs(model, pixels, pack_documents(documents, **options, microbatch_tokens=10_000))
        apart = logprobs(model, pixels, pack_documents(documents, **options, microbatch_tokens=1))
        assert len(together) == len(apart) == 12
        for document in documents:
            text = processor.tokenizer.decode(document.token_ids)
            inputs = processor(text=[text], images=[decode(image) for image in document.images] or None, return_tensors="pt")
            key = inputs["input_ids"][0].numpy().tobytes()
            torch.testing.assert_close(together[key], apart[key], atol=1e-5, rtol=0)
            expected = torch.log_softmax(reference(**inputs, use_cache=False).logits[0, :-1].float(), -1)
            expected = expected.gather(1, inputs["input_ids"][0, 1:, None])[:, 0]
            written = np.flatnonzero(document.is_trained) - len(document.token_ids)  # no image comes after the first of them
            if len(document.images) < 2:
                torch.testing.assert_close(together[key], expected[torch.tensor(written)], atol=1e-5, rtol=0)
    batches, described = recipe.batches(0)
    assert sum(batch.loss_weights.sum() for batch in batches) == pytest.approx(1.0, abs=1e-5)
    assert described["data/tokens"] == sum(recipe.tasks["chat"].rows.lengths[row] for _, row in recipe.steps[0].rows)


def test_the_cache_follows_the_pictures(prepare, rows, picture):
    key = prepare(rows).data_key
    again = prepare(rows)
    assert again.data_key == key and all_documents(again)[1].images[0].data == picture(1, 59, 143).data
    rows[1]["messages"][0]["content"][0] = shown(picture(77, 59, 143))
    other = prepare(rows)
    assert other.data_key != key and all_documents(other)[1].images[0].data == picture(77, 59, 143).data


def test_rows_with_images_are_refused_by_a_text_model_and_never_split(prepare, rows, tiny_path):
    with pytest.raises(UserError, match=r"^8 rows are of no use; algo\.bad_rows=skip") as refused:
        prepare(rows, path=tiny_path)
    assert "rows.jsonl line 2: holds an image, and the model reads text only" in refused.value.named[0]
    recipe = prepare(rows, context_tokens=64, overlong="split")
    assert all("a row with images is not split" in line for line in recipe.remarks)
    used = [row for step in recipe.steps for _, row in step.rows]
    assert used and all(recipe.tasks["chat"].rows.longest[row] <= 64 or not recipe.tasks["chat"].rows.rendered.images[row] for row in used)
    assert max(batch.num_tokens for step in range(recipe.num_steps) for batch in recipe.batches(step)[0]) <= 2048
    literal = {"messages": [{"role": "user", "content": "What is <|image_pad|>?"}, {"role": "assistant", "content": "A token."}]}
    with pytest.raises(UserError, match=r"line 13: has 1 image placeholders for 0 images"):
        prepare([*rows, literal])
