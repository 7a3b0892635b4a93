"""Where a run's numbers are written: `metrics.jsonl`, one JSON object a step, and TensorBoard."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from posttrain.files import whole
from posttrain.stats import Row


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and TensorBoard; on resuming, rows after the checkpoint are dropped first."""

    def __init__(self, folder: Path, *, resumed_step: int) -> None:
        """Opens the files of a run that has `resumed_step` finished steps behind it (0: a fresh run)."""
        self._path = folder / "metrics.jsonl"
        _keep_rows_up_to(self._path, resumed_step)
        self._events = EventFileWriter(str(folder / "tensorboard"))
        if resumed_step:
            self._events.add_event(Event(step=resumed_step + 1, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))

    def write(self, row: Mapping[str, float | int]) -> None:
        """Appends one row, which holds `step`; it is on disk when this returns."""
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in row.items() if name != "step"]
        self._events.add_event(Event(step=int(row["step"]), wall_time=time.time(), summary=Summary(value=values)))
        self._events.flush()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes TensorBoard's file."""
        self._events.close()


def read_rows(path: Path) -> list[Row]:
    """The whole rows of a metrics file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _keep_rows_up_to(path: Path, step: int) -> None:
    rows = [row for row in read_rows(path) if row["step"] <= step]
    with whole(path) as draft:
        draft.write_text("".join(json.dumps(row) + "\n" for row in rows))
