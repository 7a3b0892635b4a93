"""Pipelines as a user meets them, with stages that take a second: chaining, skipping, resuming, and how they end."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHAIN = '''
"""An algorithm whose checkpoint is the text of the model before it and its own."""
import sys, time
from dataclasses import dataclass
from pathlib import Path
from posttrain.config import AlgoConfig
from posttrain.errors import RunError, UserError
from posttrain.rundir import run_folder, write_config

@dataclass
class Chain(AlgoConfig):
    """Writes."""

    name: str = "chain"
    text: str = "-"  # what it adds
    ending: str = "done"  # how it ends
    def run(self, config):
        folder = run_folder(config)
        write_config(folder, config)
        print("running", self.text, "resumed" if config.run.resume else "fresh", flush=True)
        if self.ending == "user":
            raise UserError("the data is empty")
        if self.ending == "run":
            raise RunError("engine 0 did not answer")
        if self.ending == "nothing":
            return
        if self.ending == "long" and not config.run.resume:
            time.sleep(60)
        before = Path(config.model.path, "text")
        made = folder / "checkpoints/step_1/hf"
        made.mkdir(parents=True, exist_ok=True)
        (made / "text").write_text((before.read_text() if before.exists() else "") + self.text)
        row = '{"step": 1, "loss/total": 0.5, "eval/t/reward_mean_before": 0.25, "eval/t/reward_mean": 0.75, "eval/t/reward_ci95": 0.125}'
        (folder / "metrics.jsonl").write_text(row + chr(10))
'''

STAGES = """
stages:
  - name: one
    run: [algo=chain, algo.text=a]
  - name: two
    run: [algo=chain, algo.text=b, "model.path=${stage.one.checkpoint}"]
  - name: three
    run: [algo=chain, algo.text=c, "model.path=${stage.two.checkpoint}"]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pipeline, in whose processes the algorithm above is installed."""
    info = tmp_path / "site" / "chain-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[posttrain.algorithms]\nchain = chain:Chain\n")
    (tmp_path / "site" / "chain.py").write_text(CHAIN)
    (tmp_path / "chain.yaml").write_text(STAGES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path


COMMAND = ("-m", "posttrain.run", "pipeline=chain.yaml", "run.dir=runs/chain it")
RESUME = "run.resume=true"


def texts(place: Path) -> dict[str, str]:
    return {
        str(file.relative_to(place / "runs/chain it").parts[0]): file.read_text() for file in place.glob("runs/*/*/checkpoints/*/hf/text")
    }


def events(output: str) -> list[str]:
    """What became of each stage, in order."""
    return re.findall(r"^stage \d/3 (\w+: (?:starts|resumes|skipped))", output, re.MULTILINE)


def test_stages_feed_the_next_and_only_what_changed_runs_again(python, place: Path) -> None:
    first = python(*COMMAND)
    assert (first.returncode, first.stderr) == (0, "")
    assert events(first.stdout) == ["one: starts", "two: starts", "three: starts"]
    assert texts(place) == {"01-one": "a", "02-two": "ab", "03-three": "abc"}
    report = (place / "runs/chain it/report.md").read_text()
    command = "python -m posttrain.run algo=chain algo.text=b 'model.path='\"'\"'runs/chain it/01-one/checkpoints/step_1/hf'\"'\"''"
    assert f"    {command} 'run.dir='\"'\"'runs/chain it/02-two'\"'\"''\n" in report
    assert re.search(
        r"^\| two \| chain on arithmetic \| \d+ \| 1 \| t reward_mean 0\.250 -> 0\.750 ± 0\.125 \| 0\.500", report, re.MULTILINE
    )
    assert "running b fresh" in (place / "runs/chain it/02-two/stage.log").read_text() and "running b fresh" in first.stdout

    taken = python(*COMMAND)
    assert (taken.returncode, taken.stdout) == (2, "")
    assert taken.stderr.startswith("posttrain: run.dir=runs/chain it already holds a pipeline: set run.resume=true")

    # The second stage's text changes to what the third makes of it in the same way: the third is what it was.
    same = python(*COMMAND, RESUME, "two.algo.text=b", "two.cluster.deadline_s=7")
    assert events(same.stdout) == ["one: skipped", "two: skipped", "three: skipped"]
    other = python(*COMMAND, RESUME, "two.algo.text=x")
    assert events(other.stdout) == ["one: skipped", "two: starts", "three: starts"]
    assert "stage 2/3 two: algo.text is x, was b: runs anew; what it had is kept in runs/chain it/02-two.replaced-1\n" in other.stdout
    assert "stage 3/3 three: what model.path names has changed: runs anew" in other.stdout
    kept = {"02-two.replaced-1": "ab", "03-three.replaced-1": "abc"}
    assert texts(place) == {"01-one": "a", "02-two": "ax", "03-three": "axc", **kept}

    # A stage that is moved in the file keeps its folder; what it made elsewhere in the folder counts by content.
    (place / "chain.yaml").write_text(
        STAGES.replace("stages:", "stages:\n  - name: zero\n    run: [algo=chain, algo.text=z]").replace("=b", "=x")
    )
    moved = python(*COMMAND, RESUME)
    assert re.findall(r"^stage \d/4 (\w+: \w+)", moved.stdout, re.MULTILINE) == [
        "zero: starts",
        "one: skipped",
        "two: skipped",
        "three: skipped",
    ]
    assert texts(place) == {"01-zero": "z", "01-one": "a", "02-two": "ax", "03-three": "axc", **kept}

    # A finished stage whose checkpoint is gone is not finished.
    shutil.rmtree(place / "runs/chain it/03-three/checkpoints")
    mended = python(*COMMAND, RESUME)
    assert re.findall(r"^stage \d/4 (\w+: \w+)", mended.stdout, re.MULTILINE) == [
        "zero: skipped",
        "one: skipped",
        "two: skipped",
        "three: resumes",
    ]
    assert texts(place)["03-three"] == "axc" and mended.returncode == 0


def test_a_stage_killed_in_the_middle_is_resumed(place: Path, python) -> None:
    process = subprocess.Popen([sys.executable, *COMMAND, "two.algo.ending=long"], cwd=place, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    running = next(line for line in process.stdout if line.startswith("running b"))
    process.kill()
    process.wait()
    assert running == "running b fresh\n"
    log = place / "runs/chain it/02-two/stage.log"
    gone_by = time.monotonic() + 10
    while writers(log) and time.monotonic() < gone_by:
        time.sleep(0.05)
    assert not writers(log), "the stage outlived the pipeline"
    again = python(*COMMAND, "two.algo.ending=long", RESUME)
    assert (again.returncode, again.stderr) == (0, "")
    assert events(again.stdout) == ["one: skipped", "two: resumes", "three: starts"]
    assert "running b resumed" in again.stdout and "running b fresh" not in again.stdout
    assert texts(place) == {"01-one": "a", "02-two": "ab", "03-three": "abc"}
    assert "in 2 starts" in (place / "runs/chain it/report.md").read_text()


def writers(log: Path) -> list[str]:
    """Processes that print into `log`."""
    return [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and prints_to(entry) == str(log)]


def prints_to(process: Path) -> str:
    try:
        return os.readlink(process / "fd/1")
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("ending", "code", "error"),
    [
        ("user", 2, r"posttrain: stage two: the data is empty; its log is runs/chain it/02-two/stage\.log"),
        (
            "run",
            1,
            r"stage two failed \(exit code 1\); its log is runs/chain it/02-two/stage\.log; run\.resume=true continues .*",
        ),
        ("nothing", 1, r"stage two ended well, but runs/chain it/02-two holds no checkpoint; its log is .*"),
    ],
)
def test_a_failing_stage_ends_the_pipeline_by_name(python, place: Path, ending: str, code: int, error: str) -> None:
    result = python(*COMMAND, f"two.algo.ending={ending}")
    assert result.returncode == code
    assert re.fullmatch(error + "\n", result.stderr), result.stderr
    assert events(result.stdout) == ["one: starts", "two: starts"]
    assert not (place / "runs/chain it/03-three").exists()


DEAF = ["env", "--ignore-signal=INT"]
"""As a script's `command &` starts it."""


