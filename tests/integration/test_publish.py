"""Every fault of a publish, planted between a real learner and a real engine, is caught and named."""

from dataclasses import replace

import numpy as np
import pytest
import ray
import torch

from posttrain.algorithms.sapo import SapoConfig
from posttrain.cluster import Cluster
from posttrain.config import ClusterConfig, RolloutConfig, TrainConfig
from posttrain.errors import WeightSyncError
from posttrain.fleet import Engines, Learners, publish
from posttrain.learner_spec import LearnerSpec
from posttrain.model import load_model, load_tokenizer
from posttrain.packing import pack
from posttrain.rollout.engine import BLOCK_TOKENS, Engine, EngineSpec
from posttrain.rollout.loop import EpisodeJob
from posttrain.rollout.render import Renderer
from posttrain.types import Prompt
from posttrain.weights import SentTensor, fingerprint, fingerprints, make_canary, send, verify_delivery

TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def fleet(tiny_path, tmp_path_factory):
    """One learner and one engine of the tiny model in float32, one optimizer step apart from the base."""
    train = TrainConfig(lr=1e-3, warmup_steps=0)
    rollout = RolloutConfig(max_completion_tokens=24, max_turns=2)
    with Cluster(ClusterConfig(), tmp_path_factory.mktemp("logs")) as cluster:
        learners = Learners(
            cluster, lambda n: LearnerSpec(model_path=tiny_path, dtype="float32", train=train, temperature=1.0, seed=0, threads=n)
        )
        engines = Engines(
            cluster,
            lambda n: EngineSpec(
                model_path=tiny_path, dtype="float32", context_tokens=512, rollout=rollout, threads=n, environments=("again",)
            ),
        )
        cluster.wait([*engines.begin_start(), *learners.begin_start()])
        yield learners, engines


@pytest.fixture(scope="module")
def tokenizer(tiny_path):
    return load_tokenizer(tiny_path)


def sample(engines, tokenizer, environment=None, seed=1, size=4):
    messages = [{"role": "user", "content": "State the final answer to the following arithmetic problem: 2 + 3 ="}]
    prompt = Prompt(id="p", task="t", messages=messages, reference="5", environment=environment)
    ((_, group),) = engines.sample([(prompt, Renderer(tokenizer).prompt(messages))], size, seed)
    return group


def train_one_step(learners, engines, tokenizer):
    group = sample(engines, tokenizer)
    for episode, advantage in zip(group.episodes, (1.0, -1.0, 0.5, -0.5), strict=True):
        episode.advantage = advantage
    learners.step(pack([group], normalization="sequence_mean", microbatch_tokens=4096), SapoConfig().objective())


def deliver(learners, engines, tokenizer, payload, manifest):
    """A publish of this payload and manifest, and a rollout after it."""
    canary = make_canary(tokenizer)
    received, scores = engines.load(ray.put(payload), 7, canary), learners.score_canary(canary)
    for prints in received:
        verify_delivery("engine_0", manifest, prints)
    engines.expect(scores, TOLERANCE)
    sample(engines, tokenizer)


def test_a_whole_publish_passes_and_a_stale_engine_does_not(fleet, tokenizer):
    learners, engines = fleet
    canary = make_canary(tokenizer)
    publish(learners, engines, policy_version=0, canary=canary, tolerance=TOLERANCE)
    for _ in range(2):  # every rollout proves its weights, not only the first after a publish
        sample(engines, tokenizer)
        assert 0 < engines.canary_gap < TOLERANCE
    stale, stale_manifest = learners.export()
    train_one_step(learners, engines, tokenizer)
    with pytest.raises(WeightSyncError, match="every tensor arrived"):
        deliver(learners, engines, tokenizer, ray.get(stale), stale_manifest)
    publish(learners, engines, policy_version=1, canary=canary, tolerance=TOLERANCE)
    sample(engines, tokenizer)
    assert engines.canary_gap < TOLERANCE


def test_a_tensor_that_is_not_sent_is_named(fleet, tokenizer):
    learners, engines = fleet
    train_one_step(learners, engines, tokenizer)
    ref, manifest = learners.export()
    payload = [item for item in ray.get(ref) if item.name != "model.layers.1.mlp.down_proj.weight"]
    with pytest.raises(WeightSyncError, match=r"engine_0 .*model\.layers\.1\.mlp\.down_proj\.weight \(never arrived\)"):
        deliver(learners, engines, tokenizer, payload, manifest)


def test_a_tied_head_that_is_not_sent_is_named_and_seen_by_the_canary_too(fleet, tokenizer):
    learners, engines = fleet
    publish(learners, engines, policy_version=1, canary=make_canary(tokenizer), tolerance=TOLERANCE)
    train_one_step(learners, engines, tokenizer)
    ref, manifest = learners.export()
    payload = [item for item in ray.get(ref) if item.name != "lm_head.weight"]
    with pytest.raises(WeightSyncError, match=r"lm_head\.weight \(never arrived\)"):
        deliver(learners, engines, tokenizer, payload, manifest)
    del manifest["lm_head.weight"]  # and where both sides forgot it, the canary differs
    with pytest.raises(WeightSyncError, match="every tensor arrived"):
        deliver(learners, engines, tokenizer, payload, manifest)


