"""A whole tiny SFT run with killed and resumed copies: bad rows named, held-out loss falls, the best checkpoint stays, same bits."""

import json
import math
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.metrics import read_rows

STEPS = 8


def comparable(row):
    """A row without what depends on the clock."""
    return {name: value for name, value in row.items() if not name.startswith("time/") and name != "data/tokens_per_s"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The run's overrides; its 60 sums stand among a broken line, an unknown role and a text that is too long."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    pairs = [(a, b) for a in range(10) for b in range(6)]
    rows = [[{"role": "user", "content": f"{a} + {b} ="}, {"role": "assistant", "content": f"{a + b}"}] for a, b in pairs]
    rows += [[{"role": "robot", "content": "?"}], [{"role": "user", "content": "?"}, {"role": "assistant", "content": "long " * 60_000}]]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows) + '{"messages"\n')
    return [
        *("algo=sft", "model=tiny", "train.lr=1e-2", "task=conversations", f"task.path={path}", "task.heldout_fraction=0.2"),
        *("algo.bad_rows=skip", "algo.overlong=drop", f"train.steps={STEPS}", "eval.every=2", "run.checkpoint_every=1"),
        *("run.keep_checkpoints=1", "train.microbatch_tokens=256", "model.freeze=['*layers.0.*']"),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, launch, base):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    result = launch(folder / "run", [], folder / "log", base).finish()
    assert result.code == 0, result.err
    return folder / "run", result


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).state_dict()


def test_it_learns_and_says_what_it_left_out(whole, tiny_path):
    folder, result = whole
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(math.isfinite(value) for row in rows for value in row.values())
    evaluated = {row["eval/policy_version"]: row["eval/conversations/loss"] for row in rows if "eval/loss" in row}
    assert [*evaluated] == [0, 2, 4, 6, 8] and min(evaluated.values()) < 0.7 * evaluated[0]
    assert (rows[0]["data/bad_rows"], rows[0]["data/overlong_rows"]) == (2, 1)
    named = (folder / "rows.txt").read_text().splitlines()
    assert [line.partition("sums.jsonl ")[2][:7] for line in named] == ["line 61", "line 63", "line 62"]
    assert all(line in result.out for line in named)
    assert [path.name for path in (folder / "logs").iterdir()] == ["learner_0.log"]
    best = min((loss, step) for step, loss in evaluated.items() if step)[1]
    assert (folder / "checkpoints/best").readlink().name == f"step_{best}" and f"is of step {best}: " in result.out
    before = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).state_dict()
    after = weights(folder / "checkpoints/best")
    assert {name for name in before if torch.equal(before[name], after[name])} == {name for name in before if ".layers.0." in name}


def test_a_killed_run_ends_in_the_same_bits(whole, launch, base, tmp_path):
    folder, _ = whole
    running = launch(tmp_path / "killed", [], tmp_path / "first", base)
    metrics = running.folder / "metrics.jsonl"
    assert running.wait_for(lambda: len(read_rows(metrics)) >= 3)
    running.kill()
    assert len(read_rows(metrics)) < STEPS, "killed too late to mean anything"
    result = launch(running.folder, ["run.resume=true"], tmp_path / "second", base).finish()
    assert result.code == 0 and "resumed from" in result.out, result.err
    assert list(map(comparable, read_rows(metrics))) == list(map(comparable, read_rows(folder / "metrics.jsonl")))
    expected, got = (weights(run / f"checkpoints/step_{STEPS}") for run in (folder, running.folder))
    assert expected.keys() == got.keys() and all(torch.equal(expected[name], got[name]) for name in expected)
    assert (running.folder / "checkpoints/best").readlink() == (folder / "checkpoints/best").readlink()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """2,000 rows of a few words each way, and their file."""
    draw = random.Random(0)
    rows = [[{"role": role, "content": words(draw)} for role in ("user", "assistant")] for _ in range(2000)]
    path = tmp_path_factory.mktemp("many") / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    return path, rows


def words(draw):
    return " ".join(str(draw.randrange(1000)) for _ in range(draw.randint(1, 12)))


@pytest.mark.slow
@pytest.mark.parametrize("microbatch_tokens", [8192, 1])  # many rows in a micro-batch; one
def test_the_loss_of_2000_rows_is_that_of_transformers(many, launch, tiny_path, tmp_path, microbatch_tokens):
    path, rows = many
    base = [
        "algo=sft",
        "model=tiny",
        "task=conversations",
        f"task.path={path}",
        "algo.epochs=1",
        "algo.rows_per_step=2000",
        "eval.num_prompts=2000",
    ]
    result = launch(tmp_path / "run", [f"train.microbatch_tokens={microbatch_tokens}"], tmp_path / "log", base).finish()
    assert result.code == 0, result.err
    (row,) = read_rows(tmp_path / "run/metrics.jsonl")
    expected, num_tokens = loss_by_transformers(tiny_path, rows)
    trained = row["loss/trained_tokens"] / num_tokens  # the other rows are held out; they are measured before the step
    assert 0.5 < trained < 1
    assert trained * row["loss/total"] + (1 - trained) * row["eval/loss_before"] == pytest.approx(expected, abs=1e-5)


def loss_by_transformers(path, rows):
    """Mean cross-entropy of what assistants say, the end of their turns included, a row at a time, and of how many tokens."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)
    total, number = 0.0, 0
    for messages in rows:
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        assert whole.startswith(asked)
        ids = tokenizer(whole, return_tensors="pt", add_special_tokens=False)["input_ids"]
        first = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
        last = first + ids[0, first:].tolist().index(tokenizer.eos_token_id) + 1
        labels = torch.full_like(ids, -100)
        labels[0, first:last] = ids[0, first:last]
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * (last - first)
        number += last - first
    return total / number, number
