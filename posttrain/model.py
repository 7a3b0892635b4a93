"""Models as the learner uses them: loading, and log-probabilities of chosen tokens.

What lives here: Hugging Face models and tokenizers by path, and `TokenScorer`, which runs the body over a packed stream
and the head over the trained positions only. What does not: the built-in models (`posttrain.builtin_models`), devices,
optimizers, losses.

Shape suffixes: `_T` tokens of a stream, `_N` its trained positions, `_H` hidden size, `_V` vocabulary.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from posttrain import attention
from posttrain.errors import UserError
from posttrain.head import Head, Teaching
from posttrain.types import Batch

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def load_tokenizer(path: str, key: str = "model.path") -> Any:
    """The tokenizer of a Hugging Face folder or hub name; `key` is where the user named it.

    Raises:
        UserError: nothing usable at `path`, or the tokenizer has no chat template.
    """
    tokenizer = _from_pretrained(AutoTokenizer, path, key)
    if not tokenizer.chat_template:
        raise UserError(f"{key}={path} has no chat template: prompts cannot be rendered; give a chat or instruct model")
    return tokenizer


def max_context_tokens(path: str, key: str = "model.path") -> int:
    """The longest sequence the model's configuration allows."""
    config = _from_pretrained(AutoConfig, path, key).get_text_config()
    return int(config.max_position_embeddings)


def num_output_rows(path: str, key: str = "model.path") -> int:
    """Rows of the model's output layer: its tokens, and what they were padded with."""
    return int(_from_pretrained(AutoConfig, path, key).get_text_config().vocab_size)


def check_freeze(path: str, patterns: Sequence[str]) -> None:
    """Builds the model without weights to see what `model.freeze` leaves to train.

    Raises:
        UserError: a pattern that fits no parameter, or nothing left to train.
    """
    if not patterns:
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_from_pretrained(AutoConfig, path))
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"model.freeze: {pattern} fits no parameter of {path}; it has {', '.join(names[:3])}, ...")
    freeze(model, patterns)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"model.freeze={list(patterns)} leaves no parameter of {path} to train")


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Takes parameters whose name fits a pattern out of training."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatchcase(name, pattern) for pattern in patterns))


def load_model(path: str, dtype: str) -> PreTrainedModel:
    """The causal language model at `path`, on the CPU, for packed streams: its forward pass wants a `layout`."""
    model: PreTrainedModel = _from_pretrained(AutoModelForCausalLM, path, dtype=DTYPES[dtype], attn_implementation=attention.register())
    return model


def compile_layers(model: PreTrainedModel) -> None:
    """Compiles every layer of the model's body in place, for streams of any length; attention stays as it is."""
    names = model._no_split_modules or ()
    for module in model.modules():
        if type(module).__name__ in names:
            module.compile(dynamic=True)


def stream_tensors(batch: Batch, device: torch.device, backend: str) -> tuple[Tensor, Tensor, attention.Layout, Tensor]:
    """The first arguments of `TokenScorer.forward` for the trained tokens of a batch."""
    trained = np.flatnonzero(batch.loss_weights)
    token_ids_T, position_ids_T, segments_T, prefixes_T, predictors_N = (
        torch.tensor(values, device=device)
        for values in (
            *(batch.token_ids, batch.position_ids, batch.segment_ids, batch.prefix_ids),
            np.stack([trained, batch.predictor_ids[trained]]),
        )
    )
    return token_ids_T, position_ids_T, attention.layout_of(segments_T, prefixes_T, backend), predictors_N


def _from_pretrained(auto_class: Any, path: str, key: str = "model.path", **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(path).exists() else "missing folder or unknown hub name"
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{key}={path} ({kind}) cannot be loaded: {first_line}") from error


class TokenScorer(nn.Module):
    """Log-probabilities and entropies of the trained tokens of one packed stream.

    Models whose head applies more than a linear layer (soft-capped logits) are not supported.
    """

    def __init__(self, model: PreTrainedModel, chunk_mb: float) -> None:
        """Wraps `model` without changing it. chunk_mb: megabytes of logits that exist at a time."""
        super().__init__()
        self.model = model
        self.head = Head(model.get_output_embeddings(), chunk_mb)

    def forward(
        self,
        token_ids_T: Tensor,
        position_ids_T: Tensor,
        layout: attention.Layout,
        predictors_N: Tensor,
        temperature: float,
        teaching: Teaching | None = None,
    ) -> tuple[Tensor, ...]:
        """Scores the trained positions of a stream.

        token_ids_T, position_ids_T: int64 (T,). layout: who sees whom. predictors_N: int64 (2, N), the trained positions
        and the positions they are predicted from.
        Returns float32 log-probabilities (N,), with gradient, and entropies in nats (N,), without; with a teacher two more, as
        `Head.forward` has them.
        """
        hidden_NH = self.hidden(token_ids_T, position_ids_T, layout, predictors_N)
        scored: tuple[Tensor, ...] = self.head(hidden_NH, token_ids_T[predictors_N[0]], temperature, teaching)
        return scored

    def hidden(self, token_ids_T: Tensor, position_ids_T: Tensor, layout: attention.Layout, predictors_N: Tensor) -> Tensor:
        """The last hidden states (N, H) that the trained positions are predicted from."""
        outputs = self.model.base_model(input_ids=token_ids_T[None], position_ids=position_ids_T[None], layout=layout, use_cache=False)
        hidden_NH: Tensor = outputs.last_hidden_state[0][predictors_N[1]]
        return hidden_NH