@pytest.mark.parametrize(("number", "wrapper"), [(signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGTERM, DEAF)])
def test_ctrl_c_ends_the_stage_too(place: Path, number: int, wrapper: list[str]) -> None:
    command = [*wrapper, sys.executable, *COMMAND, "two.algo.ending=long"]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if line.startswith("running b"))
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.stderr.read() == "posttrain: interrupted\n"
        assert process.wait(10) == 130
    assert "stage two was interrupted; run.resume=true continues it; its log is runs/chain it/02-two/stage.log" in rest
    log = place / "runs/chain it/02-two/stage.log"
    assert log.read_text().endswith("posttrain: interrupted\n") and not writers(log)


def test_a_mistake_in_a_later_stage_is_one_line_and_starts_nothing(python, place: Path) -> None:
    result = python(*COMMAND, "three.algo.txet=c")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "posttrain: stage three: unknown key algo.txet: did you mean algo.text?\n"
    assert not (place / "runs").exists()


def test_cfg_job_shows_every_stage_and_own_choices_are_found(python, place: Path) -> None:
    (place / "mine" / "algo").mkdir(parents=True)
    (place / "mine" / "algo" / "loud.yaml").write_text("defaults: [chain]\ntext: A\n")
    (place / "mine" / "pipeline").mkdir()
    (place / "mine" / "pipeline" / "louder.yaml").write_text(STAGES.replace("algo=chain, algo.text=a", "algo=loud"))
    shown = python("-m", "posttrain.run", "pipeline=louder", "--config-dir", "mine", "--cfg", "job")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.findall(r"^# stage (\w+): chain on arithmetic$", shown.stdout, re.MULTILINE) == ["one", "two", "three"]
    result = python("-m", "posttrain.run", "pipeline=louder", "--config-dir", "mine", "run.dir=runs/chain it")
    assert (result.returncode, result.stderr) == (0, "")
    assert texts(place)["03-three"] == "Abc"


