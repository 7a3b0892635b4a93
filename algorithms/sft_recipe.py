"""What an SFT run trains on: the tasks' conversations as documents, with a teacher's word on them where it is learned from.

What the rows' soft targets name is cut to the fewest tokens that any row of the run names at a place, so that the loss does not
depend on which rows stand together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from posttrain.algorithms.divergences import DistillationLoss
from posttrain.algorithms.losses import Objective, negative_logprob
from posttrain.algorithms.rows_recipe import ReadRows, RowsRecipe
from posttrain.algorithms.sft import SftConfig
from posttrain.algorithms.stages import cut
from posttrain.builtin_models import cache_folder
from posttrain.config import TaskConfig
from posttrain.data.conversations import load_conversations
from posttrain.data.rendered import render_rows, tokenizer_digest
from posttrain.inputs import ModelInputs
from posttrain.learner_spec import Distillation
from posttrain.packing import pack_documents
from posttrain.rollout.transcript import Transcriber
from posttrain.teacher import TeacherScores
from posttrain.types import Batch, Document, SoftTargets


@dataclass(slots=True, kw_only=True)
class SftRecipe(RowsRecipe):
    """The recipe of `posttrain.algorithms.supervised` for algo=sft."""

    algo: SftConfig

    @classmethod
    def read(cls, task: TaskConfig, model: ModelInputs, algo: SftConfig) -> ReadRows:
        """A task's conversations as documents."""
        conversations, unreadable = load_conversations(task, with_soft_targets=algo.soft_targets > 0)
        transcriber = Transcriber(
            model.tokenizer, last_turn_only=algo.trained_turns == "last", may_cut=algo.rewriting == "split", geometry=model.geometry
        )
        geometry = None if model.geometry is None else asdict(model.geometry)
        rendered_by = [tokenizer_digest(model.tokenizer), algo.trained_turns, algo.rewriting, geometry]
        rendered = render_rows(conversations, transcriber.documents, rendered_by, cache_folder() / "documents")
        lengths, longest = rendered.lengths(model.geometry)
        return ReadRows(
            rendered=rendered,
            places=[conversation.where for conversation in conversations],
            digests=[conversation.digest for conversation in conversations],
            lengths=lengths,
            longest=longest,
            problems=[*unreadable, *(f"{conversations[row].where}{why}" for row, why in rendered.problems.items())],
            soft_targets=[conversation.soft_targets for conversation in conversations if conversation.soft_targets],
        )

    def objective(self) -> Objective:
        """Minus the log-probability, or with soft targets a mixture of it and the divergence from the teacher."""
        weight = self.algo.soft_targets
        if not weight:
            return negative_logprob
        return DistillationLoss(weight=weight, task=negative_logprob if weight < 1 else None, task_weight=1 - weight)

    def measures(self) -> Mapping[str, Objective]:
        """The loss, and with soft targets the divergence alone."""
        return {"loss": self.objective(), **({"kl": DistillationLoss()} if self.algo.soft_targets else {})}

    def distillation(self) -> Distillation | None:
        """KL(teacher, student) over the teacher's most likely tokens and one outcome for the rest."""
        return Distillation(kind="forward", support="topk") if self.algo.soft_targets else None

    def pack(self, rows: Sequence[tuple[str, int]], max_tokens: int) -> list[Batch]:
        """The rows' documents, those above `max_tokens` tokens cut, weighed by `algo.normalization`."""
        return self._pack(rows, max_tokens, self.algo.normalization)

    def pack_heldout(self, rows: Sequence[tuple[str, int]], max_tokens: int) -> list[Batch]:
        """The same; the loss of held-out rows is always the mean over their tokens."""
        return self._pack(rows, max_tokens, "token_mean")

    def loss_in_words(self) -> str:
        """For the run's table."""
        if not self.algo.soft_targets:
            return f"{self.algo.normalization} over {self.algo.trained_turns} assistant turns"
        words = f"{self.algo.soft_targets:g} x KL(teacher, student) over {self._top_k()} tokens and the rest"
        return f"{words}, {1 - self.algo.soft_targets:g} x -log p, {self.algo.normalization} over last turns"

    def _pack(self, rows: Sequence[tuple[str, int]], max_tokens: int, normalization: str) -> list[Batch]:
        whole = (document for name, row in rows for document in self._documents(self.tasks[name].rows, row))
        documents = [piece for document in whole for piece in cut(document, max_tokens)]
        batches = pack_documents(
            documents,
            normalization=normalization,
            microbatch_tokens=self.config.train.microbatch_tokens,
            geometry=self.model.geometry,
        )
        if self.algo.soft_targets:
            k = self._top_k()
            for batch in batches:
                batch.teacher_scores = _scores([documents[int(place)].soft_targets for place in batch.prompt_ids], k)
        return batches

    def _documents(self, rows: ReadRows, row: int) -> list[Document]:
        documents = rows.rendered.documents(row)
        if rows.soft_targets:
            [document] = documents
            document.soft_targets = rows.soft_targets[row]
        return documents

    def _top_k(self) -> int:
        return min(int(targets.top_ids.shape[1]) for task in self.tasks.values() for targets in task.rows.soft_targets)


def _scores(targets: Sequence[SoftTargets | None], k: int) -> TeacherScores:
    """A teacher's word on the trained tokens of a micro-batch, from that on each of its documents."""
    given = [one for one in targets if one is not None]
    return TeacherScores.of(
        logprobs=torch.from_numpy(np.concatenate([one.logprobs for one in given])),
        top_ids=torch.from_numpy(np.concatenate([one.top_ids[:, :k] for one in given])),
        top_logprobs=torch.from_numpy(np.concatenate([one.top_logprobs[:, :k] for one in given])),
    )
