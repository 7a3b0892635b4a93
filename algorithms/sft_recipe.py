"""What an SFT run trains on: the tasks' conversations as documents."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from posttrain.algorithms.losses import Objective, negative_logprob
from posttrain.algorithms.rows_recipe import ReadRows, RowsRecipe
from posttrain.algorithms.sft import SftConfig
from posttrain.algorithms.stages import cut
from posttrain.builtin_models import cache_folder
from posttrain.config import TaskConfig
from posttrain.data.conversations import load_conversations
from posttrain.data.rendered import render_rows, tokenizer_digest
from posttrain.inputs import ModelInputs
from posttrain.packing import pack_documents
from posttrain.rollout.transcript import Transcriber
from posttrain.types import Batch


@dataclass(slots=True, kw_only=True)
class SftRecipe(RowsRecipe):
    """The recipe of `posttrain.algorithms.supervised` for algo=sft."""

    algo: SftConfig

    @classmethod
    def read(cls, task: TaskConfig, model: ModelInputs, algo: SftConfig) -> ReadRows:
        """A task's conversations as documents."""
        conversations, unreadable = load_conversations(task)
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
        )

    def objective(self) -> Objective:
        """Minus the log-probability."""
        return negative_logprob

    def pack(self, rows: Sequence[tuple[str, int]], max_tokens: int) -> list[Batch]:
        """The rows' documents, those above `max_tokens` tokens cut, weighed by `algo.normalization`."""
        return self._pack(rows, max_tokens, self.algo.normalization)

    def pack_heldout(self, rows: Sequence[tuple[str, int]], max_tokens: int) -> list[Batch]:
        """The same; the loss of held-out rows is always the mean over their tokens."""
        return self._pack(rows, max_tokens, "token_mean")

    def loss_in_words(self) -> str:
        """For the run's table."""
        return f"{self.algo.normalization} over {self.algo.trained_turns} assistant turns"

    def _pack(self, rows: Sequence[tuple[str, int]], max_tokens: int, normalization: str) -> list[Batch]:
        whole = (document for name, row in rows for document in self.tasks[name].rows.rendered.documents(row))
        documents = [piece for document in whole for piece in cut(document, max_tokens)]
        return pack_documents(
            documents,
            normalization=normalization,
            microbatch_tokens=self.config.train.microbatch_tokens,
            geometry=self.model.geometry,
        )