CURATED = """
stages:
  - name: rows
    curate: [recipe=recipe.yaml, input=given.jsonl]
  - name: learn
    run: [algo=chain, algo.text=a, "task.path=${stage.rows.dataset}"]
"""


def test_a_curation_is_a_stage(python, place: Path) -> None:
    (place / "chain.yaml").write_text(CURATED)
    (place / "recipe.yaml").write_text("steps:\n- exact_duplicates\n- response_rules\n")
    messages = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "I see."}]}\n'
    (place / "given.jsonl").write_text(messages % "one" + messages % "two" + messages % "one")
    first = python(*COMMAND)
    assert (first.returncode, first.stderr) == (0, "")
    made = place / "runs/chain it/01-rows"
    assert (made / "rows.jsonl").read_text() == messages % "one" + messages % "two"
    command = python("-m", "posttrain.run", "pipeline=chain.yaml", "--cfg", "job")
    assert "# stage rows: curate: exact_duplicates, response_rules\n" in command.stdout
    report = (place / "runs/chain it/report.md").read_text()
    assert re.search(r"^\| rows \| curate: exact_duplicates, response_rules \| .* 01-rows/rows\.jsonl, 2 rows \|$", report, re.MULTILINE)

    again = python(*COMMAND, RESUME)
    assert re.findall(r"^stage \d/2 (\w+: \w+)", again.stdout, re.MULTILINE) == ["rows: skipped", "learn: skipped"]
    # Killed before its end, it goes on, and what it makes is the same.
    record = made / "stage.json"
    record.write_text(record.read_text().replace("true", "false"))
    (made / "rows.jsonl").unlink()
    resumed = python(*COMMAND, RESUME)
    assert re.findall(r"^stage \d/2 (\w+: \w+)", resumed.stdout, re.MULTILINE) == ["rows: resumes", "learn: skipped"]
    assert "(done before)" in resumed.stdout

    emptied = python(*COMMAND, RESUME, "rows.response_rules.min_words=50")
    assert emptied.returncode == 2
    assert emptied.stderr == (
        "posttrain: stage rows: no row is left: response_rules took the last of 3; runs/chain it/01-rows/report.md says why; "
        "its log is runs/chain it/01-rows/stage.log\n"
    ).replace("runs/chain it/01-rows/report", f"{place}/runs/chain it/01-rows/report")
