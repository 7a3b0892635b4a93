"""Groups, documents and pairs to batches: the only place where token streams and loss weights are made.

Everything here is done once for a whole optimizer step, before the step is cut into micro-batches and spread over ranks,
so that neither can change the result. Numpy only; what a batch becomes on a device is the learner's business.

Order of work: `loss_weights` for the step, `_cut` each group to the token budget, `_fill` micro-batches longest first,
`_stream` writes one micro-batch, `spread` deals micro-batches to ranks. `rewrite` gives some of a micro-batch's episodes other
prompts, for teachers. Images become runs of placeholders on the way (`posttrain.vision`); a budget counts tokens after that.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import UserError
from posttrain.types import Batch, Document, EncodedImage, Episode, FloatArray, Group, IntArray, Pair
from posttrain.vision import ImageGeometry, Piece, check_written, read

NORMALIZATIONS = ("sequence_mean", "token_mean", "sequence_sum", "constant")
"""How the tokens of an optimizer step are weighed; `loss_weights` says what each does. `constant` comes here as its number."""


@dataclass(slots=True, kw_only=True)
class _Branch:
    """One episode as it will stand in a stream: tokens after the prompt, and which of them are trained."""

    piece: Piece
    is_trained: IntArray
    behavior_logprobs: FloatArray
    loss_weight: float
    advantage: float

    @property
    def num_tokens(self) -> int:
        return len(self.piece.token_ids)


@dataclass(slots=True, kw_only=True)
class _Tree:
    """A prompt and branches that share it in one micro-batch; or a document: a prompt that is itself trained, and no branches."""

    prompt: Piece
    branches: list[_Branch]
    prompt_loss_weights: FloatArray | None = None
    prompt_id: str = ""

    @property
    def num_tokens(self) -> int:
        return len(self.prompt.token_ids) + sum(branch.num_tokens for branch in self.branches)


def loss_weights(groups: Sequence[Group], normalization: str | int) -> list[list[float]]:
    """The weight of every trained token of each counted episode, for one optimizer step over `groups`.

    sequence_mean: 1 / (S * len_i), the mean over the tokens of a sequence and then over the S sequences;
    token_mean: 1 / (all trained tokens); sequence_sum: 1 / S, the sum over tokens and then the mean;
    a number n: 1 / (S * n), as if every sequence had that length. An episode without tokens weighs 0 and still counts in S.
    """
    return _weights([[episode.num_completion_tokens for episode in group.counted] for group in groups], normalization)


def _weights(lengths: list[list[int]], normalization: str | int) -> list[list[float]]:
    num_sequences, num_tokens = sum(map(len, lengths)), sum(map(sum, lengths))

    def weight(length: int) -> float:
        if isinstance(normalization, int):
            return 1.0 / (num_sequences * normalization)
        per_sequence = {"sequence_mean": length, "sequence_sum": 1}
        return 1.0 / (num_tokens if normalization == "token_mean" else num_sequences * per_sequence[normalization])

    return [[weight(length) if length else 0.0 for length in row] for row in lengths]


def leave_out(batches: Sequence[Batch], kept: Sequence[NDArray[np.bool_]], normalization: str | int) -> None:
    """Leaves trained tokens out of one optimizer step, numerator and normaliser both.

    kept: bool (T,) a batch, true where a trained token stays. An episode that loses all its tokens leaves the number of
    sequences as well. The batches have to hold every episode of the step.
    """
    tokens_before = tokens_after = sequences_before = sequences_after = 0
    for batch, kept_T in zip(batches, kept, strict=True):
        trained_T = batch.loss_weights != 0
        before = np.bincount(batch.segment_ids, weights=trained_T)
        after = np.bincount(batch.segment_ids, weights=trained_T & kept_T)
        tokens_before, tokens_after = tokens_before + before.sum(), tokens_after + after.sum()
        sequences_before, sequences_after = sequences_before + (before > 0).sum(), sequences_after + (after > 0).sum()
        scale = before / np.maximum(after, 1) if normalization == "sequence_mean" else np.ones_like(before)
        batch.loss_weights = (batch.loss_weights * scale[batch.segment_ids] * kept_T).astype(np.float32)
    total = tokens_before / max(1, tokens_after) if normalization == "token_mean" else sequences_before / max(1, sequences_after)
    for batch in batches:
        batch.loss_weights *= np.float32(total)


def pack(
    groups: Sequence[Group],
    *,
    normalization: str | int,
    microbatch_tokens: int,
    shared_prefix: bool = True,
    skip_zero_advantage: bool = False,
    geometry: ImageGeometry | None = None,
) -> list[Batch]:
    """Packs one optimizer step's groups into micro-batches of at most `microbatch_tokens` tokens.

    normalization: as `loss_weights` takes it.
    shared_prefix: a group's prompt stands once in a micro-batch and its episodes branch off; otherwise once an episode.
    skip_zero_advantage: leaves out episodes whose advantage is 0, which is exact for objectives that are proportional to
    the advantage; the normaliser still counts them. If nothing would be left, the first group is kept, so that a step
    always measures something. A single episode longer than the budget gets a micro-batch of its own: it cannot be cut.
    geometry: how the model reads images; the tokens that it bans in the sampler have no probability in these batches either.

    Raises:
        UserError: a prompt or an observation whose images and placeholders do not fit together.
    """
    weights = loss_weights(groups, normalization)
    has_signal = any(episode.advantage != 0 for group in groups for episode in group.counted)
    trees = []
    for index, (group, row) in enumerate(zip(groups, weights, strict=True)):
        is_measured = not skip_zero_advantage or not (has_signal or index)
        pairs = zip(group.counted, row, strict=True)
        chosen = [(episode, weight) for episode, weight in pairs if weight > 0 and (is_measured or episode.advantage != 0)]
        with _naming(f"prompt {group.prompt.id}"):
            branches = [_branch(episode, weight, geometry) for episode, weight in chosen]
            prompt, _ = read(group.prompt_token_ids, group.prompt.images, geometry)
        trees += _cut((group.prompt.id, prompt), branches, microbatch_tokens if shared_prefix else 0)
    banned = () if geometry is None else geometry.banned_token_ids
    return [_stream(bin_, banned) for bin_ in _fill(trees, microbatch_tokens)]


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Puts what a mistake is about before it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def pack_documents(
    documents: Sequence[Document], *, normalization: str, microbatch_tokens: int, geometry: ImageGeometry | None = None
) -> list[Batch]:
    """Packs the documents of one optimizer step into micro-batches; none sees another, and positions begin anew with each.

    normalization: sequence_mean, token_mean or sequence_sum, as `loss_weights` has them, a document being a sequence. One
    longer than the budget gets a micro-batch of its own. prompt_ids of a micro-batch are the places of its documents in
    `documents`.
    """
    [weights] = _weights([[int(document.is_trained.sum()) for document in documents]], normalization)
    trees = []
    for index, (document, weight) in enumerate(zip(documents, weights, strict=True)):
        piece, counts = read(document.token_ids, document.images, geometry)
        weights_T = np.repeat(document.is_trained * np.float32(weight), counts)
        trees.append(_Tree(prompt_id=str(index), prompt=piece, branches=[], prompt_loss_weights=weights_T))
    return [_stream(bin_) for bin_ in _fill(trees, microbatch_tokens)]


def pack_pairs(pairs: Sequence[Pair], *, microbatch_tokens: int) -> list[Batch]:
    """Packs the preference pairs of one optimizer step into micro-batches; a pair is never cut, whatever the budget.

    Only the last token of each answer is trained: it is where a reward model gives its score. The two stand one after the
    other in the stream, with advantage 1 for the chosen answer and -1 for the rejected one, and weigh 1 / (2 * pairs) each, so
    that a loss that both ends of a pair are given is the mean over pairs.
    """
    trees = [
        _Tree(
            prompt=Piece(token_ids=pair.prompt_token_ids),
            branches=[_scored(pair.chosen_token_ids, 1.0, len(pairs)), _scored(pair.rejected_token_ids, -1.0, len(pairs))],
        )
        for pair in pairs
    ]
    return [_stream(bin_) for bin_ in _fill(trees, microbatch_tokens)]


def _scored(token_ids: IntArray, advantage: float, num_pairs: int) -> _Branch:
    return _Branch(
        piece=Piece(token_ids=token_ids),
        is_trained=np.arange(1, len(token_ids) + 1) // len(token_ids),
        behavior_logprobs=np.zeros(len(token_ids), np.float32),
        loss_weight=0.5 / num_pairs,
        advantage=advantage,
    )


def empty_batch() -> Batch:
    """A one-token batch that trains nothing: keeps a rank in step with the others."""
    return _stream([_Tree(prompt=Piece(token_ids=np.zeros(1, np.int64)), branches=[])])


def sequence_batch(token_ids: IntArray, images: Sequence[EncodedImage] = (), geometry: ImageGeometry | None = None) -> Batch:
    """A plain sequence in which every token but the first and those of images is scored (weight 1, advantage 0)."""
    piece, counts = read(token_ids[1:], images, geometry)
    is_text = counts > 0 if geometry is None else token_ids[1:] != geometry.image_token_id
    branch = _Branch(
        piece=piece,
        is_trained=np.repeat(is_text, counts).astype(np.int64),
        behavior_logprobs=np.zeros(len(piece.token_ids), np.float32),
        loss_weight=1.0,
        advantage=0.0,
    )
    return _stream([_Tree(prompt=Piece(token_ids=token_ids[:1]), branches=[branch])])


def rewrite(batch: Batch, prompts: Mapping[str, Piece]) -> Batch:
    """The episodes of these prompts, by prompt id, each after the piece given for its prompt; in the same order.

    With its own tokens for each prompt a micro-batch is as it was; with fewer prompts it is a part of itself; with another
    model's rendering it is what that model has to read. old_logprobs and ref_logprobs are not taken along.
    """
    trees = [tree for tree in _trees(batch) if tree.prompt_id in prompts]
    for tree in trees:
        tree.prompt = prompts[tree.prompt_id]
    return _stream(trees, batch.banned_token_ids)


def prompts_of(batch: Batch) -> dict[str, Piece]:
    """Each prompt of a micro-batch, by prompt id."""
    return {tree.prompt_id: tree.prompt for tree in _trees(batch)}


def spread(batches: Sequence[Batch], num_ranks: int) -> list[list[Batch]]:
    """Deals micro-batches to ranks, longest first to the rank with the fewest tokens; all ranks get the same number.

    Ranks with fewer are filled up with `empty_batch`, because every rank takes part in every collective.
    """
    ranks: list[list[Batch]] = [[] for _ in range(num_ranks)]
    for batch in sorted(batches, key=lambda b: -b.num_tokens):
        min(ranks, key=lambda rank: sum(b.num_tokens for b in rank)).append(batch)
    longest = max(1, *(len(rank) for rank in ranks))
    return [rank + [empty_batch() for _ in range(longest - len(rank))] for rank in ranks]


def _branch(episode: Episode, weight: float, geometry: ImageGeometry | None) -> _Branch:
    ids, trained, logprobs = [], [], []
    for turn in episode.turns:
        check_written(turn.token_ids, geometry)
        num_observed = len(turn.observation_token_ids)
        ids += [turn.token_ids, turn.observation_token_ids]
        trained += [np.ones(len(turn.token_ids), np.int64), np.zeros(num_observed, np.int64)]
        logprobs += [turn.logprobs, np.zeros(num_observed, np.float32)]
    images = [image for turn in episode.turns for image in turn.observation_images]
    piece, counts = read(np.concatenate(ids), images, geometry)
    return _Branch(
        piece=piece,
        is_trained=np.repeat(np.concatenate(trained), counts),
        behavior_logprobs=np.repeat(np.concatenate(logprobs), counts),
        loss_weight=weight,
        advantage=episode.advantage,
    )


def sequences_of(batch: Batch) -> list[tuple[IntArray, IntArray]]:
    """Each episode of a micro-batch alone: its tokens, prompt included, and the places of those that are trained; in stream order."""
    sequences = []
    for tree in _trees(batch):
        for branch in tree.branches:
            trained = np.flatnonzero(branch.is_trained) + len(tree.prompt.token_ids)
            sequences.append((np.concatenate([tree.prompt.token_ids, branch.piece.token_ids]), trained))
    return sequences


def _cut(prompt: tuple[str, Piece], branches: list[_Branch], budget: int) -> list[_Tree]:
    """Splits a group into trees of at most `budget` tokens, longest branch first; each tree holds one branch at least."""
    trees: list[_Tree] = []
    for branch in sorted(branches, key=lambda b: -b.num_tokens):
        fitting = (tree for tree in trees if tree.num_tokens + branch.num_tokens <= budget)
        tree = next(fitting, None)
        if tree is None:
            trees.append(_Tree(prompt_id=prompt[0], prompt=prompt[1], branches=[branch]))
        else:
            tree.branches.append(branch)
    return trees


def _fill(trees: list[_Tree], budget: int) -> list[list[_Tree]]:
    """As few micro-batches as first fit, longest first, makes of them; evenly filled where that many can be."""
    ordered = sorted(trees, key=lambda tree: -tree.num_tokens)
    bins: list[list[_Tree]] = []
    for tree in ordered:
        fitting = (b for b in bins if _length(b) + tree.num_tokens <= budget)
        chosen = next(fitting, None)
        if chosen is None:
            bins.append([tree])
        else:
            chosen.append(tree)
    even: list[list[_Tree]] = [[] for _ in bins]
    for tree in ordered:
        min(even, key=_length).append(tree)
    return even if all(_length(b) <= budget for b in even) else bins


def _length(trees: list[_Tree]) -> int:
    return sum(tree.num_tokens for tree in trees)


class _StreamWriter:
    """Appends segments to the arrays of one micro-batch."""

    def __init__(self, num_tokens: int, has_images: bool) -> None:
        self.batch = Batch(
            token_ids=np.zeros(num_tokens, np.int64),
            position_ids=np.zeros((3, num_tokens) if has_images else num_tokens, np.int64),
            segment_ids=np.zeros(num_tokens, np.int64),
            prefix_ids=np.zeros(num_tokens, np.int64),
            predictor_ids=np.full(num_tokens, -1, np.int64),
            loss_weights=np.zeros(num_tokens, np.float32),
            behavior_logprobs=np.zeros(num_tokens, np.float32),
            advantages=np.zeros(num_tokens, np.float32),
        )
        self.num_written = 0
        self.num_segments = 0
        self._places: dict[str, int] = {}
        self._runs: list[tuple[int, int]] = []

    def append(self, piece: Piece, *, first_position: int, prefix_id: int | None) -> slice:
        """Writes a segment; returns where it stands. prefix_id None: it is its own prefix."""
        length = len(piece.token_ids)
        where = slice(self.num_written, self.num_written + length)
        self.batch.token_ids[where] = piece.token_ids
        own_positions = np.arange(length) if piece.positions is None else piece.positions
        self.batch.position_ids[..., where] = first_position + own_positions
        self.batch.segment_ids[where] = self.num_segments
        self.batch.prefix_ids[where] = self.num_segments if prefix_id is None else prefix_id
        for start, image in piece.images:
            if image.digest not in self._places:
                self._places[image.digest] = len(self.batch.images)
                self.batch.images.append(image)
            self._runs.append((where.start + start, self._places[image.digest]))
        self.num_written += length
        self.num_segments += 1
        return where

    def finish(self) -> Batch:
        """The micro-batch, once everything is written."""
        self.batch.image_runs = np.array(self._runs, np.int64).reshape(-1, 2)
        return self.batch


def _stream(trees: list[_Tree], banned_token_ids: tuple[int, ...] = ()) -> Batch:
    has_images = any(piece.images for tree in trees for piece in (tree.prompt, *(branch.piece for branch in tree.branches)))
    writer = _StreamWriter(sum(tree.num_tokens for tree in trees), has_images)
    batch = writer.batch
    batch.prompt_ids, batch.banned_token_ids = [tree.prompt_id for tree in trees], banned_token_ids
    for tree in trees:
        prompt_id = writer.num_segments
        prompt = writer.append(tree.prompt, first_position=0, prefix_id=None)
        if tree.prompt_loss_weights is not None:
            batch.predictor_ids[prompt.start + 1 : prompt.stop] = np.arange(prompt.start, prompt.stop - 1)
            batch.loss_weights[prompt] = tree.prompt_loss_weights
        for branch in tree.branches:
            where = writer.append(branch.piece, first_position=tree.prompt.extent, prefix_id=prompt_id)
            batch.predictor_ids[where] = np.arange(where.start - 1, where.stop - 1)
            batch.predictor_ids[where.start] = prompt.stop - 1
            batch.loss_weights[where] = branch.is_trained * branch.loss_weight
            batch.behavior_logprobs[where] = branch.behavior_logprobs
            batch.advantages[where] = branch.advantage * branch.is_trained
    return writer.finish()


def _trees(batch: Batch) -> list[_Tree]:
    """What `_stream` was given."""
    ids = iter(batch.prompt_ids)
    trees: list[_Tree] = []
    for index in np.split(np.arange(batch.num_tokens), np.flatnonzero(np.diff(batch.segment_ids)) + 1):
        if batch.prefix_ids[index[0]] == batch.segment_ids[index[0]]:
            trees.append(_Tree(prompt_id=next(ids), prompt=_piece(batch, index), branches=[]))
            continue
        is_trained = batch.loss_weights[index] != 0
        trees[-1].branches.append(
            _Branch(
                piece=_piece(batch, index),
                is_trained=is_trained.astype(np.int64),
                behavior_logprobs=batch.behavior_logprobs[index],
                loss_weight=float(batch.loss_weights[index].max()),
                advantage=float(batch.advantages[index][is_trained][0]) if is_trained.any() else 0.0,
            )
        )
    return trees


def _piece(batch: Batch, index: IntArray) -> Piece:
    """What `_StreamWriter.append` was given."""
    runs = [(int(at - index[0]), batch.images[image]) for at, image in batch.image_runs if index[0] <= at <= index[-1]]
    positions = batch.position_ids[:, index] - batch.position_ids[0, index[0]] if runs else None
    return Piece(token_ids=batch.token_ids[index], positions=positions, images=runs)
