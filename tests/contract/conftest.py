"""The source tree as the contract tests see it: every Python file of ours outside tests/, parsed once."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("posttrain", "rewards", "rollout", "algorithms", "configs")


@dataclass(frozen=True)
class Source:
    """One file: its path below the root, its import name ("" for a script of examples/ or benchmarks/), text and tree."""

    path: Path
    module: str
    text: str
    tree: ast.Module


def _module(path: Path) -> str:
    if path.parts[0] not in PACKAGES:
        return ""
    parts = path.with_suffix("").parts
    dotted = ".".join(parts if parts[0] == "posttrain" else ("posttrain", *parts))
    return dotted.removesuffix(".__init__")


def read_sources(root: Path) -> list[Source]:
    """os.walk does not follow links, so a package linked into posttrain/ is seen once, in its own folder."""
    paths = []
    for folder in (*PACKAGES, "examples", "benchmarks"):
        for place, subfolders, files in os.walk(root / folder):
            subfolders[:] = [name for name in subfolders if name != "__pycache__"]
            paths += [Path(place, name).relative_to(root) for name in files if name.endswith(".py")]
    return [Source(p, _module(p), text := (root / p).read_text(), ast.parse(text, str(p))) for p in sorted(paths)]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    return read_sources(ROOT)


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs this interpreter in an empty folder that is not the clone."""

    def run(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = [sys.executable, *arguments]
        whole = {**os.environ, **(env or {})}
        return subprocess.run(command, cwd=cwd or tmp_path, env=whole, capture_output=True, text=True, timeout=120, check=False)

    return run
