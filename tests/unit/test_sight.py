"""The blind test on a real tiny Qwen3-VL: it lets a learner pass that sees, and stops one that does not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from posttrain.data.images import blank, decode
from posttrain.errors import RunError
from posttrain.model import TokenScorer, load_model, stream_tensors
from posttrain.packing import sequence_batch
from posttrain.pixels import PixelReader, image_geometry
from posttrain.sight import check_sight, prompts_to_look_at
from posttrain.types import EncodedImage, Prompt


class Learners:
    """The face of `posttrain.fleet.Learners` in this process."""

    def __init__(self, path):
        self.model, self.pixels = load_model(path, "float32"), PixelReader(path)

    def score(self, batches):
        found = []
        for batch in batches:
            with torch.no_grad():
                logprobs, _ = TokenScorer(self.model, 1.0)(stream_tensors(batch, torch.device("cpu"), "blocks", self.pixels), 1.0)
            found.append(np.zeros(batch.num_tokens, np.float32))
            found[-1][batch.loss_weights != 0] = logprobs
        return found


@pytest.fixture(scope="module")
def learners(tiny_vl_path):
    return Learners(tiny_vl_path)


@pytest.fixture(scope="module")
def inputs(tiny_vl_path, picture):
    geometry = image_geometry(tiny_vl_path)
    token_ids = np.array([20, 21, geometry.image_token_id, 22, 23])
    shown = [Prompt(id=str(k), task="t", messages=[], reference=None, images=[picture(k)]) for k in range(6)]
    text = (Prompt(id="text", task="t", messages=[], reference=None), np.array([20, 21]))
    return SimpleNamespace(geometry=geometry, tasks={"t": SimpleNamespace(train=[text, *((prompt, token_ids) for prompt in shown)])})


def test_a_learner_that_sees_passes_and_says_by_how_much(learners, inputs):
    batches = prompts_to_look_at(inputs)
    assert len(batches) == 4 and all(batch.images for batch in batches)
    row = check_sight(learners, batches)
    assert row["checks/blind_abs_max"] > row["checks/blind_abs_mean"] > 1e-3


def test_a_learner_without_eyes_stops_the_run(learners, inputs, monkeypatch):
    # The pixels never arrive, and everything else goes on as if they did.
    one = learners.pixels._one
    monkeypatch.setattr(learners.pixels, "_one", lambda image: (torch.zeros_like(one(image)[0]), one(image)[1]))
    with pytest.raises(RunError, match=r"vision is disconnected: log-probabilities of 12 tokens in texts with images differ by 0\.0e\+00"):
        check_sight(learners, prompts_to_look_at(inputs))


def test_a_run_of_text_has_no_such_test(learners, inputs):
    text = SimpleNamespace(geometry=None, tasks={"t": SimpleNamespace(train=inputs.tasks["t"].train[:1])})
    assert prompts_to_look_at(text) == []
    assert check_sight(learners, [sequence_batch(np.array([20, 21]))][:0]) == {}


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_blank_image_always_differs(shade):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (40, 30), (shade,) * 3).save(file, format="PNG")
    image = EncodedImage(data=file.getvalue(), width=40, height=30)
    other = blank(image)
    assert (other.width, other.height) == (40, 30)
    assert np.abs(np.asarray(decode(image)).astype(int) - np.asarray(decode(other))).min() >= 127
