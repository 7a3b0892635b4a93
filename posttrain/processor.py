"""What the processor of this machine is good at."""

import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors that multiply in bfloat16: x86's two, and ARM's."""


def fast_dtype(has_gpu: bool) -> str:
    """bfloat16 on GPUs and on processors with instructions for it, else float32.

    Without them PyTorch's bfloat16 products are slow as nothing else is: in a learner's backward pass on a processor that has
    AVX2 alone they ran at 1.2 GFLOP/s, float32's at 75 (2026-11-30).
    """
    return "bfloat16" if has_gpu or _multiplies_bfloat16() else "float32"


def _multiplies_bfloat16() -> bool:
    """False where nothing is known."""
    if not CPUINFO.exists():
        return False
    cores = re.findall(r"^(?:flags|Features)\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE)
    return bool(cores) and all(BFLOAT16 & set(flags.split()) for flags in cores)
