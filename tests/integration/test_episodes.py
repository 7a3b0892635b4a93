"""Episodes of several turns in whole runs: against an environment, with a tool that is called, killed and resumed."""

import json

import pyarrow.parquet as pq
import pytest

from posttrain.metrics import read_rows
from posttrain.rollout.tools.calculator import Calculator

SMALL = ("train.prompts_per_step=4", "algo.group_size=4", "run.checkpoint_every=1", "model.dtype=float32")
AGAIN = ("task.environment=again", "+task.rewards.environment=1.0", "rollout.max_turns=3", "rollout.max_completion_tokens=36")
CALL = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "1+1"}}}


def episodes(folder, step):
    return pq.read_table(folder / "episodes" / f"step_{step:06d}.parquet").to_pylist()


def comparable(row):
    """A row without what depends on the clock."""
    return {name: value for name, value in row.items() if not name.startswith("time/") and name != "rollout/tokens_per_s"}


def say(text):
    return {"role": "assistant", "content": text}


def rows():
    """Conversations of short answers, and of calls of the calculator, whatever is asked."""
    for a in range(1, 10):
        for b in range(1, 10):
            asked = {"role": "user", "content": f"Calculate {a} + {b}."}
            again = {"role": "user", "content": "again"}
            yield {"messages": [asked, say("oh 1"), again, say("oh 2"), again, say("oh 3")]}
            called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
            yield {"messages": [asked, called, {"role": "tool", "content": "2"}, say("2")], "tools": [Calculator.schema]}


@pytest.fixture(scope="module")
def teach(tmp_path_factory, launch):
    """teach(model, rows): the model after a cold start on the rows, as an override; it ends its turns, and calls a tool if they do."""

    def start_cold(model, conversations):
        folder = tmp_path_factory.mktemp(model)
        (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in conversations))
        longest = 1000 if any("tools" in row for row in conversations) else 512
        settings = ["train.steps=40", "train.lr=4e-3", "algo.rows_per_step=4", f"model.context_tokens={longest}"]
        base = ["algo=sft", f"model={model}", "task=conversations", f"task.path={folder / 'rows.jsonl'}"]
        running = launch(folder / "sft", settings, folder / "log", base=base)
        assert running.finish().code == 0, running.err.read_text()
        return f"model.path={folder / 'sft/checkpoints/step_40/hf'}"

    return start_cold


@pytest.fixture(scope="module")
def talker(teach):
    """The tiny model, that has learned to answer and to call."""
    return teach("tiny", [*rows()])


def test_a_run_against_an_environment(talker, start):
    running = start("run", talker, *AGAIN, *SMALL, "train.steps=2")
    assert running.finish().code == 0, running.err.read_text()
    rows = read_rows(running.folder / "metrics.jsonl")
    assert all(row["rollout/turns_mean"] > 1 and 0 < row["reward/environment"] < 1 for row in rows)
    assert all(row["mismatch/logprob_abs_max"] <= 1e-3 for row in rows)
    recorded = [row for step in (1, 2) for row in episodes(running.folder, step)]
    assert "complete" in {row["status"] for row in recorded} and {row["environment"] for row in recorded} == {"again"}
    longest = max(recorded, key=lambda row: len(row["turn_texts"]))
    assert longest["turn_observations"] == ["again", "again", None] and longest["status"] == "complete"
    for row in recorded:
        assert json.loads(row["scores"])["environment"] == (row["environment_score"] or 0.0)


@pytest.mark.slow
def test_images_that_come_back_are_seen_by_engine_and_learner_alike(teach, start):
    model = teach("tiny_vl", [row for row in rows() if "tools" not in row])
    overrides = (model, *AGAIN, *SMALL, "task.environment=pictures", "rollout.max_images=2", "train.steps=2")
    running = start("run", *overrides)
    assert running.finish().code == 0, running.err.read_text()
    metrics = read_rows(running.folder / "metrics.jsonl")
    assert all(row["mismatch/logprob_abs_max"] <= 1e-3 and row["rollout/turns_mean"] > 1 for row in metrics)
    recorded = [row for step in (1, 2) for row in episodes(running.folder, step)]
    digests = {digest for row in recorded for turn in row["turn_images"] for digest in turn}
    assert {path.stem for path in (running.folder / "images").iterdir()} == digests and len(digests) == 2
    assert max(len(row["turn_texts"]) for row in recorded) == 3


@pytest.mark.slow
def test_a_killed_run_against_an_environment_ends_as_if_it_had_not_been(talker, start):
    overrides = (talker, *AGAIN, *SMALL, "train.steps=4", "rollout.tool_wait_s=60")
    whole = start("whole", *overrides)
    assert whole.finish().code == 0, whole.err.read_text()
    killed = start("killed", *overrides)
    metrics = killed.folder / "metrics.jsonl"
    assert killed.wait_for(lambda: len(read_rows(metrics)) >= 2)
    killed.kill()
    assert len(read_rows(metrics)) < 4, "killed too late to mean anything"
    result = start("killed", *overrides, "run.resume=true").finish()
    assert result.code == 0 and "resumed from" in result.out, result.err
    assert list(map(comparable, read_rows(metrics))) == list(map(comparable, read_rows(whole.folder / "metrics.jsonl")))
    for step in (3, 4):
        assert episodes(killed.folder, step) == episodes(whole.folder, step)


@pytest.mark.slow
def test_a_policy_that_calls_a_tool_reads_its_answer_and_goes_on(talker, start):
    tools = ("task.tools=[calculator]", "rollout.max_turns=3", "rollout.max_completion_tokens=160", "model.context_tokens=1000")
    running = start("tools", talker, *tools, *SMALL, "train.steps=2", "rollout.tool_rate_floor=1")
    result = running.finish()
    assert result.code == 0, result.err
    rows = read_rows(running.folder / "metrics.jsonl")
    assert all(row["tools/rate"] > 0.5 and row["tools/calls_mean"] > 0.5 and row["tools/failed_fraction"] == 0 for row in rows)
    assert all(row["mismatch/logprob_abs_max"] <= 1e-3 for row in rows)
    assert ("less than rollout.tool_rate_floor=1" in result.out) == any(row["tools/below_floor"] for row in rows)
    answered = [row for row in episodes(running.folder, 1) if row["turn_observations"][0] == "2"]
    assert answered and all(len(row["turn_texts"]) > 1 for row in answered)
    (call,) = json.loads(answered[0]["turn_tool_calls"][0])
    assert (call["name"], call["arguments"], call["status"]) == ("calculator", {"expression": "1+1"}, "answered")
