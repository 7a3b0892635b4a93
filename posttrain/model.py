"""Models as the learner uses them: loading, and log-probabilities of chosen tokens, or a reward model's scores of answers.

What lives here: Hugging Face models and tokenizers by path, and `TokenScorer` and `AnswerScorer`, which run the body over a
packed stream and the head over the trained positions only. What does not: the built-in models (`posttrain.builtin_models`), images'
pixels (`posttrain.pixels`), devices, optimizers, losses.

Shape suffixes: `_T` tokens of a stream, `_N` its trained positions, `_H` hidden size, `_V` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from posttrain import attention
from posttrain.errors import UserError
from posttrain.head import Head, Teaching
from posttrain.pixels import ImageTensors, PixelReader, reads_images
from posttrain.prefix_tree import PrefixTree, prefix_tree
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


def check_sequence_parallel(path: str, num_ranks: int) -> None:
    """Raises UserError: the model's streams, or its attention heads, cannot be shared by the ranks of `train.sequence_parallel`."""
    if num_ranks == 1:
        return
    config = _from_pretrained(AutoConfig, path)
    if config.get_text_config() is not config:
        raise UserError(f"train.sequence_parallel={num_ranks}: {path} takes images, whose positions are not shared; expected 1")
    heads, key_heads = attention_heads(config)
    if heads % num_ranks or (key_heads % num_ranks and num_ranks % key_heads):
        raise UserError(
            f"train.sequence_parallel={num_ranks}: expected a divisor of the {heads} attention heads of {path}, and a divisor or a "
            f"multiple of its {key_heads} key-value heads"
        )


def attention_heads(config: Any) -> tuple[int, int]:
    """Attention heads of a text configuration, and those of keys and values."""
    heads = int(config.num_attention_heads)
    return heads, int(config.to_dict().get("num_key_value_heads") or heads)


def check_freeze(path: str, patterns: Sequence[str], *, is_reward_model: bool = False) -> None:
    """Builds the model without weights to see what `model.freeze` leaves to train; a reward model has a `score` and no output layer.

    Raises:
        UserError: a pattern that fits no parameter, or nothing left to train.
    """
    if not patterns:
        return
    config = _from_pretrained(AutoConfig, path, num_labels=1)
    with torch.device("meta"):
        model = (AutoModelForSequenceClassification if is_reward_model else _language_model_class(config)).from_config(config)
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
    """The language model at `path`, on the CPU, for packed streams: its forward pass wants a `layout`. It reads images if it can."""
    config = _from_pretrained(AutoConfig, path)
    ours = attention.register()
    # Patches of an image all see each other: the vision tower keeps torch's own attention.
    kinds = {"": ours, "text_config": ours, "vision_config": "sdpa"} if reads_images(config) else ours
    model: PreTrainedModel = _from_pretrained(_language_model_class(config), path, dtype=DTYPES[dtype], attn_implementation=kinds)
    return model


def _language_model_class(config: Any) -> Any:
    return AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM


def load_reward_model(path: str, dtype: str) -> PreTrainedModel:
    """The model at `path` with a head that gives one score, on the CPU, for packed streams; a new head where it has none.

    Its padding token is one that no conversation holds: transformers looks for an answer's end as the last token that is not
    padding, and many chat models pad with the very token that ends an answer.
    """
    model: PreTrainedModel = _from_pretrained(
        AutoModelForSequenceClassification,
        path,
        dtype=DTYPES[dtype],
        attn_implementation=attention.register(),
        num_labels=1,
        pad_token_id=reward_padding(load_tokenizer(path)),
    )
    return model


def reward_padding(tokenizer: Any) -> int:
    """The id of a special token that conversations do not hold: the tokenizer's own padding where that is one.

    Raises:
        UserError: all of its special tokens are in use.
    """
    conversation = [{"role": "user", "content": "0"}, {"role": "assistant", "content": "0"}]
    used = set(tokenizer.encode(tokenizer.apply_chat_template(conversation, tokenize=False), add_special_tokens=False))
    special = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
    free = [index for index in (tokenizer.pad_token_id, *special) if index is not None and index not in used]
    if not free:
        raise UserError("the tokenizer has no special token to pad with: the chat template uses all of them")
    return int(free[0])


