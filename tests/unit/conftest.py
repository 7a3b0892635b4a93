"""Fixtures of the unit tests: nothing here starts Ray, vLLM or DeepSpeed."""

import runpy
import sys
from pathlib import Path

import pytest

JUDGE_SERVER = str(Path(__file__).with_name("judge_server.py"))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution on sys.path: install(name, {entry point: value}, version=, site=, group=, module=source, ...)."""
    installed: set[str] = set()

    def put(
        name: str,
        entry_points: dict[str, str],
        *,
        version: str = "1.0",
        site: str = "lib",
        group: str = "posttrain.rewards",
        **modules: str,
    ) -> Path:
        folder = tmp_path / site
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{entry} = {value}" for entry, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
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
    server = runpy.run_path(JUDGE_SERVER)["JudgeServer"]()
    yield server
    server.close()


@pytest.fixture
def bench(tmp_path):
    """What a step of curation may use, in a folder of its own; it says nothing."""
    from posttrain.curate.base import Bench

    return Bench(seed=0, folder=tmp_path / "step", base=tmp_path, say=lambda text: None)


@pytest.fixture
def judge_environment(server, monkeypatch, tmp_path):
    """The judge's server, as the POSTTRAIN_JUDGE_ variables name it, with a cache of its own."""
    for name, value in {"URL": server.url, "MODEL": "judge-1", "CACHE": str(tmp_path / "answers"), "DEADLINE": "5"}.items():
        monkeypatch.setenv(f"POSTTRAIN_JUDGE_{name}", value)
    return server


@pytest.fixture
def judge_says():
    """judge_says(text or dict, status=): the reply of a judge's server that says it."""
    return runpy.run_path(JUDGE_SERVER)["says"]
