"""Which dtype `model.dtype=auto` is, by what /proc/cpuinfo says."""

import pytest

from posttrain import processor
from posttrain.run import known_algorithms, make_config

AVX2 = "processor\t: 0\nflags\t\t: fpu sse2 fma avx2 vaes\nbugs\t\t: bf16\n"
AVX512 = "processor\t: 0\nflags\t\t: fpu avx2 avx512bw avx512_bf16\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [(AVX512, "bfloat16"), (ARM, "bfloat16"), (AVX2, "float32"), (AVX512 + AVX2, "float32"), ("", "float32"), (None, "float32")],
)
def test_auto_is_what_every_core_multiplies_in(monkeypatch, tmp_path, cpuinfo, expected):
    described = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        described.write_text(cpuinfo)
    monkeypatch.setattr(processor, "CPUINFO", described)
    assert processor.fast_dtype(has_gpu=False) == expected
    assert processor.fast_dtype(has_gpu=True) == "bfloat16"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [([], "float32"), (["cluster.engine_gpus=1"], "bfloat16"), (["model.dtype=bfloat16"], "bfloat16"), (["model=tiny"], "float32")],
)
def test_a_configuration_names_the_dtype(monkeypatch, tmp_path, overrides, expected):
    described = tmp_path / "cpuinfo"
    described.write_text(AVX2)
    monkeypatch.setattr(processor, "CPUINFO", described)
    config = make_config(["algo=sapo", *overrides], known_algorithms(), None, None)
    assert config.model.dtype == expected
