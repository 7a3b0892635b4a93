"""The reward `reward_model`: the score of a reward model, such as algo=reward_model trains, loaded from a folder.

POSTTRAIN_REWARD_MODEL names the folder (runs/<run>/checkpoints/best/hf), or any other that transformers loads for sequence
classification with one label. The score is raw: a logit without bounds, of which only differences between answers to one prompt
mean something. An algorithm that compares a group's rewards needs no more; beside other rewards, choose the weight with care.

The model reads the prompt and the answer without its thinking, rendered by its own chat template as in its training. An empty
answer is scored like any other. One that does not fit the model's context is abstained from. A batch of answers is scored at
once, in float32, by all cores in one process, or on CUDA where there is one; `rewards.memory_gb` has to hold the model.
"""

import os
from collections.abc import Sequence

import numpy as np
import torch

from posttrain.data.conversations import plain
from posttrain.errors import UserError
from posttrain.model import load_scoring_model, load_tokenizer
from posttrain.rewards.base import Abstain, answer_text
from posttrain.rewards.batched import BatchedReward, Scored
from posttrain.rollout.transcript import Transcriber
from posttrain.types import Episode, IntArray, Prompt

ENVIRONMENT = "POSTTRAIN_REWARD_MODEL"
BATCH_TOKENS = 8192
"""Tokens in one forward pass, padding included; a longer answer is scored alone."""


class RewardModel(BatchedReward):
    """The raw score that a reward model gives to the answer after its prompt."""

    def __init__(self, path: str | None = None) -> None:
        """path: None is the folder that the environment names. Raises UserError: it names none, or no reward model."""
        path = path or os.environ.get(ENVIRONMENT)
        if not path:
            raise UserError(f"the reward reward_model needs {ENVIRONMENT}=<folder of a reward model>, such as algo=reward_model writes")
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # one process scores for all, where others have a thread each
        self.transcriber = Transcriber(load_tokenizer(path, ENVIRONMENT), last_turn_only=True, may_cut=True)
        self.model = load_scoring_model(path, ENVIRONMENT).to("cuda" if torch.cuda.is_available() else "cpu")
        config = self.model.config.get_text_config()
        self.context_tokens, self.padding = config.max_position_embeddings, config.pad_token_id

    def score_batch(self, cases: Sequence[tuple[Prompt, Episode]]) -> list[Scored]:
        """Longest first, so that little is padded. Raises UserError: the chat template cannot render a prompt."""
        rows = [self._tokens(prompt, episode) for prompt, episode in cases]
        scored: list[Scored] = [Abstain(f"{len(row)} tokens, more than the reward model's {self.context_tokens}") for row in rows]
        waiting = sorted((k for k, row in enumerate(rows) if len(row) <= self.context_tokens), key=lambda k: -len(rows[k]))
        while waiting:
            size = max(1, BATCH_TOKENS // len(rows[waiting[0]])) if self.padding is not None else 1
            batch, waiting = waiting[:size], waiting[size:]
            for k, score in zip(batch, self._forward([rows[k] for k in batch]), strict=True):
                scored[k] = score
        return scored

    def _tokens(self, prompt: Prompt, episode: Episode) -> IntArray:
        messages = [plain(prompt.id, message) for message in prompt.messages]
        if not all(isinstance(message["content"], str) for message in messages):
            raise UserError(f"{prompt.id}: holds an image, and the reward reward_model reads text only")
        return self.transcriber.answered(prompt.id, messages, answer_text(episode))

    def _forward(self, rows: Sequence[IntArray]) -> list[float]:
        """Rows of at most as many tokens as the first."""
        width = len(rows[0])
        padded = [np.pad(row, (0, width - len(row)), constant_values=self.padding or 0) for row in rows]
        is_token = [np.arange(width) < len(row) for row in rows]
        tensors = {"input_ids": np.stack(padded), "attention_mask": np.stack(is_token).astype(np.int64)}
        with torch.inference_mode():
            logits = self.model(**{name: torch.tensor(values, device=self.model.device) for name, values in tensors.items()}).logits
        scores: list[float] = logits[:, 0].tolist()
        return scores
