"""Which rows make which optimizer step: stages by length, mixtures by share, epochs or steps. Pure; the whole plan at once.

The plan follows from the rows' lengths, the configuration and run.seed alone, so a resumed run looks up its next step in it
and needs no cursor.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from posttrain.data.mixture import Mixture
from posttrain.types import Document, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """max_tokens: longest document. rows: of each task, those it deals from. epochs: None goes on for ever."""

    max_tokens: int
    epochs: float | None
    rows: Mapping[str, Sequence[int]]
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRows:
    """The (task, row) pairs of one optimizer step. stage: from 0. epoch: rows dealt by then in this stage over rows it has."""

    stage: int
    max_tokens: int
    epoch: float
    rows: list[tuple[str, int]]


def plan_steps(
    stages: Sequence[Stage], lengths: Mapping[str, IntArray], *, seed: int, rows_per_step: int, tokens_per_step: int, num_steps: int | None
) -> list[StepRows]:
    """All steps of a run. lengths: tokens of each task's rows.

    num_steps: how many there are; None where every stage has its epochs. One epoch deals as many rows as the stage has, of
    each task its share: with shares in proportion to the tasks' sizes, every row once. A stage's last step may be smaller.
    """
    planned = _steps(stages, lengths, seed, rows_per_step, tokens_per_step)
    return list(planned if num_steps is None else islice(planned, num_steps))


def _steps(
    stages: Sequence[Stage], lengths: Mapping[str, IntArray], seed: int, rows_per_step: int, tokens_per_step: int
) -> Iterator[StepRows]:
    for index, stage in enumerate(stages):
        stage_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        num_rows, num_dealt = sum(map(len, stage.rows.values())), 0
        wanted = None if stage.epochs is None else max(1, round(stage.epochs * num_rows))
        mixture = Mixture({name: len(rows) for name, rows in stage.rows.items()}, stage.shares, stage_seed)
        by_rows = _by_rows(mixture, wanted, rows_per_step)
        for dealt in _by_tokens(by_rows, stage, lengths, tokens_per_step) if tokens_per_step else by_rows:
            num_dealt += len(dealt)
            rows = [(name, stage.rows[name][position]) for name, position in dealt]
            yield StepRows(stage=index, max_tokens=stage.max_tokens, epoch=num_dealt / num_rows, rows=rows)


def _by_rows(mixture: Mixture, wanted: int | None, rows_per_step: int) -> Iterator[list[tuple[str, int]]]:
    while wanted is None or wanted > 0:
        number = rows_per_step if wanted is None else min(wanted, rows_per_step)
        wanted = None if wanted is None else wanted - number
        yield mixture.take(number)


def _by_tokens(
    dealt: Iterator[list[tuple[str, int]]], stage: Stage, lengths: Mapping[str, IntArray], budget: int
) -> Iterator[list[tuple[str, int]]]:
    """The same rows in the same order, cut by tokens: a step holds one row at least, and no further one above the budget."""
    step: list[tuple[str, int]] = []
    num_tokens = 0
    for name, position in (pair for rows in dealt for pair in rows):
        length = int(lengths[name][stage.rows[name][position]])
        if step and num_tokens + length > budget:
            yield step
            step, num_tokens = [], 0
        step.append((name, position))
        num_tokens += length
    if step:
        yield step


def cut(document: Document, max_tokens: int) -> list[Document]:
    """Pieces of at most `max_tokens` tokens, those left out in which nothing is trained.

    A piece begins with the last token of the one before, which predicts its next: every trained token is trained once.
    """
    if len(document.token_ids) <= max_tokens:
        return [document]
    pieces = []
    for start in range(0, len(document.token_ids) - 1, max_tokens - 1):
        piece = slice(start, start + max_tokens)
        is_trained = document.is_trained[piece].copy()
        is_trained[0] = False
        if is_trained.any():
            first = int(document.is_trained[: start + 1].sum())
            targets = document.soft_targets and document.soft_targets.at(slice(first, first + int(is_trained.sum())))
            pieces.append(Document(token_ids=document.token_ids[piece], is_trained=is_trained, soft_targets=targets))
    return pieces
