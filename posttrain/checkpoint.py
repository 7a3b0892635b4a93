"""Checkpoints: folders that are either whole or not there.

A checkpoint is written under a name that nobody reads and renamed when everything in it is on disk, so a kill at any
moment leaves the one before it. `checkpoints/step_N/` holds `deepspeed/` (what resuming needs), `hf/` (a plain Hugging
Face folder) and `state.json` (the driver's own state). What a learner writes into it is the learner's business.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.errors import RunError


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, run_folder: Path, keep: int) -> None:
        """keep: how many of the newest stay."""
        self.folder = run_folder / "checkpoints"
        self.keep = keep

    def write(self, step: int, state: dict[str, Any], save: Callable[[str], None], best: int | None = None) -> Path:
        """Writes checkpoint `step`: `save` fills the folder it is given, `state` (JSON) is the driver's.

        best: the step whose checkpoint stays however old it is, and is found as checkpoints/best.
        """
        draft = self.folder / f".draft_{step}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save(str(draft))
        (draft / "state.json").write_text(json.dumps(state, indent=1))
        _sync_tree(draft)
        final = self.folder / f"step_{step}"
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        _sync(self.folder)
        if best is not None:
            self.name_best(best)
        for old in self.steps()[: -self.keep]:
            if old != best:
                shutil.rmtree(self.folder / f"step_{old}")
        return final

    def name_best(self, step: int) -> None:
        """Lets checkpoints/best point to the checkpoint of `step`."""
        draft = self.folder / ".draft_best"
        draft.unlink(missing_ok=True)
        draft.symlink_to(f"step_{step}")
        draft.replace(self.folder / "best")
        _sync(self.folder)

    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, oldest first."""
        names = [path.name.removeprefix("step_") for path in self.folder.glob("step_*")]
        return sorted(int(name) for name in names if name.isdigit())

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint and the driver's state in it.

        Raises:
            RunError: its state cannot be read.
        """
        steps = self.steps()
        if not steps:
            return None
        path = self.folder / f"step_{steps[-1]}"
        try:
            state: dict[str, Any] = json.loads((path / "state.json").read_text())
        except (OSError, ValueError) as error:
            raise RunError(
                f"checkpoint {path} has no readable state.json ({error}); remove that folder to continue from an earlier one"
            ) from error
        return path, state


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
