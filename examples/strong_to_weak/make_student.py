"""Makes a smaller model of a larger one: `python make_student.py TEACHER STUDENT [EVERY]`, both Hugging Face folders.

The teacher without every third layer (the second, the fifth, ...; or one of every EVERY), with its embeddings, head, norms, tokenizer
and chat template. Nothing is trained, so what comes out is a start and no model to be used.
"""

import re
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

LAYER = re.compile(r"\.layers\.(\d+)\.")


def make(source: str, target: Path, every: int) -> None:
    """Writes the student whole or not at all; one that is there stays."""
    if target.exists():
        return
    teacher = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    config = teacher.config
    kept = [index for index in range(config.num_hidden_layers) if index % every != 1]
    config.num_hidden_layers = len(kept)
    if "layer_types" in vars(config):
        config.layer_types = [config.layer_types[index] for index in kept]
    student = type(teacher)(config).to(teacher.dtype)
    student.load_state_dict(shortened(teacher.state_dict(), {old: new for new, old in enumerate(kept)}))
    student.generation_config = teacher.generation_config
    draft = target.with_name(f"{target.name}.draft")
    student.save_pretrained(draft)
    AutoTokenizer.from_pretrained(source).save_pretrained(draft)
    draft.rename(target)
    print(f"{target}: layers {', '.join(map(str, kept))} of {source}, {student.num_parameters() / 1e6:.1f} million parameters")


def shortened(weights: dict, places: dict[int, int]) -> dict:
    """The tensors of the layers in `places` under their new numbers, and those of no layer."""
    found = {}
    for name, tensor in weights.items():
        layer = LAYER.search(name)
        if layer is None:
            found[name] = tensor
        elif int(layer[1]) in places:
            found[LAYER.sub(f".layers.{places[int(layer[1])]}.", name)] = tensor
    return found


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3)
