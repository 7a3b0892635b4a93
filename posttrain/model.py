"""Models as the learner uses them: loading, and log-probabilities of chosen tokens.

What lives here: Hugging Face models and tokenizers by path, and `TokenScorer`, which runs the body over a packed stream
and the head over the trained positions only. What does not: the built-in models (`posttrain.builtin_models`), devices,
optimizers, losses.

Shape suffixes: `_T` tokens of a stream, `_N` its trained positions, `_H` hidden size, `_V` vocabulary.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from posttrain import attention
from posttrain.errors import UserError
from posttrain.head import Head

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a Hugging Face folder or hub name.

    Raises:
        UserError: nothing usable at `path`, or the tokenizer has no chat template.
    """
    tokenizer = _from_pretrained(AutoTokenizer, path)
    if not tokenizer.chat_template:
        raise UserError(f"model.path={path} has no chat template: prompts cannot be rendered; give a chat or instruct model")
    return tokenizer


def max_context_tokens(path: str) -> int:
    """The longest sequence the model's configuration allows."""
    config = _from_pretrained(AutoConfig, path).get_text_config()
    return int(config.max_position_embeddings)


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


def _from_pretrained(auto_class: Any, path: str, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(path).exists() else "missing folder or unknown hub name"
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"model.path={path} ({kind}) cannot be loaded: {first_line}") from error


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
        self, token_ids_T: Tensor, position_ids_T: Tensor, layout: attention.Layout, predictors_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Scores the trained positions of a stream.

        token_ids_T, position_ids_T: int64 (T,). layout: who sees whom. predictors_N: int64 (2, N), the trained positions
        and the positions they are predicted from.
        Returns float32 log-probabilities (N,), with gradient, and entropies in nats (N,), without.
        """
        hidden_TH = self.model.base_model(
            input_ids=token_ids_T[None], position_ids=position_ids_T[None], layout=layout, use_cache=False
        ).last_hidden_state[0]
        trained_N, sources_N = predictors_N
        logprobs_N, entropies_N = self.head(hidden_TH[sources_N], token_ids_T[trained_N], temperature)
        return logprobs_N, entropies_N
