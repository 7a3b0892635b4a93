"""The layout of the tree: links, import guards, and what every package says about itself."""

import ast
from pathlib import Path

import pytest

LINKED = ("rewards", "rollout", "algorithms", "configs")


@pytest.mark.parametrize("name", LINKED)
def test_link_resolves_to_the_folder_at_the_root(root: Path, name: str) -> None:
    link = root / "posttrain" / name
    assert link.is_symlink(), f"posttrain/{name} is no link: the clone was made without symbolic links"
    assert link.readlink() == Path("..", name)
    assert link.resolve() == root / name


@pytest.mark.parametrize("name", LINKED)
def test_bare_import_is_refused(root: Path, python, name: str) -> None:
    result = python("-c", f"import {name}", cwd=root)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"ImportError: import posttrain.{name}, not {name}")


@pytest.mark.parametrize("name", LINKED)
def test_own_folder_of_that_name_does_not_get_in_the_way(python, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("mine = True\n")
    result = python("-c", f"import {name}, posttrain.{name}; print({name}.mine, posttrain.{name}.__name__)")
    assert result.stdout.split() == ["True", f"posttrain.{name}"], result.stderr


def test_packages_say_what_they_are(sources) -> None:
    packages = [source for source in sources if source.path.name == "__init__.py"]
    assert {source.module for source in packages} >= {"posttrain", *(f"posttrain.{name}" for name in LINKED)}
    assert [source.path for source in packages if not ast.get_docstring(source.tree)] == []
