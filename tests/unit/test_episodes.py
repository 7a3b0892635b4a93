"""Episode files: every turn with its calls and what came back, each image once, and an episode as a row to learn from."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from posttrain.data.images import take_images
from posttrain.episodes import conversation, write_episodes
from posttrain.types import EncodedImage, Episode, Group, Prompt, ToolCall, Turn


def picture(colour, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(file, kind)
    return EncodedImage(data=file.getvalue(), width=4, height=3)


RED, GREEN, PHOTO = picture("red"), picture("green"), picture("blue", "JPEG")
TOOL = {"type": "function", "function": {"name": "zoom", "description": "", "parameters": {"type": "object"}}}


@pytest.fixture
def group():
    """Two episodes: one that zooms twice, and one that answers at once."""

    def turn(text, **fields):
        return Turn(token_ids=np.array([7, 8]), logprobs=np.zeros(2, np.float32), text=text, stop_reason="stop", policy_version=2, **fields)

    observed = [
        {"role": "tool", "content": [{"type": "image"}, {"type": "text", "text": "closer"}]},
        {"role": "tool", "content": "Error: no box"},
    ]
    calls = [
        ToolCall(name="zoom", arguments={"box": [1, 2], "why": "\ud83d"}, status="answered", seconds=0.25),
        ToolCall(name="zoom", arguments={}, status="refused"),
    ]
    zoomed = turn("Look.", tool_calls=calls, observed=observed, observation_token_ids=np.array([9, 9]), observation_images=[GREEN])
    message = {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]}
    prompt = Prompt(id="p", task="t", messages=[message], reference=None, images=[RED, PHOTO], tools=[TOOL], environment="maze")
    episodes = [
        Episode(prompt_id="p", turns=[zoomed, turn("Red.")], status="complete", environment_score=0.5),
        Episode(prompt_id="p", turns=[turn("Green.")], status="complete"),
    ]
    return Group(prompt=prompt, prompt_token_ids=np.array([1]), episodes=episodes)


def test_a_file_holds_calls_observations_and_digests(tmp_path, group):
    first, second = pq.read_table(write_episodes(tmp_path, 12, [group])).to_pylist()
    assert json.loads(first["turn_tool_calls"][0])[0] == {
        "name": "zoom", "arguments": {"box": [1, 2], "why": "\ud83d"}, "status": "answered", "seconds": 0.25,
    }  # fmt: skip
    assert first["turn_observations"] == ["closer\nError: no box", None] and first["turn_observation_token_ids"] == [[9, 9], []]
    assert (first["prompt_images"], first["turn_images"]) == ([RED.digest, PHOTO.digest], [[GREEN.digest], []])
    assert (first["tools"], first["environment"], first["environment_score"]) == (["zoom"], "maze", 0.5)
    assert (second["turn_images"], second["environment_score"]) == ([[]], None)


def test_each_image_is_written_once_as_png(tmp_path, group):
    write_episodes(tmp_path, 1, [group])
    files = {path.name: path for path in (tmp_path / "images").iterdir()}
    assert files.keys() == {f"{image.digest}.png" for image in (RED, GREEN, PHOTO)}
    assert files[f"{RED.digest}.png"].read_bytes() == RED.data
    with Image.open(files[f"{PHOTO.digest}.png"]) as image:
        assert (image.format, image.size) == ("PNG", (4, 3))
    before = {name: path.stat().st_mtime_ns for name, path in files.items()}
    write_episodes(tmp_path, 2, [group, group])
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()} == before


def test_an_episode_is_a_row_to_learn_from(tmp_path, group):
    row = json.loads(json.dumps(conversation(group.prompt, group.episodes[0], tmp_path)))
    assert row["tools"] == [TOOL]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "tool", "assistant"]
    messages, images = take_images("row 1", row["messages"], tmp_path)
    assert images[0] == RED and images[2] == GREEN and len(images) == 3
    assert messages[2]["content"] == [{"type": "image"}, {"type": "text", "text": "closer"}]
