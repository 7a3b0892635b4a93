"""Packing: what is in a stream, and what cannot depend on how it was cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.packing import empty_batch, loss_weights, pack, prompts_of, rewrite, sequence_batch, spread
from posttrain.types import Episode, Group, Prompt, Turn
from posttrain.vision import Piece

SHAPES = st.tuples(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))


def visible(batch, t):
    """Tokens that position t sees, in order of position, itself included."""
    own = batch.segment_ids == batch.segment_ids[t]
    prefix = batch.segment_ids == batch.prefix_ids[t]
    seen = np.flatnonzero((own | prefix) & (np.arange(batch.num_tokens) <= t))
    assert batch.position_ids[seen].tolist() == list(range(len(seen)))
    return batch.token_ids[seen].tolist()


def trained_facts(batches):
    """Every trained token with its whole context and its numbers: what the loss is made of."""
    facts = []
    for batch in batches:
        for t in np.flatnonzero(batch.loss_weights):
            context = visible(batch, batch.predictor_ids[t])
            numbers = (batch.loss_weights[t], batch.behavior_logprobs[t], batch.advantages[t])
            facts.append((tuple(context), int(batch.token_ids[t]), *map(float, numbers)))
    return sorted(facts)


def expected_facts(groups, weights):
    facts = []
    for group, row in zip(groups, weights, strict=True):
        for episode, weight in zip(group.episodes, row, strict=True):
            context = group.prompt_token_ids.tolist()
            for turn in episode.turns:
                for token, logprob in zip(turn.token_ids.tolist(), turn.logprobs, strict=True):
                    facts.append((tuple(context), token, float(np.float32(weight)), float(logprob), float(np.float32(episode.advantage))))
                    context = [*context, token]
                context = context + turn.observation_token_ids.tolist()
    return sorted(facts)


@given(SHAPES, st.sampled_from([1, 30, 64, 10_000]), st.booleans())
def test_every_trained_token_keeps_its_context_and_numbers(random_groups, shape, budget, shared_prefix):
    seed, num_groups, group_size, turns = shape
    groups = random_groups(seed, num_groups, group_size, turns)
    batches = pack(groups, normalization="sequence_mean", microbatch_tokens=budget, shared_prefix=shared_prefix)
    assert trained_facts(batches) == expected_facts(groups, loss_weights(groups, "sequence_mean"))


def test_a_prompt_stands_once_when_the_group_fits(random_groups):
    groups = random_groups(1, num_groups=1, group_size=8)
    shared = pack(groups, normalization="sequence_mean", microbatch_tokens=10_000)
    repeated = pack(groups, normalization="sequence_mean", microbatch_tokens=10_000, shared_prefix=False)
    prompt = len(groups[0].prompt_token_ids)
    assert sum(b.num_tokens for b in repeated) - sum(b.num_tokens for b in shared) == 7 * prompt


@pytest.mark.parametrize("normalization", ["sequence_mean", "token_mean"])
def test_weights_of_a_step_sum_to_one(random_groups, normalization):
    groups = random_groups(2, num_groups=3, group_size=4, turns=2)
    batches = pack(groups, normalization=normalization, microbatch_tokens=40)
    assert sum(float(b.loss_weights.sum()) for b in batches) == pytest.approx(1.0, abs=1e-5)


def test_budget_holds_but_for_an_episode_that_is_longer_itself(random_groups):
    groups = random_groups(3, num_groups=4, group_size=6)
    for batch in pack(groups, normalization="sequence_mean", microbatch_tokens=32):
        assert batch.num_tokens <= 32 or len(set(batch.segment_ids)) == 2


def test_micro_batches_are_as_few_and_as_even_as_their_groups_let_them_be():
    def group(length: int) -> Group:
        turn = Turn(token_ids=np.arange(5, 5 + length), logprobs=np.zeros(length), text="", stop_reason="stop", policy_version=0)
        prompt = Prompt(id="p", task="t", messages=[], reference=None)
        return Group(prompt=prompt, prompt_token_ids=np.arange(3), episodes=[Episode(prompt_id="p", turns=[turn], status="complete")])

    def lengths(*completions: int, budget: int) -> list[int]:
        batches = pack([group(length) for length in completions], normalization="sequence_mean", microbatch_tokens=budget)
        return [batch.num_tokens for batch in batches]

    assert lengths(17, 17, 17, 17, 17, budget=60) == [60, 40]
    assert lengths(17, 17, 17, 17, 17, 17, budget=80) == [60, 60]
    assert sorted(lengths(47, 37, 27, 17, 7, budget=110)) == [70, 80]
    assert sorted(lengths(3, 3, 2, 2, 2, budget=15)) == [12, 15]  # evenly dealt, the longest first, one would have 17


def test_skipping_drops_only_episodes_without_advantage_and_keeps_the_normaliser(random_groups):
    groups = random_groups(4, num_groups=3, group_size=4)
    for episode in groups[1].episodes:
        episode.advantage = 0.0
    everything = trained_facts(pack(groups, normalization="sequence_mean", microbatch_tokens=10_000))
    skipped = trained_facts(pack(groups, normalization="sequence_mean", microbatch_tokens=10_000, skip_zero_advantage=True))
    assert skipped == [fact for fact in everything if fact[4] != 0]


def test_a_step_without_any_signal_keeps_its_first_group(random_groups):
    groups = random_groups(5, num_groups=2, group_size=2)
    for group in groups:
        for episode in group.episodes:
            episode.advantage = 0.0
    kept = trained_facts(pack(groups, normalization="sequence_mean", microbatch_tokens=100, skip_zero_advantage=True))
    weights = loss_weights(groups, "sequence_mean")
    assert kept == expected_facts(groups[:1], weights[:1])


def test_an_episode_without_tokens_counts_in_the_mean_and_is_not_packed():
    empty = Turn(token_ids=np.zeros(0, np.int64), logprobs=np.zeros(0, np.float32), text="", stop_reason="stop", policy_version=0)
    full = Turn(token_ids=np.array([7, 8]), logprobs=np.zeros(2, np.float32), text="", stop_reason="stop", policy_version=0)
    episodes = [Episode(prompt_id="p", turns=[turn], status="complete", advantage=1.0) for turn in (empty, full)]
    group = Group(prompt=Prompt(id="p", task="t", messages=[], reference=None), prompt_token_ids=np.array([1, 2]), episodes=episodes)
    (batch,) = pack([group], normalization="sequence_mean", microbatch_tokens=100)
    assert batch.loss_weights.tolist() == [0, 0, 0.25, 0.25]


@given(st.integers(1, 4), st.integers(0, 9))
def test_spread_gives_every_rank_as_many_batches_and_loses_none(random_groups, num_ranks, seed):
    batches = pack(random_groups(seed), normalization="sequence_mean", microbatch_tokens=30)
    ranks = spread(batches, num_ranks)
    assert len({len(rank) for rank in ranks}) == 1
    assert trained_facts([b for rank in ranks for b in rank]) == trained_facts(batches)


def test_empty_batch_trains_nothing():
    assert not empty_batch().loss_weights.any()


def test_sequence_batch_scores_all_but_the_first_token():
    batch = sequence_batch(np.array([5, 6, 7]))
    assert batch.token_ids.tolist() == [5, 6, 7]
    assert batch.position_ids.tolist() == [0, 1, 2]
    assert np.flatnonzero(batch.loss_weights).tolist() == [1, 2]
    assert batch.predictor_ids.tolist() == [-1, 0, 1]


@given(SHAPES, st.sampled_from([1, 30, 10_000]), st.booleans())
def test_a_rewritten_batch_is_the_same_a_part_or_the_same_after_other_prompts(random_groups, shape, budget, shared_prefix):
    seed, num_groups, group_size, turns = shape
    groups = random_groups(seed, num_groups, group_size, turns)
    batches = pack(groups, normalization="sequence_mean", microbatch_tokens=budget, shared_prefix=shared_prefix)
    others = {group.prompt.id: Piece(token_ids=np.arange(3 + index)) for index, group in enumerate(groups)}
    parts = []
    for batch in batches:
        own = prompts_of(batch)
        again = rewrite(batch, own)
        for name in ("token_ids", "position_ids", "segment_ids", "prefix_ids", "predictor_ids", "loss_weights", "behavior_logprobs"):
            assert (getattr(again, name) == getattr(batch, name)).all()
        assert again.prompt_ids == batch.prompt_ids
        other = rewrite(batch, {name: others[name] for name in own})
        trained = [b.token_ids[np.flatnonzero(b.loss_weights)].tolist() for b in (batch, other)]
        assert trained[0] == trained[1]  # the order in which a teacher's scores meet the student's tokens
        parts += [rewrite(batch, {name: own[name]}) for name in own]
        for group in groups:
            group.prompt_token_ids = others[group.prompt.id].token_ids
        assert set(trained_facts([other])) <= set(expected_facts(groups, loss_weights(groups, "sequence_mean")))
    assert trained_facts(parts) == trained_facts(batches)
