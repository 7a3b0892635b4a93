"""Reward models on a real tiny Qwen3, float32: the loss in float64, packing, transformers' own scores, rows, and the reward."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from posttrain.algorithms.losses import LossTokens, bradley_terry, chosen_above_rejected
from posttrain.algorithms.reward_model import RewardModelConfig
from posttrain.algorithms.reward_model_recipe import RewardModelRecipe, pair_of
from posttrain.config import Config, ModelConfig, RunConfig, TaskConfig, TrainConfig, validate
from posttrain.data.pairs import load_pairs
from posttrain.errors import UserError
from posttrain.model import AnswerScorer, Reading, check_freeze, load_reward_model, load_tokenizer, reward_padding, stream_tensors
from posttrain.packing import empty_batch, pack_pairs
from posttrain.rewards.base import Abstain
from posttrain.rewards.reward_model import RewardModel
from posttrain.rollout.transcript import Transcriber
from posttrain.types import Conversation, Episode, Prompt, Turn

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tiny_path, tmp_path_factory):
    """A reward model as a learner saves it, with a head that is large enough to tell answers apart."""
    path = tmp_path_factory.mktemp("reward_model")
    torch.manual_seed(3)
    model = load_reward_model(tiny_path, "float32")
    tokenizer = load_tokenizer(tiny_path)
    tokenizer.pad_token_id = model.config.pad_token_id
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(folder):
    return load_reward_model(folder, "float32").train()


@pytest.fixture(scope="module")
def pairs():
    """Eight, with prompts of 2 to 40 tokens and answers of 1 to 30."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(8):
        prompt, chosen, rejected = (rng.integers(5, 390, int(rng.integers(low, high))) for low, high in ((2, 40), (1, 30), (1, 30)))
        chosen[0], rejected[0] = 5, 6
        made.append(pair_of(np.concatenate([prompt, chosen]), np.concatenate([prompt, rejected])))
    return made


def scored(model, batch):
    """The numbers of a micro-batch as an objective sees them, and their weights."""
    scores, entropies = AnswerScorer(model)(stream_tensors(batch, CPU, "blocks", reading=Reading(at_predictors=False)), 1.0)
    trained, zeros = batch.loss_weights != 0, torch.zeros_like(scores)
    assert scores.dtype == torch.float32 and not entropies.any()
    tokens = LossTokens(
        policy_logprobs_N=scores,
        old_logprobs_N=zeros,
        behavior_logprobs_N=zeros,
        advantages_N=torch.tensor(batch.advantages[trained]),
        segments_N=torch.tensor(batch.segment_ids[trained]),
    )
    return tokens, torch.tensor(batch.loss_weights[trained])


def ends(scores, signs):
    values = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros_like(values)
    fields = {"old_logprobs_N": zeros, "behavior_logprobs_N": zeros, "segments_N": torch.arange(len(scores))}
    return values, LossTokens(policy_logprobs_N=values, advantages_N=torch.tensor(signs, dtype=torch.float64), **fields)


@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.booleans()), min_size=1, max_size=5))
def test_the_loss_is_that_of_the_formula(drawn):
    scores = [score for chosen, rejected, swapped in drawn for score in ((rejected, chosen) if swapped else (chosen, rejected))]
    signs = [sign for _, _, swapped in drawn for sign in ((-1, 1) if swapped else (1, -1))]
    values, tokens = ends(scores, signs)
    loss = bradley_terry(tokens).sum() / (2 * len(drawn))
    loss.backward()
    margins = np.array([chosen - rejected for chosen, rejected, _ in drawn])
    assert loss.item() == pytest.approx(np.logaddexp(0, -margins).mean(), rel=1e-12)
    expected = -np.repeat(1 / (1 + np.exp(margins)), 2) * signs / len(drawn)
    assert values.grad.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert chosen_above_rejected(tokens).tolist() == np.repeat(margins > 0, 2).astype(float).tolist()


def test_packed_scores_are_those_of_transformers_on_each_answer_alone(folder, model, pairs):
    reference = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    (batch,) = pack_pairs(pairs, microbatch_tokens=10_000)
    with torch.no_grad():
        tokens, _ = scored(model, batch)
        expected = {
            (pair.prompt_token_ids.tobytes(), answer.tobytes(), sign): reference(
                input_ids=torch.tensor(np.concatenate([pair.prompt_token_ids, answer]))[None]
            ).logits.item()
            for pair in pairs
            for answer, sign in ((pair.chosen_token_ids, 1), (pair.rejected_token_ids, -1))
        }
    found = {}
    for t, score in zip(np.flatnonzero(batch.loss_weights), tokens.policy_logprobs_N.tolist(), strict=True):
        prompt, own = (batch.token_ids[batch.segment_ids == s] for s in (batch.prefix_ids[t], batch.segment_ids[t]))
        found[prompt.tobytes(), own.tobytes(), int(batch.advantages[t])] = score
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.ptp([*found.values()]) > 0.1


