"""The configuration's surface: how many keys, what is said about each, and YAML that holds only differences."""

import json
from pathlib import Path

import pytest
import yaml

from posttrain.help import Key, known_keys
from posttrain.run import known_algorithms

KEYS_MAX = 120


@pytest.fixture(scope="module")
def keys() -> dict[str, Key]:
    return known_keys(known_algorithms().values())


def test_number_of_keys(keys: dict[str, Key]) -> None:
    """A key that several algorithms share is learned once."""
    assert len(keys) <= KEYS_MAX


def test_every_key_says_what_it_means(keys: dict[str, Key]) -> None:
    assert [name for name, key in keys.items() if not key.comment] == []


def test_no_key_is_listed_by_two_names_of_one_thing(keys: dict[str, Key]) -> None:
    comments = [key.comment for key in keys.values()]
    assert sorted({comment for comment in comments if comments.count(comment) > 1}) == []


def settings(file: Path) -> dict[str, object]:
    return {f"{file.parent.name}.{key}": value for key, value in (yaml.safe_load(file.read_text()) or {}).items() if key != "defaults"}


def test_yaml_holds_only_known_keys_that_differ_from_their_defaults(root: Path, keys: dict[str, Key]) -> None:
    problems = []
    for file in sorted((root / "configs").glob("*/*.yaml")):
        # A pipeline is a list of command lines, composed by test_pipelines_of_the_toolkit_are_checked.
        for name, value in {} if file.parent.name == "pipeline" else settings(file).items():
            shown = value if isinstance(value, str) else json.dumps(value)
            if name not in keys:
                problems.append(f"{file.relative_to(root)}: unknown key {name}")
            elif keys[name].default == shown:
                problems.append(f"{file.relative_to(root)}: {name}={shown} is the default")
    assert problems == []


def test_every_yaml_file_says_what_it_is_for(root: Path) -> None:
    silent = [file.name for file in (root / "configs").rglob("*.yaml") if not file.read_text().startswith("# ")]
    assert silent == []
