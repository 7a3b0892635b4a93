"""SFT's numbers on a real tiny Qwen3, float32, and what its recipe makes of rows, stages and lengths."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.algorithms.losses import LossTokens, negative_logprob
from posttrain.algorithms.sft import SftConfig
from posttrain.algorithms.sft_recipe import SftRecipe
from posttrain.algorithms.supervised_config import StageConfig
from posttrain.config import Config, ModelConfig, TaskConfig, TrainConfig, validate
from posttrain.errors import UserError
from posttrain.model import TokenScorer, load_model, stream_tensors
from posttrain.packing import pack_documents
from posttrain.types import Document


@pytest.fixture(scope="module")
def model(tiny_path):
    return load_model(tiny_path, "float32").train()


@pytest.fixture(scope="module")
def reference(tiny_path):
    """The same weights with transformers' own attention and loss."""
    return AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32, attn_implementation="sdpa").train()


@pytest.fixture(scope="module")
def documents():
    """Ten of 5 to 200 tokens, half of them trained in stretches."""
    rng = np.random.default_rng(0)
    made = []
    for length in rng.integers(5, 200, 10):
        is_trained = np.repeat(rng.random(length) < 0.5, 3)[:length]
        is_trained[0], is_trained[-1] = False, True
        made.append(Document(token_ids=rng.integers(5, 390, length), is_trained=is_trained))
    return made


def logprobs(model, batch):
    scored, _ = TokenScorer(model, 1.0)(stream_tensors(batch, torch.device("cpu"), "blocks"), 1.0)
    return scored


def total_loss(model, batches):
    total = torch.zeros(())
    for batch in batches:
        scored = logprobs(model, batch)
        zeros = torch.zeros_like(scored)
        tokens = LossTokens(
            policy_logprobs_N=scored,
            old_logprobs_N=zeros,
            behavior_logprobs_N=zeros,
            advantages_N=zeros,
            segments_N=torch.zeros(len(scored), dtype=torch.int64),
        )
        total = total + (torch.tensor(batch.loss_weights[batch.loss_weights != 0]) * negative_logprob(tokens)).sum()
    return total


def by_content(model, batches):
    """The log-probability of every trained token, under the number of its document and its place there."""
    found = {}
    with torch.no_grad():
        for batch in batches:
            for t, value in zip(np.flatnonzero(batch.loss_weights), logprobs(model, batch).tolist(), strict=True):
                own = batch.token_ids[batch.segment_ids == batch.segment_ids[t]]
                found[own.tobytes(), int(batch.position_ids[t])] = value
    return found


def test_packed_log_probabilities_equal_unpacked_ones(model, documents):
    packed = pack_documents(documents, normalization="token_mean", microbatch_tokens=10_000)
    alone = pack_documents(documents, normalization="token_mean", microbatch_tokens=1)
    assert (len(packed), len(alone)) == (1, 10)
    together, apart = by_content(model, packed), by_content(model, alone)
    assert len(together) == len(apart) == sum(document.is_trained.sum() for document in documents)
    assert len(together.keys() - apart.keys()) == 0  # a comparison of the keys themselves would print them
    np.testing.assert_allclose([together[key] for key in apart], list(apart.values()), atol=1e-5)


def test_the_loss_and_its_gradient_are_those_of_transformers(model, reference, documents):
    """Padded rows with labels: cross entropy as transformers' own models compute it, the mean over the batch's tokens."""
    longest = max(len(document.token_ids) for document in documents)
    ids, mask, labels = (np.full((len(documents), longest), fill) for fill in (0, 0, -100))
    for row, document in enumerate(documents):
        length = len(document.token_ids)
        ids[row, :length], mask[row, :length] = document.token_ids, 1
        labels[row, :length] = np.where(document.is_trained, document.token_ids, -100)
    reference.zero_grad()
    expected = reference(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)).loss
    expected.backward()
    for budget in (1, 256, 10_000):
        model.zero_grad()
        loss = total_loss(model, pack_documents(documents, normalization="token_mean", microbatch_tokens=budget))
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            assert (ours.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm()


def test_sequence_means_weigh_documents_alike(documents):
    (batch,) = pack_documents(documents, normalization="sequence_mean", microbatch_tokens=10_000)
    sums = np.bincount(batch.segment_ids, weights=batch.loss_weights)
    np.testing.assert_allclose(sums, np.full(len(documents), 0.1), rtol=1e-5)


# The recipe


def row(i, words=3):
    return {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "the answer " * words}]}


@pytest.fixture
def prepare(tmp_path, monkeypatch, tiny_path):
    """prepare({task: rows}, **keys of algo): the recipe; a row may be a line that is no JSON."""
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))

    def make(rows, context_tokens=512, steps=4, freeze=(), **keys):
        tasks = []
        for name, own in rows.items():
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in own))
            tasks.append(TaskConfig(name=name, source="file", path=str(path), heldout_fraction=0.3))
        algo = SftConfig(**keys)
        model = ModelConfig(path=tiny_path, dtype="float32", context_tokens=context_tokens, freeze=list(freeze))
        mixture = {task.name: task for task in tasks[1:]}
        config = Config(model=model, task=tasks[0], mixture=mixture, algo=algo, train=TrainConfig(steps=steps))
        validate(replace(config, run=replace(config.run, dir="x")))
        return SftRecipe.prepare(config, algo)

    return make


