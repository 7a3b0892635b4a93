"""Recipes: what can be wrong with one, what is done once, what a kill leaves, and that every row is accounted for."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
import yaml

from posttrain.curate.__main__ import help_text, main
from posttrain.curate.recipe import load
from posttrain.curate.runner import curate
from posttrain.errors import RunError, UserError

ROWS = [{"prompt": f"What is {n % 7} + {n}? ", "answer": n % 7 + n, "task": "ab"[n % 2]} for n in range(20)] * 2

STEPS = '''
from dataclasses import dataclass
from pathlib import Path

from posttrain.curate.base import Drop, Outcome, Step, sift

@dataclass
class Odd(Step):
    """Drops odd answers."""

    calls: str = "calls"  # a file with one line a call

    def apply(self, rows, bench):
        with bench.path(self.calls).open("a") as file:
            file.write("called\\n")
        return sift(rows, lambda row: row if row.data["answer"] % 2 == 0 else Drop("odd", str(row.data["answer"])))

@dataclass
class Losing(Step):
    """Loses a row."""

    def apply(self, rows, bench):
        return Outcome(kept=list(rows[1:]))

@dataclass
class Dying(Step):
    """Dies in its middle when there is a file `armed`."""

    def apply(self, rows, bench):
        import os, signal
        (bench.folder / "first").write_text("done")
        if bench.path("armed").exists():
            bench.path("armed").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(kept=list(rows))

Wrong = 3
'''


@pytest.fixture
def recipe(tmp_path, install):
    """recipe(*steps, **keys): its path; rows.jsonl stands beside it, and steps of a third party are installed."""
    entries = {"odd": "my_steps:Odd", "losing": "my_steps:Losing", "dying": "my_steps:Dying", "wrong": "my_steps:Wrong"}
    install("my-steps", entries, group="posttrain.curation", my_steps=STEPS)
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))

    def write(*steps, **keys):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"input": "rows.jsonl", "output": "out", "steps": [*steps], **keys}))
        return path

    return write


def run(path, *overrides):
    return curate(load(path, overrides), lambda text: None)


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_every_row_is_kept_or_dropped_with_a_step_and_a_reason(recipe, tmp_path):
    done = run(recipe("normalise", "exact_duplicates", "odd"))
    assert [(step.label, step.num_in, step.num_out, step.reasons) for step in done.steps] == [
        ("read", 40, 40, {}),
        ("normalise", 40, 40, {}),
        ("exact_duplicates", 40, 20, {"exact duplicate": 20}),
        ("odd", 20, 13, {"odd": 7}),
    ]
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    kept = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert len(dropped) + len(kept) == 40
    assert Counter((row["step"], row["reason"]) for row in dropped) == {("exact_duplicates", "exact duplicate"): 20, ("odd", "odd"): 7}
    assert kept[0] == {"prompt": "What is 0 + 0?", "answer": 0, "task": "a"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| odd | 20 | 13 | 7 | 7 odd |" in report and "40 rows in, 13 out (32%)" in report
    told = [json.loads(line) for line in (tmp_path / "out" / "steps.jsonl").read_text().splitlines()]
    assert told[-1] == {"step": "odd", "in": 20, "out": 13, "dropped": {"odd": 7}, "counts": {}}


def test_the_same_recipe_gives_the_same_bytes_in_another_folder_and_process(recipe, tmp_path):
    path = recipe("normalise", "near_duplicates", {"balance": {"total": 8}})
    run(path)
    (tmp_path / "other").mkdir()
    for name in ("recipe.yaml", "rows.jsonl"):
        (tmp_path / "other" / name).write_bytes((tmp_path / name).read_bytes())
    command = [sys.executable, "-m", "posttrain.curate", f"recipe={tmp_path / 'other' / 'recipe.yaml'}"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert files(tmp_path / "out") == files(tmp_path / "other" / "out")


def test_a_step_is_done_once_and_again_when_what_it_follows_from_changes(recipe, tmp_path):
    def num_calls():
        return len((tmp_path / "calls").read_text().splitlines())

    run(recipe("odd"))
    done = run(recipe("odd"))
    assert num_calls() == 1 and done.steps[-1].was_there
    run(recipe("odd", "normalise"))
    run(recipe("odd"), "format=parquet")
    assert num_calls() == 1
    run(recipe("exact_duplicates", "odd"))
    assert num_calls() == 2
    run(recipe("odd", seed=1))
    assert num_calls() == 3
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[:30]))
    assert run(recipe("odd")).steps[-1].num_in == 30
    assert num_calls() == 4


def test_a_killed_curation_goes_on_and_ends_in_the_same_files(recipe, tmp_path):
    path = recipe("odd", "dying", "exact_duplicates")
    run(path, f"output={tmp_path / 'whole' / 'out'}")
    (tmp_path / "armed").touch()
    (tmp_path / "calls").unlink()
    command = [sys.executable, "-m", "posttrain.curate", f"recipe={path}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, capture_output=True, env=environment, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "rows.jsonl").exists()
    resumed = subprocess.run(command, capture_output=True, env=environment, text=True, check=True)
    assert "odd                       40 -> 26      14 odd (done before)" in resumed.stdout
    assert (tmp_path / "calls").read_text() == "called\n"
    assert files(tmp_path / "out") == files(tmp_path / "whole" / "out")


def test_a_step_that_loses_rows_is_told(recipe):
    with pytest.raises(RunError, match="losing: 40 rows went in, and 39 kept and 0 dropped ones came out"):
        run(recipe("losing"))


def test_rows_that_cannot_be_read_are_refused_or_listed(recipe, tmp_path):
    path = recipe("normalise")
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"prompt": \n{"prompt": 3}\n')
    with pytest.raises(UserError, match=r"^rows\.jsonl line 41: not JSON"):
        run(path)
    done = run(path, "bad_rows=drop")
    assert (done.steps[0].num_in, done.steps[0].reasons) == (42, {"cannot be read": 2})
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [(row["where"], row["step"]) for row in dropped] == [("rows.jsonl line 41", "read"), ("rows.jsonl line 42", "read")]
    assert "rows.jsonl line 42 (``prompt` is 3" not in (tmp_path / "out" / "report.md").read_text()


def test_parquet_comes_out_where_it_is_asked_for(recipe, tmp_path):
    import pyarrow.parquet as pq

    run(recipe("normalise", format="parquet"))
    assert pq.read_table(tmp_path / "out" / "rows.parquet").num_rows == 40


def test_a_step_that_stands_twice_has_two_names(recipe):
    found = load(recipe("odd", {"balance": {"total": 4}}, {"balance": {"total": 2}}), ["balance_2.total=3", "balance.by=task"])
    assert [(named.label, named.kind) for named in found.steps] == [("odd", "odd"), ("balance", "balance"), ("balance_2", "balance")]
    assert [named.step.total for named in found.steps[1:]] == [4, 3]


def test_a_setting_replaces_its_default_whole(recipe):
    found = load(recipe({"difficulty": {"bands": {"low": 0.5, "all": 1}}}))
    assert found.steps[0].step.bands == {"low": 0.5, "all": 1.0}


MISTAKES = {
    "unknown step": (["normalize"], {}, [], "unknown step 'normalize'; did you mean normalise?"),
    "unknown setting": ([{"balance": {"totl": 3}}], {}, [], "unknown key balance.totl; did you mean total?"),
    "no settings": ([{"losing": {"a": 3}}], {}, [], "unknown key losing.a; it has no settings"),
    "wrong type": ([{"balance": {"total": "many"}}], {}, [], "balance.total=many: expected an integer"),
    "wrong type in a mapping": ([{"balance": {"shares": {"a": "much"}}}], {}, [], "balance.shares={'a': 'much'}: expected a mapping"),
    "wrong value": ([{"near_duplicates": {"threshold": 2}}], {}, [], "near_duplicates: threshold=2.0: expected a number above 0 and at"),
    "required": (["pass_rate"], {}, [], "pass_rate.model is required"),
    "no rewards": ([{"pass_rate": {"model": "builtin:tiny"}}], {}, [], "pass_rate: rewards={}: expected at least one reward: weight"),
    "no steps": ([], {}, [], "steps: expected a list of steps; known: balance, "),
    "two names": ([{"odd": None, "losing": None}], {}, [], "steps: the 1th is {'losing': None, 'odd': None}, expected a name"),
    "no step": (["wrong"], {}, [], "posttrain.curation: wrong = my_steps:Wrong (from my-steps 1.0) is not a subclass"),
    "unknown key": (["odd"], {"ouput": "x"}, [], "unknown key ouput; did you mean output"),
    "format": (["odd"], {"format": "csv"}, [], "format=csv: expected jsonl or parquet"),
    "input": (["odd"], {"input": "none.jsonl"}, [], "none.jsonl: there is no such file"),
    "no input": (["odd"], {"input": []}, [], "input is required"),
    "twice": (["odd"], {"input": ["rows.jsonl", "rows.jsonl"]}, [], "input: a file stands twice"),
    "override": (["odd"], {}, ["seed"], "cannot read 'seed'"),
    "override's type": (["odd"], {}, ["seed=x"], "seed=x: expected an integer"),
    "override's step": (["odd"], {}, ["ood.calls=x"], "ood.calls=x: the recipe has no step ood; did you mean odd?"),
    "decontaminate": ([{"decontaminate": {"against": ["e.jsonl"]}}], {}, [], "decontaminate: against=e.jsonl: there is no such file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_done(recipe, tmp_path, capsys, name):
    steps, keys, overrides, message = MISTAKES[name]
    assert main([f"recipe={recipe(*steps, **keys)}", *overrides]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"posttrain.curate: {message}")
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_none(tmp_path, capsys):
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    for name, message in (("none.yaml", "cannot be read"), ("list.yaml", "expected keys such as"), ("broken.yaml", "not YAML")):
        assert main([f"recipe={tmp_path / name}"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    for arguments in (["lisst"], ["seed=1"], ["--foo"]):
        assert main(arguments) == 2
    assert "did you mean list?" in capsys.readouterr().err


def test_help_lists_every_step_and_setting_and_loads_nothing_heavy(install):
    install("my-steps", {"odd": "my_steps:Odd"}, group="posttrain.curation", my_steps=STEPS)
    text = help_text()
    assert max(map(len, text.splitlines())) <= 140
    for words in ("odd: Drops odd answers.", "a file with one line a call", "min_rate", "bad_rows", "pass_rate: "):
        assert words in text
    assert all(
        len(line.split(maxsplit=2)) == 3
        for line in text.split("Keys of a recipe")[1].splitlines()
        if line.startswith("  ") and line != "  steps"
    )
    program = "import sys; from posttrain.curate.__main__ import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr.split()
    assert not {"torch", "ray", "vllm", "transformers", "py3langid", "openai"} & set(loaded)


def test_list_and_show(capsys):
    assert main(["list"]) == 0
    assert "balance = posttrain.curate.balance:Balance (from posttrain " in capsys.readouterr().out
    assert main(["show", "balance"]) == 0
    shown = capsys.readouterr().out
    assert "largest remainder" in shown and "Reason: over its task's share." in shown and "rows in all; 0" in shown
    assert main(["show", "balanse"]) == 2
    assert "did you mean balance or" in capsys.readouterr().err
