"""`python -m posttrain.rewards`: rewards tried without a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = [
    {"completion": "It is 5", "answer": "5"},
    {"completion": "6", "answer": "5"},
    {"completion": "6", "answer": "five"},
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "posttrain.rewards", *arguments], capture_output=True, text=True, check=False)


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_list_and_show() -> None:
    assert "numeric = posttrain.rewards.numeric:Numeric (from posttrain " in run("list").stdout
    assert "1.0 when the last number of the answer" in run("show", "numeric").stdout


def test_a_file_is_scored_with_a_table_and_every_failure(tmp_path: Path) -> None:
    result = run("score", "--reward", "numeric", "--file", str(write(tmp_path / "rows.jsonl", ROWS)), "--out", str(tmp_path / "out.jsonl"))
    assert result.returncode == 0, result.stderr
    numbers = next(line for line in result.stdout.splitlines() if line.startswith("│")).replace("│", " ").split()
    assert numbers == ["3", "2", "0", "1", "0.5000", "0.5000", "0.0000", "1.0000"]
    failure = "reward numeric: ValueError: the reference is 'five', expected a number"
    assert f"row 3: {failure}" in result.stdout
    judged = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["score"], row["failure"]) for row in judged] == [(1.0, None), (0.0, None), (None, failure)]


@pytest.mark.parametrize(
    ("arguments", "rows", "line"),
    [
        (["--reward", "numerc"], ROWS, "did you mean numeric?"),
        (["--reward", "numeric"], [{"text": "5"}], "line 1: expected an object with a text `completion`"),
        (["--reward", "numeric"], [{"completion": "5", "anser": "5"}], "unknown field 'anser'; did you mean answer?"),
        (["--reward", "numeric"], [], "no rows"),
        (["--reward", "numeric"], None, "No such file or directory"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], rows: list[object] | None, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    if rows is not None:
        write(path, rows)
    result = run("score", *arguments, "--file", str(path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("posttrain.rewards: ") and line in result.stderr and result.stderr.count("\n") == 1


def test_a_judge_is_calibrated_against_labels(tmp_path: Path) -> None:
    # `exact` as a judge of completions: right on 3 of 4 labels; AUC = (2 wins + 1 tie at half + 0.5) / 4.
    rows = [{"completion": text, "answer": "5", "label": label} for text, label in (("5", 1), ("6", 1), ("6", 0), ("7", 0))]
    result = run("calibrate", "--reward", "exact", "--file", str(write(tmp_path / "rows.jsonl", rows)))
    assert result.returncode == 0, result.stderr
    table = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in result.stdout.splitlines() if line.startswith("│")}
    assert (table["accuracy"], table["auc"], table["num scored"]) == ("0.7500", "0.7500", "4")
    unlabelled = run("calibrate", "--reward", "exact", "--file", str(write(tmp_path / "rows.jsonl", ROWS)))
    assert unlabelled.returncode == 2 and "expected a `label` of 0 or 1 in every row" in unlabelled.stderr