def test_a_corrupted_tensor_is_named(fleet, tokenizer):
    learners, engines = fleet
    ref, manifest = learners.export()
    payload = ray.get(ref)
    at = next(i for i, item in enumerate(payload) if item.name == "model.norm.weight")
    flipped = payload[at].tensor().clone()
    flipped[3] += 1e-6
    payload[at] = SentTensor.of("model.norm.weight", flipped)
    with pytest.raises(WeightSyncError, match=r"model\.norm\.weight \(fingerprint"):
        deliver(learners, engines, tokenizer, payload, manifest)
    assert fingerprint(payload[at]) != manifest["model.norm.weight"]


@pytest.fixture(scope="module")
def engine(tiny_path):
    """An engine of this process."""
    spec = EngineSpec(model_path=tiny_path, dtype="float32", context_tokens=512, rollout=RolloutConfig(max_completion_tokens=4), threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        engine = Engine(spec)
        engine.start()
    return engine


def weights_of(path, seed=None):
    """What a learner sends; with a seed every tensor but the norms is another one."""
    state = load_model(path, "float32").state_dict()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for tensor in {tensor.data_ptr(): tensor for tensor in state.values()}.values():
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
    return send(dict(state))


def receipt_of(engine):
    prompt = Prompt(id="p", task="t", messages=[], reference="5")
    receipt, _ = engine.rollout([EpisodeJob(key=(0, 0), prompt=prompt, prompt_token_ids=np.arange(5, 10))], 0)
    return receipt


def test_a_prefix_cache_that_was_not_reset_is_caught(engine, tiny_path, tokenizer, monkeypatch):
    """An engine that forgets to reset it finds the canary of the rollout before."""
    engine.load(weights_of(tiny_path), 1, make_canary(tokenizer))
    assert receipt_of(engine).cached_tokens == 0 and receipt_of(engine).cached_tokens == 0
    monkeypatch.setattr(engine.llm, "reset_prefix_cache", lambda: True)
    engine.load(weights_of(tiny_path), 2, make_canary(tokenizer))
    assert receipt_of(engine).cached_tokens == BLOCK_TOKENS


def test_weights_go_straight_into_layers_as_through_the_loader_of_vllm(engine, tiny_path, tokenizer, monkeypatch):
    sent, canary = weights_of(tiny_path, seed=1), make_canary(tokenizer)
    manifest = fingerprints(sent)
    assert engine.direct_places(sent) is not None
    assert engine.load(sent, 1, canary) == manifest
    direct = receipt_of(engine).logprobs
    assert engine.load(weights_of(tiny_path), 2, canary) != manifest
    assert not np.array_equal(receipt_of(engine).logprobs, direct)
    monkeypatch.setattr(engine, "direct_places", lambda sent: None)
    assert engine.load(sent, 3, canary) == manifest
    assert np.array_equal(receipt_of(engine).logprobs, direct)


def test_weights_that_do_not_fit_are_left_to_the_loader_of_vllm(engine, tiny_path):
    sent = weights_of(tiny_path)
    name = "model.layers.0.self_attn.k_proj.weight"
    at = next(i for i, item in enumerate(sent) if item.name == name)
    wider, whole = SentTensor.of(name, torch.zeros(sent[at].shape[0] + 1, sent[at].shape[1])), sent[at]
    for changed in (wider, SentTensor.of(name, whole.tensor().bfloat16()), replace(whole, name=name.replace("k_proj", "x_proj"))):
        is_direct = engine.direct_places([*sent[:at], changed, *sent[at + 1 :]]) is not None
        assert not is_direct
    is_direct = [engine.direct_places(some) is not None for some in (sent, sent[1:], [*sent, replace(whole, name="extra")])]
    assert is_direct == [True, False, False]


def test_a_seed_repeats_the_rollout_bit_by_bit(fleet, tokenizer):
    learners, engines = fleet
    publish(learners, engines, policy_version=3, canary=make_canary(tokenizer), tolerance=TOLERANCE)
    first, second, other = (sample(engines, tokenizer, seed=seed) for seed in (5, 5, 6))
    for a, b in zip(first.episodes, second.episodes, strict=True):
        assert a.turns[0].token_ids.tolist() == b.turns[0].token_ids.tolist()
        assert np.array_equal(a.turns[0].logprobs, b.turns[0].logprobs)
    assert [e.turns[0].token_ids.tolist() for e in first.episodes] != [e.turns[0].token_ids.tolist() for e in other.episodes]


def test_two_turn_episodes_are_scored_alike_by_engine_and_learner(fleet, tokenizer):
    learners, engines = fleet
    publish(learners, engines, policy_version=4, canary=make_canary(tokenizer), tolerance=TOLERANCE)
    group = sample(engines, tokenizer, "again", size=96, seed=3)
    two_turned = [episode for episode in group.episodes if len(episode.turns) == 2]
    assert two_turned, "no episode ended its first turn; the seed no longer shows what it should"
    batches = pack([group], normalization="sequence_mean", microbatch_tokens=4096)
    learners.score_old(batches, 1.0)
    for batch in batches:
        trained = batch.loss_weights != 0
        np.testing.assert_allclose(batch.old_logprobs[trained], batch.behavior_logprobs[trained], atol=1e-3)
    assert all(turn.policy_version == 4 for episode in group.episodes for turn in episode.turns)
