"""examples/tiny_vlm: what it teaches is what it says, and the committed model plays."""

import ast
import json
import re
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tiny_vlm"
MODEL = FOLDER / "model"
MAX_BYTES = 20_000_000
NUM_PICTURES = 32


@pytest.fixture(scope="module")
def taught():
    """The example's modules by name."""
    sys.path.insert(0, str(FOLDER))
    try:
        import batches
        import build
        import lessons
        import play

        yield {"batches": batches, "build": build, "lessons": lessons, "play": play}
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("batches", "build", "lessons", "play"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def encoder(taught):
    """With the committed model's processor."""
    from transformers import AutoProcessor

    return taught["batches"].Encoder(AutoProcessor.from_pretrained(MODEL))


def test_pictures_reach_the_model_as_its_processor_has_them(taught, encoder):
    example = taught["lessons"].FIND.example(Random(0))
    picture = taught["lessons"].picture_of(example)
    theirs = encoder.processor.image_processor(images=[picture], return_tensors="pt")
    ours = taught["batches"].pixel_values(encoder.pixels([picture]))
    assert theirs["image_grid_thw"].tolist() == [[1, 8, 8]] and (ours - theirs["pixel_values"]).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["content", "place", "find", "compare", "hasty", "hasty compare", "guess"])
def test_all_that_the_assistant_says_is_trained_and_nothing_else(taught, encoder, name):
    lesson = taught["lessons"].MAKERS[name](Random(3))
    sample = encoder.sample(lesson)
    trained = encoder.tokenizer.decode(sample.ids[sample.labels != taught["batches"].IGNORED])
    said = re.findall(r"(?<=<\|im_start\|>assistant\n).*?<\|im_end\|>", encoder.render(lesson.messages, lesson.tools), re.DOTALL)
    assert trained == "".join(said) and len(said) == sum(message["role"] == "assistant" for message in lesson.messages)
    assert (sample.ids == encoder.image_id).sum() == 16 * len(lesson.pictures)


def test_what_is_taught_to_be_looked_at_holds_the_digit(taught):
    lessons, rng = taught["lessons"], Random(1)
    for _ in range(50):
        example = lessons.COMPARE.example(rng)
        for place, box in zip(example.metadata["scene"], lessons.windows(example), strict=True):
            x1, y1, x2, y2 = place["bbox_2d"]
            assert box.x1 - 0.1 <= x1 < x2 <= box.x2 + 0.1 and box.y1 - 0.1 <= y1 < y2 <= box.y2 + 0.1


def test_a_moved_crop_is_the_crop_moved(taught, encoder):
    """What the processor makes of the picture, shifted: against numpy on whole pictures, through the processor's own patches."""
    size, by = 128, taught["batches"].MAX_MOVE
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    wide = np.pad(pixels, ((by, by), (by, by), (0, 0)), mode="edge")
    right, down = 5, -by
    expected = Image.fromarray(wide[by - down : by - down + size, by - right : by - right + size])
    moved = taught["batches"].moved(encoder.pixels([Image.fromarray(pixels)]), [(right, down)])
    assert torch.equal(moved, encoder.pixels([expected]))


def test_greater_is_said_as_an_episode_says_it(taught, encoder):
    lessons = taught["lessons"]
    for seed in range(20):
        said = lessons.greater(Random(seed)).messages[-1]["content"]
        thought, side = re.fullmatch(r"<think>\n(\d, \d)\n</think>\n\n(left|right)", said).groups()
        left, right = map(int, thought.split(", "))
        assert side == ("left" if left > right else "right")
    sample = encoder.sample(lessons.greater(Random(0)))
    assert len(sample.patches) == 0 and "pixel_values" not in taught["batches"].batch_of([sample], encoder.image_id, 0)


def test_haste_looks_at_any_number_of_places(taught):
    lessons, rng = taught["lessons"], Random(2)
    looks = [len(lessons.hasty(lessons.COMPARE, rng).pictures) - 1 for _ in range(60)]
    assert all(looks.count(number) > 10 for number in range(3))


def test_the_committed_model_is_small_and_plays(taught, encoder):
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    assert sum(file.stat().st_size for file in MODEL.iterdir()) < MAX_BYTES
    model = Qwen3VLForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32).eval()
    assert 2_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 6_000_000
    player = taught["play"].Player(model, encoder)
    seen = {
        with_tool: taught["play"].measure(player, taught["lessons"].FIND, num_pictures=NUM_PICTURES, with_tool=with_tool, temperature=0)
        for with_tool in (True, False)
    }
    assert seen[True]["calls"] > 0.8 and seen[False]["calls"] == 0
    assert seen[True]["accuracy"] > 0.3 and seen[False]["accuracy"] < seen[True]["accuracy"]


def test_the_script_for_use_elsewhere_names_the_tool_as_it_was_trained(taught):
    script = (FOLDER.parent / "thinking_with_images" / "use_it.py").read_text()
    [assigned] = [node for node in ast.parse(script).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ZOOM"]
    named = eval(compile(ast.Expression(assigned.value), "use_it.py", "eval"))
    assert json.dumps(named) == json.dumps(taught["lessons"].TOOLS[0])  # in the same order: it is rendered
    assert sum(bool(line.strip()) for line in script.splitlines()) <= 40
