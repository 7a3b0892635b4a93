"""The tree of a stream: every place that is read sees what it saw in the stream, and nothing is run over twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.packing import empty_batch, pack, pack_documents
from posttrain.prefix_tree import prefix_tree
from posttrain.types import Document


def context(batch, t):
    """Tokens that a place of the stream sees, itself included."""
    own, prefix = batch.segment_ids == batch.segment_ids[t], batch.segment_ids == batch.prefix_ids[t]
    return tuple(batch.token_ids[(own | prefix) & (np.arange(batch.num_tokens) <= t)].tolist())


def above(tree, node):
    """Nodes that a node sees, itself included."""
    return np.flatnonzero((np.arange(len(tree.stops_T)) <= node) & (node < tree.stops_T))


def read_of(batch):
    return batch.predictor_ids[batch.loss_weights != 0]


SHAPES = st.tuples(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.sampled_from([1, 2, 385]))


@given(SHAPES, st.booleans(), st.booleans())
def test_places_see_what_they_saw_and_equal_contexts_are_one(random_groups, shape, shared_prefix, is_merged):
    groups = random_groups(*shape)
    for batch in pack(groups, normalization="token_mean", microbatch_tokens=80, shared_prefix=shared_prefix):
        read = read_of(batch)
        tree = prefix_tree(batch, read, is_merged=is_merged)
        for t in read:
            seen = tree.places_T[above(tree, tree.nodes_S[t])]
            assert tuple(batch.token_ids[seen].tolist()) == context(batch, t)
            assert batch.position_ids[seen].tolist() == list(range(len(seen)))
        beginnings = {whole[:length] for whole in (context(batch, t) for t in read) for length in range(1, len(whole) + 1)}
        if is_merged:
            assert len(tree.places_T) == len(beginnings)
        else:
            assert len(tree.places_T) == len({place for t in read for place in tree.places_T[above(tree, tree.nodes_S[t])]})
        assert sorted(tree.nodes_S[tree.places_T]) == list(range(len(tree.places_T)))


def test_a_system_message_and_equal_answers_are_run_over_once_and_last_tokens_never(random_groups):
    first, second = random_groups(0, num_groups=2, group_size=3)
    system, answer = np.arange(40, 60), np.array([7, 8, 9, 2])
    for group in (first, second):
        group.prompt_token_ids = np.concatenate([system, group.prompt_token_ids])
        for episode in group.episodes:
            episode.turns[0].token_ids, episode.turns[0].logprobs = answer, np.zeros(4, np.float32)
    (batch,) = pack([first, second], normalization="token_mean", microbatch_tokens=10_000)
    tree = prefix_tree(batch, read_of(batch))
    questions = sum(len(group.prompt_token_ids) - len(system) for group in (first, second))
    assert len(tree.places_T) == len(system) + questions + 2 * (len(answer) - 1)
    assert batch.num_tokens == 2 * len(system) + questions + 6 * len(answer)


def test_documents_that_begin_alike_share_it():
    documents = [Document(token_ids=np.array([1, 2, 3, end, end]), is_trained=np.array([0, 0, 0, 1, 1])) for end in (4, 5)]
    (batch,) = pack_documents(documents, normalization="token_mean", microbatch_tokens=100)
    tree = prefix_tree(batch, read_of(batch))
    assert batch.token_ids[tree.places_T].tolist() == [1, 2, 3, 4, 5]
    assert tree.stops_T.tolist() == [5, 5, 5, 4, 5]


@pytest.mark.parametrize("is_merged", [True, False])
def test_a_stream_that_nobody_reads_is_run_over_whole(is_merged):
    tree = prefix_tree(empty_batch(), np.zeros(0, np.int64), is_merged=is_merged)
    assert tree.places_T.tolist() == [0] and tree.stops_T.tolist() == [1]
