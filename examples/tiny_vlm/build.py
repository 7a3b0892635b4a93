"""The model before training: configuration, tokenizer, image processor, random weights."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.utils.chat_template_utils import render_jinja_template

from posttrain.builtin_vision import CHAT_TEMPLATE, NUM_CONTROL_TOKENS, SPECIAL_TOKENS, config_of, draw_weights, rotary

VIEW = 128
"""Pixels of a side: a picture of any size, and a crop, is shown as a square of so many."""
CONTROL_TOKENS, MARKUP_TOKENS = SPECIAL_TOKENS[:NUM_CONTROL_TOKENS], SPECIAL_TOKENS[NUM_CONTROL_TOKENS:]
MAX_VOCABULARY = 2048
MIN_FREQUENCY = 60
"""Of a merge in the corpus: what every prompt holds becomes a few long tokens, and what varies stays apart."""


def plain_texts(dialogues: Iterable[tuple[list[dict[str, Any]], list[dict[str, Any]]]]) -> Iterator[str]:
    """Messages and tools as the chat template renders them."""
    for messages, tools in dialogues:
        yield render_jinja_template([messages], tools=tools or None, chat_template=CHAT_TEMPLATE)[0][0]


def make_processor(texts: Iterable[str]) -> Qwen3VLProcessor:
    """Tokenizer and image processor; the tokenizer is made for what `texts` hold."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_train_bpe(texts), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in MARKUP_TOKENS])
    pixels = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": VIEW**2, "longest_edge": VIEW**2}, **pixels),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
    )


def _train_bpe(texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE. A run of digits, a run of line ends and all that stands between them are pieces of their own."""
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(r"\d+|\n+|[^\d\n]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_parts(texts), trainer)
    return tokenizer


def _parts(texts: Iterable[str]) -> Iterator[str]:
    """The texts without special tokens, which are no part of any merge."""
    special = re.compile("|".join(re.escape(token) for token in (*CONTROL_TOKENS, *MARKUP_TOKENS)))
    for text in texts:
        yield from filter(None, special.split(text))


def make_model(tokenizer: Any, seed: int) -> Qwen3VLForConditionalGeneration:
    """About 3 million random weights."""
    text = {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": rotary(1e5),
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_heads": 3,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config_of(tokenizer, text, vision))
    draw_weights(model)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model