def test_every_step_weighs_its_tokens_to_one_and_says_what_is_in_it(prepare):
    recipe = prepare({"chat": [row(i, 1 + i) for i in range(40)]}, epochs=2.0, rows_per_step=8)
    num_train = recipe.counts["data/train_rows"]
    assert num_train + recipe.counts["data/heldout_rows"] == 40
    assert recipe.num_steps == -(-2 * num_train // 8)
    for step in range(recipe.num_steps):
        batches, described = recipe.batches(step)
        assert sum(batch.loss_weights.sum() for batch in batches) == pytest.approx(1.0, abs=1e-5)
        assert described["data/tokens"] == sum(batch.num_tokens for batch in batches)
    assert described["data/epoch"] == 2.0
    assert sum(batch.loss_weights.sum() for batch in recipe.heldout()["chat"]) == pytest.approx(1.0, abs=1e-5)


def test_bad_rows_and_a_text_of_300k_tokens_are_named_and_left_out(prepare):
    good = [row(i) for i in range(20)]
    rows = [*good, '{"messages"', {"messages": []}, row("long", 150_000), {"messages": [{"role": "user", "content": "?"}]}]
    recipe = prepare({"chat": rows}, bad_rows="skip", overlong="drop")
    assert [line.partition("chat.jsonl ")[2][:7] for line in recipe.remarks] == ["line 21", "line 22", "line 24", "line 23"]
    assert "tokens, more than the 512 of stage 1" in recipe.remarks[-1] and int(recipe.remarks[-1].split()[3]) > 300_000
    assert (recipe.counts["data/bad_rows"], recipe.counts["data/overlong_rows"]) == (3, 1)
    with pytest.raises(UserError) as refused:
        prepare({"chat": rows}, overlong="drop")
    assert str(refused.value) == "3 rows are of no use; algo.bad_rows=skip leaves them out"
    assert [line.partition("chat.jsonl ")[2][:7] for line in refused.value.named] == ["line 21", "line 22", "line 24"]
    with pytest.raises(UserError, match=r"chat\.jsonl line 23: \d+ tokens, more than the 512 of stage 1; algo\.overlong=drop or split"):
        prepare({"chat": rows}, bad_rows="skip")
    with pytest.raises(UserError, match=r"^30 rows are of no use") as refused:
        prepare({"chat": [*good, *(["{"] * 30)]})
    assert len(refused.value.named) == 21 and refused.value.named[-1] == "and 10 more"
    split = prepare({"chat": [*good, row("long", 1500)]}, overlong="split", epochs=1.0)
    documents = [split.batches(step) for step in range(split.num_steps)]
    assert max(np.bincount(batch.segment_ids).max() for batches, _ in documents for batch in batches) == 512


def test_stages_take_rows_by_length_and_tasks_by_share(prepare):
    rows = {"short": [row(i) for i in range(30)], "long": [row(f"long {i}", 30) for i in range(30)]}
    stages = [StageConfig(max_tokens=50, shares={"short": 1.0}), StageConfig(max_tokens=512, shares={"short": 1.0, "long": 3.0})]
    recipe = prepare(rows, overlong="drop", stages=stages, rows_per_step=4)
    first, second = ([step for step in recipe.steps if step.stage == stage] for stage in (0, 1))
    assert {name for step in first for name, _ in step.rows} == {"short"}
    dealt = [name for step in second[:-1] for name, _ in step.rows]
    assert dealt.count("long") == 3 * dealt.count("short") > 0
    assert list(recipe.heldout()) == ["short", "long"]
    for bad, message in (
        (StageConfig(shares={"shirt": 1.0}), r"algo\.stages\[0\]\.shares: there is no task shirt; known: short, long"),
        (StageConfig(max_tokens=513), r"algo\.stages\[0\]\.max_tokens=513: expected 2 to model\.context_tokens=512"),
        (StageConfig(max_tokens=3), r"algo\.stages\[0\]: no row of task short has at most 3 tokens"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(rows, overlong="drop", stages=[bad])


def test_what_is_frozen_is_checked_before_the_start(prepare):
    rows = {"chat": [row(i) for i in range(20)]}
    assert prepare(rows, freeze=["*embed_tokens*"]).num_steps
    with pytest.raises(UserError, match=r"model\.freeze: score\.weight fits no parameter of "):
        prepare(rows, freeze=["score.weight"])


def test_the_data_key_follows_the_rows(prepare):
    rows = [row(i) for i in range(20)]
    assert prepare({"chat": rows}).data_key == prepare({"chat": rows}, rows_per_step=2).data_key
    assert prepare({"chat": rows}).data_key != prepare({"chat": [*rows[:-1], row(0, 4)]}).data_key
