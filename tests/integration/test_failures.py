"""A dead or silent actor ends the run non-zero, by name, and leaves nothing behind; so does a mistake found late."""

import json
import os
import re
import signal

import psutil
import pytest


def actor_pid(running, name):
    """The process of an actor, once its log says that it works."""
    for process in running.descendants():
        try:
            if any(f.path.endswith(f"{name}.log") for f in process.open_files()) or _writes_to(process.pid, f"{name}.log"):
                return process.pid
        except psutil.Error:
            continue
    return None


def _writes_to(pid, suffix):
    try:
        return os.readlink(f"/proc/{pid}/fd/1").endswith(suffix)
    except OSError:
        return False


@pytest.mark.parametrize(
    ("victim", "signal_", "words"),
    [("engine_0", signal.SIGKILL, "died"), ("learner_0", signal.SIGSTOP, "made no progress")],
)
def test_a_lost_actor_ends_the_run_by_name(start, victim, signal_, words):
    running = start("run", "train.steps=500", "cluster.deadline_s=45")
    assert running.wait_for(lambda: (running.folder / "metrics.jsonl").exists() and "step    2" in running.out.read_text())
    family = running.descendants()
    os.kill(actor_pid(running, victim), signal_)
    result = running.finish(timeout=150)
    assert result.code == 1
    assert re.search(rf"{victim} \(process \d+ on node \S+\) {words}", result.err), result.err
    assert "last lines of" in result.err
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def files(tmp_path):
    row = {"messages": [{"role": "user", "content": "2 + 3 ="}], "answer": "5"}
    (tmp_path / "empty.jsonl").write_text("")
    long = [{**row, "messages": [{"role": "user", "content": f"{i} " + "word " * 600}]} for i in range(20)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, long)))
    return tmp_path


FILE = ["task.source=file", "task.family=null", "task.params={}", "task.name=mine"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.path=/no/such/folder"], "/no/such/folder"),
        (["task.family=chain_summ"], "chain_sum"),
        ([*FILE, "task.path=empty.jsonl"], "empty.jsonl"),
        ([*FILE, "task.path=long.jsonl"], "model.context_tokens"),
        (["train.prompts_per_step=1000"], "training prompts"),
        (["model.context_tokens=100000"], "1024"),
        (["+task.rewards.numerix=1"], "numeric"),
    ],
    ids=lambda value: str(value[-1])[:40] if isinstance(value, list) else "",
)
def test_a_mistake_found_before_the_start_is_one_line_and_leaves_nothing(files, overrides, words, start):
    running = start("run", *[o.replace("=empty", f"={files}/empty").replace("=long", f"={files}/long") for o in overrides])
    result = running.finish(timeout=120)
    assert result.code == 2
    lines = [line for line in result.err.splitlines() if line.startswith("posttrain: ")]
    assert len(lines) == 1 and words in lines[0], result.err
    assert "Traceback" not in result.err
    assert not running.folder.exists()
