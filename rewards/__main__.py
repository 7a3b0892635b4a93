"""Rewards without a run: `python -m posttrain.rewards list | show NAME | score --reward NAME --file FILE | calibrate ...`.

The rows of a file are JSON objects, one a line: `completion` (what the policy wrote), `answer` (the reference), and, where the
reward reads them, `messages` and `metadata`; `calibrate` needs `label` (1 for a good completion, 0 for a bad one) as well.
"""

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from posttrain import plugins
from posttrain.config import RewardsConfig
from posttrain.errors import RunError, UserError, nearest, tell
from posttrain.rewards.calibration import calibrate
from posttrain.rewards.manager import RewardManager
from posttrain.rewards.process import ENTRY_POINTS, construct
from posttrain.types import Episode, Group, Prompt, Turn


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 after one line about what the user has to change."""
    parser = argparse.ArgumentParser(prog="python -m posttrain.rewards", description="See and try rewards without a run.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="all installed rewards and where they come from")
    show = commands.add_parser("show", help="what a reward says of itself")
    show.add_argument("name", metavar="NAME")
    score = commands.add_parser("score", help="score the rows of a JSONL file and report failures")
    score.add_argument("--reward", required=True, metavar="NAME")
    score.add_argument("--file", required=True, type=Path, metavar="FILE")
    score.add_argument("--timeout", type=float, default=RewardsConfig().timeout_s, metavar="SECONDS", help="for each row")
    score.add_argument("--out", type=Path, metavar="FILE", help="write each row with its score, details or failure as JSONL")
    judge = commands.add_parser("calibrate", help="how far a judge can be trusted, on a JSONL file with labels")
    judge.add_argument("--reward", required=True, metavar="NAME")
    judge.add_argument("--file", required=True, type=Path, metavar="FILE")
    judge.add_argument("--threshold", type=float, default=0.5, help="a score from here on means good (default 0.5)")
    judge.add_argument("--threads", type=int, default=8, help="rows under way at once (default 8)")
    options = parser.parse_args(arguments)
    known = {"list": list_rewards, "show": show_reward, "score": score_file, "calibrate": calibrate_judge}
    try:
        known[options.command](options)
    except (UserError, RunError) as error:
        return tell(error, "posttrain.rewards")
    return 0


def list_rewards(_: argparse.Namespace) -> None:
    """Names, classes and distributions; nothing is imported."""
    for name in plugins.names(ENTRY_POINTS):
        print(plugins.describe(ENTRY_POINTS, name).removeprefix(f"{ENTRY_POINTS}: "))


def show_reward(options: argparse.Namespace) -> None:
    """A reward's class, its module's text and its own."""
    reward = plugins.load(ENTRY_POINTS, options.name)
    module = inspect.getmodule(reward)
    print(plugins.describe(ENTRY_POINTS, options.name).removeprefix(f"{ENTRY_POINTS}: "))
    for text in (inspect.getdoc(reward), inspect.getdoc(module) if module else None, inspect.getdoc(reward.score)):
        print(f"\n{text}" if text else "")


def score_file(options: argparse.Namespace) -> None:
    """A table of scores, then every failure and abstention with its reason."""
    rows = read_rows(options.file)
    groups = [_group(row, index) for index, row in enumerate(rows)]
    with RewardManager({options.reward: 1.0}, RewardsConfig(timeout_s=options.timeout, max_failure_fraction=1.0)) as manager:
        for group in groups:
            manager.submit(group)
        manager.finish()
    episodes = [group.episodes[0] for group in groups]
    console = Console(markup=False, highlight=False)
    console.print(_summary(options.reward, episodes))
    for index, episode in enumerate(episodes):
        if episode.failure:
            console.print(f"row {index + 1}: {episode.failure}")
    if options.out:
        judged = [{**row, "score": e.scores.get(options.reward), "failure": e.failure} for row, e in zip(rows, episodes, strict=True)]
        options.out.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in judged))


def calibrate_judge(options: argparse.Namespace) -> None:
    """Accuracy, AUC and calibration error, and what was abstained from or failed."""
    rows = read_rows(options.file)
    if any(row.get("label") not in (0, 1) for row in rows):
        raise UserError(f"{options.file}: expected a `label` of 0 or 1 in every row")
    reward = construct(options.reward)
    groups = [_group(row, index) for index, row in enumerate(rows)]
    cases = [(group.prompt, group.episodes[0], bool(row["label"])) for group, row in zip(groups, rows, strict=True)]
    found = calibrate(reward, cases, options.threshold, options.threads)
    table = Table("", "value", title=f"reward {options.reward} against labels")
    for name, value in asdict(found).items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    Console(markup=False, highlight=False).print(table)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file.

    Raises UserError: no such file, a line that is not a JSON object, or one without `completion`.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
            raise UserError(f"{path}, line {number}: expected an object with a text `completion`, got {line[:80]}")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows")
    unknown = {key for row in rows for key in row} - {"completion", "answer", "messages", "metadata", "label", "id"}
    if unknown:
        key = sorted(unknown)[0]
        raise UserError(f"{path}: unknown field {key!r}; {nearest(key, ['completion', 'answer', 'messages', 'metadata', 'label', 'id'])}")
    return rows


def _group(row: dict[str, Any], index: int) -> Group:
    prompt_id = str(row.get("id", index + 1))
    prompt = Prompt(
        id=prompt_id, task="file", messages=row.get("messages", []), reference=row.get("answer"), metadata=row.get("metadata", {})
    )
    nothing = np.zeros(0, np.int64)
    turn = Turn(token_ids=nothing, logprobs=np.zeros(0, np.float32), text=row["completion"], stop_reason="stop", policy_version=0)
    return Group(prompt=prompt, prompt_token_ids=nothing, episodes=[Episode(prompt_id=prompt_id, turns=[turn], status="complete")])


def _summary(name: str, episodes: Sequence[Episode]) -> Table:
    scores = np.array([episode.scores[name] for episode in episodes if episode.status != "failed"])
    abstained = sum("abstained" in (episode.failure or "") for episode in episodes)
    values = {"rows": len(episodes), "scored": len(scores), "abstained": abstained, "failed": len(episodes) - len(scores) - abstained}
    numbers = {"mean": scores.mean(), "std": scores.std(), "min": scores.min(), "max": scores.max()} if len(scores) else {}
    table = Table(title=f"reward {name}")
    for column in (*values, *numbers):
        table.add_column(column, justify="right")
    table.add_row(*map(str, values.values()), *(f"{number:.4f}" for number in numbers.values()))
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
