"""Episode files: every sampled episode of a step, as Parquet that opens anywhere, and the images beside it, each once."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from posttrain.files import whole
from posttrain.types import EncodedImage, Episode, Group, Message, Prompt

PNG = b"\x89PNG\r\n\x1a\n"


def write_episodes(folder: Path, step: int, groups: Sequence[Group]) -> Path:
    """Writes `episodes/step_000012.parquet`, one row an episode; whole or not at all, after the images that it names."""
    for group in groups:
        for image in (*group.prompt.images, *(image for episode in group.episodes for image in shown(episode))):
            write_image(folder, image)
    path = folder / "episodes" / f"step_{step:06d}.parquet"
    rows = [_row(group, index, episode) for group in groups for index, episode in enumerate(group.episodes)]
    with whole(path) as draft:
        pq.write_table(pa.Table.from_pylist(rows), draft)
    return path


def shown(episode: Episode) -> Iterator[EncodedImage]:
    """The images that came back in an episode, in their order."""
    for turn in episode.turns:
        yield from turn.observation_images


def write_image(folder: Path, image: EncodedImage) -> str:
    """Writes an image as PNG where it is not there yet; its path in the folder, `images/<digest>.png`, by the digest of its own bytes."""
    name = f"images/{image.digest}.png"
    path = folder / name
    if not path.exists():
        with whole(path) as draft:
            draft.write_bytes(_as_png(image.data))
    return name


def conversation(prompt: Prompt, episode: Episode, folder: Path) -> dict[str, Any]:
    """The episode as a row to learn from (`messages`, and `tools` where there are any); its images are written into the folder.

    A turn's calls stand in its text, as the policy wrote them. Where the last turn got no answer, the row ends with it.
    """
    messages: list[Message] = [*prompt.messages]
    for turn in episode.turns:
        messages += [{"role": "assistant", "content": turn.text}, *turn.observed]
    names = iter([write_image(folder, image) for image in (*prompt.images, *shown(episode))])
    row: dict[str, Any] = {"messages": [_with_images(message, names) for message in messages]}
    return {**row, "tools": prompt.tools} if prompt.tools else row


def _with_images(message: Message, names: Iterator[str]) -> Message:
    if isinstance(message["content"], str):
        return message
    parts = [{"type": "image", "image": next(names)} if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


def _as_png(data: bytes) -> bytes:
    if data.startswith(PNG):
        return data
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.save(file, "PNG")
    return file.getvalue()


def _row(group: Group, index: int, episode: Episode) -> dict[str, Any]:
    """Token ids and log-probabilities are one list a turn; scores, messages and calls are JSON text; images are their digests."""
    return {
        "prompt_id": episode.prompt_id,
        "task": group.prompt.task,
        "episode": index,
        "messages": _json(group.prompt.messages),
        "prompt_images": [image.digest for image in group.prompt.images],
        "tools": [tool["function"]["name"] for tool in group.prompt.tools],
        "reference": _json(group.prompt.reference),
        "status": episode.status,
        "failure": episode.failure,
        "prompt_token_ids": group.prompt_token_ids.tolist(),
        "turn_texts": [turn.text for turn in episode.turns],
        "turn_token_ids": [turn.token_ids.tolist() for turn in episode.turns],
        "turn_logprobs": [turn.logprobs.tolist() for turn in episode.turns],
        # In ASCII: a policy can write half a surrogate pair, which JSON can say and UTF-8 cannot.
        "turn_tool_calls": [json.dumps([asdict(call) for call in turn.tool_calls]) for turn in episode.turns],
        "turn_observations": [turn.observation for turn in episode.turns],
        "turn_observation_token_ids": [turn.observation_token_ids.tolist() for turn in episode.turns],
        "turn_images": [[image.digest for image in turn.observation_images] for turn in episode.turns],
        "turn_stop_reasons": [turn.stop_reason for turn in episode.turns],
        "policy_version": max((turn.policy_version for turn in episode.turns), default=-1),
        "environment": group.prompt.environment,
        "environment_score": episode.environment_score,
        "scores": json.dumps(episode.scores),
        "weights": json.dumps(episode.weights),
        "score_details": _json(episode.details),
        "outcome": episode.outcome,
        "reward": episode.reward,
        "advantage": episode.advantage,
        "is_counted": episode.is_counted,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
