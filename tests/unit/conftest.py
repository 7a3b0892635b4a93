"""Fixtures of the unit tests: nothing here starts Ray, vLLM or DeepSpeed."""

import runpy
import sys
from pathlib import Path

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution on sys.path: install(name, {entry point: value}, version=, site=, module=source, ...)."""
    installed: set[str] = set()

    def put(name: str, entry_points: dict[str, str], *, version: str = "1.0", site: str = "lib", **modules: str) -> Path:
        folder = tmp_path / site
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{entry} = {value}" for entry, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[posttrain.rewards]", *lines, ""]))
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(source)
            installed.add(module)
        if str(folder) not in sys.path:
            monkeypatch.syspath_prepend(str(folder))
        return folder

    yield put
    for module in installed:
        sys.modules.pop(module, None)


@pytest.fixture
def server():
    """A judge's server on the loopback (`judge_server.py`)."""
    server = runpy.run_path(str(Path(__file__).with_name("judge_server.py")))["JudgeServer"]()
    yield server
    server.close()
