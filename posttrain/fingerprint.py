"""What a stage's result depends on: the values of its configuration, and the content of the files and folders they name.

Two runs with equal fingerprints make the same files. A path counts by what stands there, not by its name, so a folder that
was moved is the same input; a hub name or builtin:<name> counts as itself. Code and the environment are not looked at.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from posttrain.errors import UserError

CHANGES_NOTHING = (
    *("run.dir", "run.resume", "run.checkpoint_every", "run.keep_checkpoints"),
    *("cluster.address", "cluster.deadline_s"),
)
"""Keys that a stage's result does not depend on."""

Fingerprint = dict[str, Any]
"""Full key -> value, or the hash of what it names."""

LONGEST_PATH = 4096
"""Characters; a longer text is none."""
_CHUNK = 1 << 22
_FILES = (".jsonl", ".parquet", ".json", ".yaml", ".yml")
_HASHED = "content "


def fingerprint(values: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of a configuration's values by full key; reads every file that they name."""
    return {key: _content(key, value) for key, value in values.items() if key not in CHANGES_NOTHING}


def check_inputs(values: Mapping[str, Any]) -> None:
    """Raises UserError: a value that can only be a path names nothing. A plain name may be a hub's and passes."""
    single = [(key, one) for key, value in values.items() for one in (value if isinstance(value, list) else [value])]
    for key, value in single:
        if key in CHANGES_NOTHING or not isinstance(value, str) or len(value) > LONGEST_PATH or os.path.exists(os.path.expanduser(value)):
            continue
        if value.startswith(("/", "./", "../", "~")) or ("\n" not in value and value.endswith(_FILES)):
            raise UserError(f"{key}={value}: there is no such file or folder")


def difference(before: Fingerprint, now: Fingerprint) -> str:
    """Names the first key in which two fingerprints differ, in words."""
    key = next(key for key in sorted(before | now) if before.get(key) != now.get(key))
    old, new = before.get(key), now.get(key)
    if _HASHED in str(old) and _HASHED in str(new):
        return f"what {key} names has changed"
    return f"{key} is {new}, was {old}"


def content_hash(path: Path) -> str:
    """xxh3-128 of a file's bytes, or of a folder's file names and their bytes in the order of their names."""
    if path.is_file():
        return _file_hash(path)
    digest = xxhash.xxh3_128()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_file_hash(file)}\0".encode())
    return digest.hexdigest()


def _content(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_content(key, item) for item in value]
    if not isinstance(value, str) or not _may_be_path(key, value):
        return value
    path = os.path.expanduser(value)
    return f"{_HASHED}{content_hash(Path(path))}" if os.path.exists(path) else value


def _may_be_path(key: str, value: str) -> bool:
    """task.name=tests is no path, even beside a folder tests; model.path=tests is one, and so is anything with a separator."""
    return key.endswith("path") or os.sep in value or "." in value


def _file_hash(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
