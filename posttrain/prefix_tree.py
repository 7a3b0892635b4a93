"""What a model has to run over of a packed stream: every beginning that several of its episodes share, once, and nothing that no one reads.

A stream holds each group's prompt and the episodes that branch from it. More is shared than that: the prompts of a step begin with one
system message, and answers to one prompt begin alike. Where all tokens up to and with a token are those of another one, the two have
the same hidden states: they are one node of a tree, and the gradients of both go through it. The last token of an episode predicts
nothing, so it is no node at all.

Nodes stand in depth-first order. Those below a node are then the ones that follow it up to some stop, so one number a node says who
sees whom. Numpy only. Shape suffixes: `_S` tokens of the stream, `_T` nodes, `_N` places that are read.
"""

from dataclasses import dataclass

import numpy as np

from posttrain.types import Batch, IntArray


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """The nodes of a stream: node k is seen by itself and by the nodes after it, up to stops_T[k].

    places_T: int64 (T,), where in the stream a node stands first; stops_T: int64 (T,), exclusive; nodes_S: int64 (S,), the node of
    each token of the stream, -1 where it has none.
    """

    places_T: IntArray
    stops_T: IntArray
    nodes_S: IntArray

    def padded(self, multiple: int) -> "PrefixTree":
        """As long as a multiple, by nodes below each other that stand for no token of their own and that nobody reads."""
        missing = -len(self.places_T) % multiple
        stops_T = np.append(self.stops_T, np.full(missing, len(self.stops_T) + missing))
        return PrefixTree(np.append(self.places_T, np.zeros(missing, np.int64)), stops_T, self.nodes_S)


def prefix_tree(batch: Batch, read_N: IntArray, *, is_merged: bool = True) -> PrefixTree:
    """The tree of all that these places of a stream see, themselves included; of the whole stream if there is no place.

    is_merged: whether equal beginnings become one. Images never do, nor what follows them.
    """
    names_S = batch.token_ids.copy() if is_merged else -1 - np.arange(batch.num_tokens)
    names_S[batch.image_runs[:, 0]] = -1 - batch.image_runs[:, 0]
    above, first, made_S = _merge(names_S, _parents(batch))
    # The entry after the last is that of the root, which stands above the first tokens of prompts: `above` calls it -1.
    sizes, free = [0] * (len(above) + 1), [0] * (len(above) + 1)
    is_read = np.zeros(len(above), bool)
    is_read[np.asarray(made_S)[read_N] if len(read_N) else slice(None)] = True
    for node in reversed(range(len(above))):  # every node stands after the one above it
        if sizes[node] or is_read[node]:
            sizes[node] += 1
            sizes[above[node]] += sizes[node]
    order = np.full(len(above), -1)
    places_T, stops_T = np.zeros(sizes[-1], np.int64), np.zeros(sizes[-1], np.int64)
    for node, size in enumerate(sizes[:-1]):
        if size:
            at = free[above[node]]
            order[node], places_T[at], stops_T[at] = at, first[node], at + size
            free[node], free[above[node]] = at + 1, at + size
    return PrefixTree(places_T, stops_T, order[made_S])


def _parents(batch: Batch) -> IntArray:
    """The token before each, in its own segment or at the end of its prefix; -1 where there is none."""
    starts = np.flatnonzero(np.diff(batch.segment_ids, prepend=-1))
    lasts = dict(zip(batch.segment_ids[starts].tolist(), [*(starts[1:] - 1).tolist(), batch.num_tokens - 1], strict=True))
    parents_S = np.arange(-1, batch.num_tokens - 1)
    for start, own, prefix in zip(starts, batch.segment_ids[starts].tolist(), batch.prefix_ids[starts].tolist(), strict=True):
        parents_S[start] = -1 if own == prefix else lasts[prefix]
    return parents_S


def _merge(names_S: IntArray, parents_S: IntArray) -> tuple[list[int], list[int], list[int]]:
    """Of each node the one above it (-1: none) and its first token; and of each token its node."""
    known: dict[tuple[int, int], int] = {}
    above: list[int] = []
    first: list[int] = []
    made_S: list[int] = []
    for place, (name, parent) in enumerate(zip(names_S.tolist(), parents_S.tolist(), strict=True)):
        key = made_S[parent] if parent >= 0 else -1, name
        node = known.setdefault(key, len(above))
        if node == len(above):
            above.append(key[0])
            first.append(place)
        made_S.append(node)
    return above, first, made_S
