"""What a reward model is trained on: the tasks' preference pairs, each two documents that begin alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from posttrain.algorithms.losses import Objective, bradley_terry, chosen_above_rejected
from posttrain.algorithms.reward_model import RewardModelConfig
from posttrain.algorithms.rows_recipe import ReadRows, RowsRecipe
from posttrain.builtin_models import cache_folder
from posttrain.config import TaskConfig
from posttrain.data.pairs import load_pairs
from posttrain.data.rendered import render_rows, tokenizer_digest
from posttrain.inputs import ModelInputs
from posttrain.model import reward_padding
from posttrain.packing import pack_pairs
from posttrain.rollout.transcript import Transcriber
from posttrain.types import Batch, IntArray, Pair


@dataclass(slots=True, kw_only=True)
class RewardModelRecipe(RowsRecipe):
    """The recipe of `posttrain.algorithms.supervised` for algo=reward_model; row r is the documents 2 r (chosen) and 2 r + 1."""

    is_reward_model: ClassVar[bool] = True

    algo: RewardModelConfig

    @classmethod
    def read(cls, task: TaskConfig, model: ModelInputs, algo: RewardModelConfig) -> ReadRows:
        """A task's pairs; the lengths of a row are those of both its documents."""
        tokenizer = model.tokenizer
        reward_padding(tokenizer)  # a tokenizer without one is told of before anything is started
        pairs, unreadable = load_pairs(task)
        conversations = [conversation for pair in pairs for conversation in pair]
        transcriber = Transcriber(tokenizer, last_turn_only=True, may_cut=True)
        rendered = render_rows(conversations, transcriber.documents, [tokenizer_digest(tokenizer), "pairs"], cache_folder() / "documents")
        lengths = rendered.lengths()[0].reshape(-1, 2)
        return ReadRows(
            rendered=rendered,
            places=[chosen.where for chosen, _ in pairs],
            digests=[chosen.digest for chosen, _ in pairs],
            lengths=lengths.sum(1) * (lengths > 0).all(1),
            longest=lengths.max(1, initial=0),
            problems=[*unreadable, *{f"{conversations[row].where}{why}": None for row, why in rendered.problems.items()}],
        )

    def objective(self) -> Objective:
        """-log sigmoid(score of the chosen answer - score of the rejected one)."""
        return bradley_terry

    def measures(self) -> Mapping[str, Objective]:
        """The loss, and the share of pairs in which the chosen answer scores higher."""
        return {"loss": bradley_terry, "accuracy": chosen_above_rejected}

    def pack(self, rows: Sequence[tuple[str, int]], max_tokens: int) -> list[Batch]:
        """The rows' pairs; rows that are longer than `max_tokens` are not among them."""
        return pack_pairs([self._pair(name, row) for name, row in rows], microbatch_tokens=self.config.train.microbatch_tokens)

    def loss_in_words(self) -> str:
        """For the run's table."""
        return "the mean over pairs of -log sigmoid(chosen - rejected)"

    def _pair(self, name: str, row: int) -> Pair:
        rendered = self.tasks[name].rows.rendered
        chosen, rejected = (rendered.documents(2 * row + side)[0].token_ids for side in (0, 1))
        return pair_of(chosen, rejected)


def pair_of(chosen: IntArray, rejected: IntArray) -> Pair:
    """Two sequences as a pair: what they begin with alike is shared, but each keeps its last token to itself."""
    shortest = min(len(chosen), len(rejected)) - 1
    differing = np.flatnonzero(chosen[:shortest] != rejected[:shortest])
    shared = int(differing[0]) if len(differing) else shortest
    assert shared, "a chat template begins differently for two answers to one prompt"
    return Pair(prompt_token_ids=chosen[:shared], chosen_token_ids=chosen[shared:], rejected_token_ids=rejected[shared:])
