"""The scripts of the examples: what cold_start plants is what its recipe takes out, and a student is layers of its teacher."""

import json
import runpy
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.curate.recipe import load
from posttrain.curate.runner import curate

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STEP_OF = {
    "exact duplicate": "exact_duplicates",
    "contaminated": "decontaminate",
    **dict.fromkeys(("cut off", "malformed", "guess"), "response_rules"),
    "wrong answer": "final_answer",
}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_cold_start_learns_from_clean_rows_only(tmp_path):
    example = EXAMPLES / "cold_start"
    rows, heldout = runpy.run_path(str(example / "make_rows.py"))["make"]()
    assert (lines(example / "rows.jsonl"), lines(example / "heldout.jsonl")) == (rows, heldout)
    for name in ("recipe.yaml", "rows.jsonl", "heldout.jsonl"):
        shutil.copy(example / name, tmp_path)
    curate(load(tmp_path / "recipe.yaml"), lambda text: None)
    dropped = lines(tmp_path / "curated/dropped.jsonl")
    assert Counter((row["step"], row["reason"]) for row in dropped) == {(step, reason): 8 for reason, step in STEP_OF.items()}
    assert {row["row"]["planted"] for row in dropped if row["reason"] != "exact duplicate"} == STEP_OF.keys() - {"exact duplicate"}
    kept = lines(tmp_path / "curated/rows.jsonl")
    assert len(kept) == len(rows) - len(dropped) and {row.get("planted") for row in kept} <= {None, "exact duplicate"}
    questions = {row["messages"][0]["content"] for row in kept}
    assert len(questions) == len(kept) and not questions & {row["messages"][0]["content"] for row in heldout}
    table = (tmp_path / "curated/report.md").read_text().partition("## Steps\n\n")[2].partition("\n\n")[0]
    assert table in (example / "README.md").read_text()


@pytest.mark.parametrize(("every", "kept"), [(3, [0, 2, 3]), (2, [0, 2]), (1, [0, 1, 2, 3])])
def test_a_student_is_layers_of_its_teacher(tiny_path, tmp_path, every, kept):
    make = runpy.run_path(str(EXAMPLES / "strong_to_weak/make_student.py"))["make"]
    make(tiny_path, tmp_path / "student", every)
    teacher, student = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (tiny_path, tmp_path / "student"))
    assert student.config.num_hidden_layers == len(kept) and student.dtype == teacher.dtype
    given, found = teacher.state_dict(), student.state_dict()
    for name, tensor in found.items():
        parts = name.split(".")
        if "layers" in parts:
            place = parts.index("layers") + 1
            parts[place] = str(kept[int(parts[place])])
        assert torch.equal(tensor, given[".".join(parts)]), name
    question = torch.tensor([[5, 6, 7]])
    assert torch.equal(student(question).logits, teacher(question).logits) == (every == 1)
    text = [{"role": "user", "content": "2 + 2"}]
    said = [AutoTokenizer.from_pretrained(path).apply_chat_template(text, tokenize=False) for path in (tiny_path, tmp_path / "student")]
    assert said[0] == said[1]