@pytest.mark.parametrize("microbatch_tokens", [1, 100])
def test_loss_and_gradient_do_not_depend_on_how_the_step_is_cut(model, pairs, microbatch_tokens):
    def learn(batches):
        model.zero_grad()
        totals = np.zeros(2)
        for batch in batches:
            tokens, weights = scored(model, batch)
            loss = (weights * bradley_terry(tokens)).sum()
            loss.backward()
            totals += loss.item(), (weights * chosen_above_rejected(tokens)).sum().item()
        return totals, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    (loss, accuracy), expected = learn(pack_pairs(pairs, microbatch_tokens=10_000))
    batches = [*pack_pairs(pairs, microbatch_tokens=microbatch_tokens)[::-1], empty_batch()]
    assert len(batches) > 3 and all(np.count_nonzero(batch.loss_weights) % 2 == 0 for batch in batches)
    totals, got = learn(batches)
    assert totals == pytest.approx([loss, accuracy], rel=1e-5)
    assert (got - expected).norm() < 1e-5 * expected.norm()


def test_a_pair_shares_what_both_begin_with_and_each_answer_keeps_its_end():
    pair = pair_of(np.array([1, 2, 3, 4, 9]), np.array([1, 2, 3, 9]))
    assert [part.tolist() for part in (pair.prompt_token_ids, pair.chosen_token_ids, pair.rejected_token_ids)] == [[1, 2, 3], [4, 9], [9]]
    pair = pair_of(np.array([1, 2, 9]), np.array([1, 2, 9, 3, 9]))
    assert [part.tolist() for part in (pair.prompt_token_ids, pair.chosen_token_ids, pair.rejected_token_ids)] == [[1, 2], [9], [9, 3, 9]]


USER, YES, NO = ({"role": role, "content": text} for role, text in (("user", "Is it?"), ("assistant", "Yes."), ("assistant", "No.")))


def load(tmp_path, *rows):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_pairs(TaskConfig(name="pairs", source="file", path=str(path)))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER], "chosen": "Yes.", "rejected": "No."},
        {"messages": json.dumps([USER]), "chosen": YES, "rejected": [NO]},
        {"prompt": "Is it?", "chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": [USER], "chosen": "<think>\nHm.\n</think>\n\nYes.", "rejected": {**NO, "reasoning_content": "Hm."}},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
    ],
    ids=["texts", "messages", "conversations", "prompt", "no prompt"],
)
def test_every_form_of_a_pair_is_the_same_pair(tmp_path, row):
    ([(chosen, rejected)], problems) = load(tmp_path, row)
    assert not problems and (chosen.messages, rejected.messages) == ([USER, YES], [USER, NO])
    assert chosen.digest == rejected.digest == load(tmp_path, {"messages": [USER], "chosen": "a", "rejected": "b"})[0][0][0].digest


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER], "chosen": "Yes."}, "expected `chosen` and `rejected`; there is: chosen, messages"),
        ({"chosen": "Yes.", "rejected": "No."}, "no prompt"),
        ({"prompt": "?", "chosen": [USER, YES], "rejected": "No."}, "answer different prompts"),
        ({"prompt": "?", "chosen": "Yes.", "rejected": "Yes. "}, "are the same: 'Yes.'"),
        ({"prompt": "?", "chosen": [USER], "rejected": "No."}, "`chosen` ends with a message of role user"),
        ({"prompt": "?", "chosen": "", "rejected": "No."}, "chosen: message 0 has content ''"),
        ({"prompt": "?", "chosen": 3, "rejected": "No."}, "chosen: `messages` is 3"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path, row, expected):
    pairs, (problem,) = load(tmp_path, row)
    assert not pairs and "pairs.jsonl line 1" in problem and expected in problem


@pytest.fixture
def recipe_of(tmp_path, monkeypatch, tiny_path):
    """recipe_of(rows, freeze): what algo=reward_model makes of them."""
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))

    def make(rows, freeze=()):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        algo = RewardModelConfig(bad_rows="skip", overlong="drop", epochs=1.0, rows_per_step=4)
        config = Config(
            run=RunConfig(dir="x"),
            model=ModelConfig(path=tiny_path, dtype="float32", context_tokens=512, freeze=list(freeze)),
            task=TaskConfig(name="pairs", source="file", path=str(path), heldout_fraction=0.3),
            algo=algo,
            train=TrainConfig(microbatch_tokens=100),
        )
        validate(config)
        return RewardModelRecipe.prepare(config, algo)

    return make


