"""The curation example: precisely what was planted goes, with the right reason, and the committed files are what it makes."""

import json
import runpy
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from posttrain.curate.recipe import load
from posttrain.curate.runner import curate

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "curation"
STEP_OF = {
    "empty response": "normalise",
    "exact duplicate": "exact_duplicates",
    "near duplicate": "near_duplicates",
    "contaminated": "decontaminate",
    **dict.fromkeys(("cut off", "malformed", "repetition", "language mixing", "guess"), "response_rules"),
    "wrong answer": "final_answer",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    for name in ("recipe.yaml", "rows.jsonl", "evaluation.jsonl"):
        shutil.copy(EXAMPLE / name, folder)
    curate(load(folder / "recipe.yaml"), lambda text: None)
    return folder / "curated"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def question(row):
    return " ".join(row["messages"][0]["content"].split())


def test_the_committed_rows_are_what_the_script_makes():
    rows, evaluation = runpy.run_path(str(EXAMPLE / "make_rows.py"))["make"]()
    assert (lines(EXAMPLE / "rows.jsonl"), lines(EXAMPLE / "evaluation.jsonl")) == (rows, evaluation)
    assert Counter(row["planted"] for row in rows) == {"": 240, **dict.fromkeys(STEP_OF, 6)}


def test_precisely_what_was_planted_goes_with_its_reason(output):
    dropped = [row for row in lines(output / "dropped.jsonl") if row["step"] != "balance"]
    assert Counter((row["step"], row["reason"]) for row in dropped) == {(step, reason): 6 for reason, step in STEP_OF.items()}
    # Of two of the same the first stands, which may be the planted one.
    others = [row for row in dropped if row["reason"] != "exact duplicate"]
    assert [row for row in others if row["row"].get("planted") != row["reason"]] == []
    planted = {question(row) for row in lines(EXAMPLE / "rows.jsonl") if row["planted"] == "exact duplicate"}
    assert {question(row["row"]) for row in dropped if row["reason"] == "exact duplicate"} == planted


def test_what_is_left_is_clean_and_balanced(output):
    rows = lines(output / "rows.jsonl")
    assert Counter(row["task"] for row in rows) == {"words": 80, "area": 40, "chinese": 40}
    clean = defaultdict(int)
    for row in lines(EXAMPLE / "rows.jsonl"):
        clean[question(row)] += row["planted"] == ""
    assert all(clean[question(row)] == 1 for row in rows)
    assert len({question(row) for row in rows}) == len(rows)


def test_the_readme_shows_the_report(output):
    shown = (EXAMPLE / "README.md").read_text()
    table = (output / "report.md").read_text().partition("## Steps\n\n")[2].partition("\n\n")[0]
    assert table in shown
