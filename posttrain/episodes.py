"""Episode files: every sampled episode of a step, as Parquet that opens anywhere."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.files import whole
from posttrain.types import Episode, Group


def write_episodes(folder: Path, step: int, groups: Sequence[Group]) -> Path:
    """Writes `episodes/step_000012.parquet`, one row an episode; whole or not at all."""
    path = folder / "episodes" / f"step_{step:06d}.parquet"
    rows = [_row(group, index, episode) for group in groups for index, episode in enumerate(group.episodes)]
    with whole(path) as draft:
        pq.write_table(pa.Table.from_pylist(rows), draft)
    return path


def _row(group: Group, index: int, episode: Episode) -> dict[str, Any]:
    """Token ids and log-probabilities are one list a turn; scores and messages are JSON text."""
    return {
        "prompt_id": episode.prompt_id,
        "task": group.prompt.task,
        "episode": index,
        "messages": json.dumps(group.prompt.messages, ensure_ascii=False),
        "reference": json.dumps(group.prompt.reference, ensure_ascii=False, default=str),
        "status": episode.status,
        "failure": episode.failure,
        "prompt_token_ids": group.prompt_token_ids.tolist(),
        "turn_texts": [turn.text for turn in episode.turns],
        "turn_token_ids": [turn.token_ids.tolist() for turn in episode.turns],
        "turn_logprobs": [turn.logprobs.tolist() for turn in episode.turns],
        "turn_observations": [turn.observation for turn in episode.turns],
        "turn_stop_reasons": [turn.stop_reason for turn in episode.turns],
        "policy_version": max((turn.policy_version for turn in episode.turns), default=-1),
        "scores": json.dumps(episode.scores),
        "weights": json.dumps(episode.weights),
        "score_details": json.dumps(episode.details, ensure_ascii=False),
        "outcome": episode.outcome,
        "reward": episode.reward,
        "advantage": episode.advantage,
        "is_counted": episode.is_counted,
    }