def test_a_recipe_names_bad_and_long_pairs_once_and_holds_prompts_out_together(recipe_of, tiny_path):
    rows = [{"prompt": f"{i // 2}?", "chosen": f"yes {i}", "rejected": f"no, {i}" * (1 + i % 5)} for i in range(40)]
    rows += [{"prompt": "?", "chosen": "a", "rejected": "a"}, {"prompt": "?", "chosen": "a", "rejected": "long " * 1000}]
    rows += [{"prompt": "?", "chosen": "<think>a</think>", "rejected": "<think>b</think> a"}]
    recipe = recipe_of(rows)
    assert [line.partition("pairs.jsonl ")[2][:7] for line in recipe.remarks] == ["line 41", "line 43", "line 42"]
    task = recipe.tasks["pairs"]
    usable = [row for row in (*task.train, *task.heldout) if row < 40]
    assert sorted(usable) == [*range(40)] and not {row // 2 for row in task.train} & {row // 2 for row in task.heldout}
    for batches in [*(recipe.batches(step)[0] for step in range(recipe.num_steps)), recipe.heldout()["pairs"]]:
        assert sum(batch.loss_weights.sum() for batch in batches) == pytest.approx(1.0, abs=1e-5)
        ends = [batch.token_ids[batch.loss_weights != 0] for batch in batches]
        assert {int(token) for own in ends for token in own} == {load_tokenizer(tiny_path).eos_token_id}


def test_everything_but_the_score_can_be_frozen(tiny_path, folder, recipe_of):
    check_freeze(tiny_path, ["model.*"], is_reward_model=True)
    check_freeze(folder, ["score.weight"], is_reward_model=True)
    with pytest.raises(UserError, match=r"model\.freeze: lm_head\* fits no parameter of "):
        check_freeze(tiny_path, ["lm_head*"], is_reward_model=True)
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(20)]
    assert recipe_of(rows, freeze=["model.*"]).num_steps
    with pytest.raises(UserError, match=r"model\.freeze=\['model\.\*', 'score\*'\] leaves no parameter"):
        recipe_of(rows, freeze=["model.*", "score*"])


def test_padding_is_a_token_that_no_conversation_holds(tiny_path):
    tokenizer = load_tokenizer(tiny_path)
    own = tokenizer.pad_token_id
    assert reward_padding(tokenizer) == own
    tokenizer.pad_token = "<|im_end|>"
    assert reward_padding(tokenizer) == own


def case(question, answer):
    turn = Turn(token_ids=np.zeros(0, np.int64), logprobs=np.zeros(0, np.float32), text=answer, stop_reason="stop", policy_version=0)
    messages = [{"role": "user", "content": question}]
    return Prompt(id="p", task="t", messages=messages, reference=None), Episode(prompt_id="p", turns=[turn], status="complete")


def test_the_reward_gives_the_score_that_is_trained(folder, model):
    answers = ["Yes.", "No, not at all:" + " it is not so." * 20, "<think>\nHm.\n</think>\n\nPerhaps.", ""]
    got = RewardModel(folder).score_batch([case("Is it?", answer) for answer in answers])
    transcriber = Transcriber(load_tokenizer(folder), last_turn_only=True, may_cut=True)

    def packed(*texts):
        told = [Conversation(where="", digest=b"", messages=[USER, {"role": "assistant", "content": text}]) for text in texts]
        (batch,) = pack_pairs([pair_of(*(transcriber.documents(one)[0].token_ids for one in told))], microbatch_tokens=10_000)
        with torch.no_grad():
            return scored(model, batch)[0].policy_logprobs_N.tolist()

    assert got[:2] == pytest.approx(packed(*answers[:2]), abs=1e-5)
    assert got[2] == pytest.approx(packed("Perhaps.", "No.")[0], abs=1e-5)
    assert len({round(score, 4) for score in got}) == 4


def test_what_does_not_fit_is_abstained_from(folder):
    short, long = RewardModel(folder).score_batch([case("Is it?", "Yes."), case("Is it?", "word " * 3000)])
    assert isinstance(short, float) and isinstance(long, Abstain) and "more than the reward model's 1024" in long.reason


def test_a_folder_that_is_no_reward_model_is_one_clear_line(tiny_path, monkeypatch):
    with pytest.raises(UserError, match="is a Qwen3ForCausalLM, no reward model"):
        RewardModel(tiny_path)
    monkeypatch.delenv("POSTTRAIN_REWARD_MODEL", raising=False)
    with pytest.raises(UserError, match="needs POSTTRAIN_REWARD_MODEL="):
        RewardModel()
