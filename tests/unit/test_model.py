"""TokenScorer on a real tiny Qwen3, float32: packed equals unpacked, and gradients do not depend on how a step is cut."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.algorithms.losses import LossTokens
from posttrain.algorithms.sapo import SapoConfig
from posttrain.errors import UserError
from posttrain.model import Reading, TokenScorer, compile_layers, load_model, load_tokenizer, stream_tensors
from posttrain.packing import empty_batch, pack


@pytest.fixture(scope="module")
def model(tiny_path):
    return load_model(tiny_path, "float32").train()


@pytest.fixture(scope="module")
def reference(tiny_path):
    """The same weights with transformers' own attention."""
    return AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32, attn_implementation="sdpa")


def score(model, batch, chunk_tokens=1024, temperature=1.0, is_merged=True):
    chunk_mb = (chunk_tokens + 0.5) * model.config.vocab_size * 4 / 1e6
    stream = stream_tensors(batch, torch.device("cpu"), "blocks", reading=Reading(is_merged=is_merged))
    return TokenScorer(model, chunk_mb)(stream, temperature)


def gradients(model, batches, chunk_tokens=1024, is_merged=True):
    """Loss and gradient of a SAPO step, summed over micro-batches, with old log-probabilities that differ from the policy's."""
    model.zero_grad()
    total, objective = 0.0, SapoConfig().objective()
    for batch in batches:
        trained = batch.loss_weights != 0
        logprobs, _ = score(model, batch, chunk_tokens, is_merged=is_merged)
        behavior = torch.tensor(batch.behavior_logprobs[trained])
        fields = LossTokens(
            policy_logprobs_N=logprobs,
            old_logprobs_N=behavior + 0.1,
            behavior_logprobs_N=behavior,
            advantages_N=torch.tensor(batch.advantages[trained]),
            segments_N=torch.tensor(batch.segment_ids[trained]),
        )
        loss = (torch.tensor(batch.loss_weights[trained]) * objective(fields)).sum()
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters()])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("words", [2, 385])
@pytest.mark.parametrize("turns", [1, 2])
def test_packed_log_probabilities_equal_separate_forward_passes(random_groups, model, reference, turns, words):
    groups = random_groups(0, num_groups=2, group_size=3, turns=turns, words=words)
    (batch,) = pack(groups, normalization="sequence_mean", microbatch_tokens=10_000)
    with torch.no_grad():
        scored, entropies = score(model, batch)
        for t, logprob, entropy in zip(np.flatnonzero(batch.loss_weights), scored, entropies, strict=True):
            seen = (batch.segment_ids == batch.segment_ids[t]) | (batch.segment_ids == batch.prefix_ids[t])
            context = batch.token_ids[seen & (np.arange(batch.num_tokens) < t)]
            expected = torch.log_softmax(reference(input_ids=torch.tensor(context)[None]).logits[0, -1].float(), -1)
            assert logprob.item() == pytest.approx(expected[batch.token_ids[t]].item(), abs=2e-5)
            assert entropy.item() == pytest.approx(-(expected.exp() * expected).sum().item(), abs=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"microbatch_tokens": 20},
        {"microbatch_tokens": 64},
        {"shared_prefix": False},
        {"microbatch_tokens": 1, "shared_prefix": False},
        {"chunk_tokens": 3},
        {"reverse": True},
    ],
    ids=str,
)
def test_gradients_do_not_depend_on_how_the_step_is_cut(random_groups, model, change):
    groups = random_groups(1, num_groups=3, group_size=4, turns=2)
    options = {"normalization": "sequence_mean", "microbatch_tokens": 10_000}
    loss, reference = gradients(model, pack(groups, **options))
    change = dict(change)
    chunk_tokens = change.pop("chunk_tokens", 1024)
    if change.pop("reverse", False):
        for group in groups:
            group.episodes.reverse()
        groups = groups[::-1]
    changed_loss, changed = gradients(model, pack(groups, **{**options, **change}), chunk_tokens)
    assert changed_loss == pytest.approx(loss, rel=1e-5)
    assert relative(changed, reference) < 1e-5


def test_gradients_are_the_same_when_equal_beginnings_are_run_over_once(random_groups, model):
    groups = random_groups(2, num_groups=4, group_size=6, turns=2, words=2)
    batches = pack(groups, normalization="sequence_mean", microbatch_tokens=10_000)
    loss, gradient = gradients(model, batches)
    expected_loss, expected = gradients(model, batches, is_merged=False)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(gradient, expected) < 1e-5


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients(random_groups, model, tiny_path):
    compiled = load_model(tiny_path, "float32").train()
    compile_layers(compiled)
    assert sum(module._compiled_call_impl is not None for module in compiled.modules()) == compiled.config.num_hidden_layers
    for seed in (0, 1):  # two lengths
        batches = pack(random_groups(seed, num_groups=2 + seed, group_size=3), normalization="sequence_mean", microbatch_tokens=10_000)
        (loss, gradient), (expected_loss, expected) = gradients(compiled, batches), gradients(model, batches)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert relative(gradient, expected) < 1e-5


def test_a_batch_that_trains_nothing_has_zero_loss_and_zero_gradients(model):
    loss, gradient = gradients(model, [empty_batch()])
    assert loss == 0.0
    assert not gradient.any()


def test_values_at_masked_positions_never_reach_a_gradient(random_groups, model):
    groups = random_groups(2, num_groups=1, group_size=2, turns=2)
    batches = pack(groups, normalization="sequence_mean", microbatch_tokens=10_000)
    _, clean = gradients(model, batches)
    for batch in batches:
        masked = batch.loss_weights == 0
        batch.behavior_logprobs[masked] = np.inf
        batch.advantages[masked] = np.nan
    _, poisoned = gradients(model, batches)
    assert torch.equal(clean, poisoned)


def test_temperature_divides_the_logits(random_groups, model, reference):
    (batch,) = pack(random_groups(3, num_groups=1, group_size=1), normalization="sequence_mean", microbatch_tokens=100)
    with torch.no_grad():
        cold, _ = score(model, batch, temperature=0.5)
        t = int(np.flatnonzero(batch.loss_weights)[0])
        logits = reference(input_ids=torch.tensor(batch.token_ids[:t])[None]).logits[0, -1].float()
        assert cold[0].item() == pytest.approx(torch.log_softmax(logits / 0.5, -1)[batch.token_ids[t]].item(), abs=1e-4)


def test_a_missing_folder_is_one_clear_line():
    with pytest.raises(UserError, match=r"model\.path=/no/such/model"):
        load_tokenizer("/no/such/model")