def load_scoring_model(path: str, key: str) -> PreTrainedModel:
    """A trained reward model as transformers runs it, float32: one number a sequence, taken at its end. `key` names it for the user.

    Raises:
        UserError: nothing usable at `path`, or a model without such a head.
    """
    config = _from_pretrained(AutoConfig, path, key)
    (*_, architecture) = config.architectures or ("unknown",)
    if not architecture.endswith("ForSequenceClassification") or config.num_labels != 1:
        raise UserError(
            f"{key}={path} is a {architecture}, no reward model; expected a folder that algo=reward_model wrote, one score a text"
        )
    model: PreTrainedModel = _from_pretrained(AutoModelForSequenceClassification, path, key, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def compile_layers(model: PreTrainedModel) -> None:
    """Compiles every layer of the model's body in place, for streams of any length; attention stays as it is."""
    names = model._no_split_modules or ()
    for module in model.modules():
        if type(module).__name__ in names:
            module.compile(dynamic=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A micro-batch on a device, as scorers take it: the tokens that a model runs over (`posttrain.prefix_tree`), and what is read of them.

    token_ids_T: int64 (T,); position_ids: int64 (T,) or (3, T). layout: who sees whom. targets_N: int64 (N,), the trained tokens;
    read_N: int64 (N,), where each is read, and at_predictors whether that is what it is predicted from, or itself. images: of a model
    that reads them, whether any is shown or not. banned_V: int64, tokens without probability.
    """

    token_ids_T: Tensor
    position_ids: Tensor
    layout: attention.Layout
    targets_N: Tensor
    read_N: Tensor
    at_predictors: bool
    images: ImageTensors | None = None
    banned_V: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a stream is made of a batch.

    at_predictors: trained tokens are read where they are predicted; otherwise, as a reward model has it, where they stand.
    is_merged: equal beginnings of its sequences are run over once. multiple: what its length is padded to a multiple of.
    """

    at_predictors: bool = True
    is_merged: bool = True
    multiple: int = 1


def stream_tensors(
    batch: Batch, device: torch.device, backend: str, pixels: PixelReader | None = None, reading: Reading | None = None
) -> Stream:
    """The trained tokens of a batch and all that they see. pixels: of a model that reads images.

    Raises ValueError: the batch shows images, and the model reads text only.
    """
    if batch.images and pixels is None:
        raise ValueError("a batch shows images to a model that reads text only")
    reading = reading or Reading()
    trained_N = np.flatnonzero(batch.loss_weights)
    read_N = batch.predictor_ids[trained_N] if reading.at_predictors else trained_N
    tree = prefix_tree(batch, read_N, is_merged=reading.is_merged).padded(reading.multiple)
    token_ids_T, position_ids, stops_T, targets_N, nodes_N = (
        torch.tensor(values, device=device)
        for values in (
            *(batch.token_ids[tree.places_T], batch.position_ids[..., tree.places_T], tree.stops_T),
            *(batch.token_ids[trained_N], tree.nodes_S[read_N]),
        )
    )
    return Stream(
        token_ids_T=token_ids_T,
        position_ids=position_ids,
        layout=attention.layout_of(stops_T, backend),
        targets_N=targets_N,
        read_N=nodes_N,
        at_predictors=reading.at_predictors,
        images=None if pixels is None else _shown(batch, tree, pixels, device),
        banned_V=torch.tensor(batch.banned_token_ids, device=device) if batch.banned_token_ids else None,
    )


def _shown(batch: Batch, tree: PrefixTree, pixels: PixelReader, device: torch.device) -> ImageTensors:
    """The images that are shown in a tree, in its order."""
    nodes_R, images_R = tree.nodes_S[batch.image_runs[:, 0]].tolist(), batch.image_runs[:, 1].tolist()
    shown = sorted((node, image) for node, image in zip(nodes_R, images_R, strict=True) if node >= 0)
    used = sorted({image for _, image in shown})
    return pixels.tensors([batch.images[image] for image in used], [used.index(image) for _, image in shown], device)


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

    def forward(self, stream: Stream, temperature: float, teaching: Teaching | None = None) -> tuple[Tensor, ...]:
        """Scores the trained positions of a stream.

        Returns float32 log-probabilities (N,), with gradient, and entropies in nats (N,), without; with a teacher two more, as
        `Head.forward` has them.
        """
        scored: tuple[Tensor, ...] = self.head(self.hidden(stream), stream.targets_N, temperature, teaching, stream.banned_V)
        return scored

    def hidden(self, stream: Stream) -> Tensor:
        """The last hidden states (N, H) that the trained positions are predicted from."""
        assert stream.at_predictors
        return _states(self.model, stream)


class AnswerScorer(nn.Module):
    """Scores of the trained positions of one packed stream, each the end of an answer, by a reward model."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Wraps `model` without changing it."""
        super().__init__()
        self.model = model
        self.head = ScalarHead(dict(model.named_children())["score"])

    def forward(self, stream: Stream, *_: object) -> tuple[Tensor, Tensor]:
        """As `TokenScorer.forward`, with scores in place of log-probabilities, and their entropies, which are 0: nothing is chosen."""
        assert not stream.at_predictors
        scores_N: Tensor = self.head(_states(self.model, stream))
        return scores_N, torch.zeros_like(scores_N)


class ScalarHead(nn.Module):
    """Shares the parameters of a linear layer with one output, and computes in float32."""

    def __init__(self, layer: nn.Linear) -> None:
        """`layer`: without bias, as transformers' models have it."""
        super().__init__()
        self.weight = layer.weight

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """Scores (N,)."""
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        return nn.functional.linear(hidden_NH.to(dtype), self.weight.to(dtype))[:, 0]


def _states(model: PreTrainedModel, stream: Stream) -> Tensor:
    """The last hidden states (N, H) where a stream is read; all places lie in the layout's part."""
    part = stream.layout.part
    positions = stream.position_ids[None, ..., part] if stream.position_ids.ndim == 1 else stream.position_ids[:, None, part]
    inputs = {"input_ids": stream.token_ids_T[None, part], "position_ids": positions, "layout": stream.layout, "use_cache": False}
    if stream.images is None:
        hidden_TH: Tensor = model.base_model(**inputs).last_hidden_state[0]
        return hidden_TH[stream.read_N - (part.start or 0)]
    features, unseen = _image_features(model, stream.images)
    hidden_TH = model.base_model(**inputs, mm_encoder_outputs=features).last_hidden_state[0]
    return hidden_TH[stream.read_N] + unseen


def _image_features(model: PreTrainedModel, images: ImageTensors) -> tuple[dict[str, Any], Tensor]:
    """What the language model takes of a stream's images, each encoded once, one entry for every time that one is shown.

    And a 0 that all features are part of: of an image that is shown nowhere too, so that the vision tower has a gradient.
    """
    made = model.base_model.get_image_features(images.pixels, images.grids)
    levels = [made.pooler_output, *(made.get("deepstack_features") or ())]
    if not images.shown_R:
        return {}, 0 * torch.stack([features.sum() for level in levels for features in level]).sum()
    made.pooler_output, *deepstack = [tuple(level[image] for image in images.shown_R) for level in levels]
    if deepstack:
        made.deepstack_features = deepstack
    return {"image": made}, images.pixels.new_zeros(())
