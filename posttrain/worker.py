"""The process of every actor: a log file, a worker built inside, and a count of its progress that the driver watches."""

import importlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Where an actor lives, for messages and for ending it."""

    name: str
    pid: int
    host: str
    node_id: str
    log_path: str


class Worker:
    """Base of the engine and the learner: counts finished pieces of work, and the time spent computing.

    The driver looks at the count while a call is under way; a call that never moves it within `cluster.deadline_s` is
    taken for hung.
    """

    def __init__(self) -> None:
        """Nothing done yet."""
        self.progress = 0
        self._busy_s = 0.0

    def advance(self) -> None:
        """Counts one piece of finished work."""
        self.progress += 1

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Counts the block's wall time as computation."""
        started = time.monotonic()
        yield
        self._busy_s += time.monotonic() - started

    def take_busy_seconds(self) -> float:
        """Seconds of computation since the last time."""
        taken, self._busy_s = self._busy_s, 0.0
        return taken


class Host:
    """The Ray actor. It imports its worker's module itself, so that the driver need not load vLLM or DeepSpeed."""

    def __init__(self, name: str, log_path: str, target: str, spec: Any) -> None:
        """Sends this process's output, native code's included, to `log_path` on its own node, then builds the worker.

        target: "module:Class" of a Worker that takes `spec`.
        """
        _redirect_output(log_path)
        node_id = ray.get_runtime_context().get_node_id()
        self._info = WorkerInfo(name=name, pid=os.getpid(), host=socket.gethostname(), node_id=node_id, log_path=log_path)
        module, _, class_name = target.partition(":")
        self._worker: Any = vars(importlib.import_module(module))[class_name](spec)

    def info(self) -> WorkerInfo:
        """Who and where this actor is."""
        return self._info

    def progress(self) -> int:
        """Pieces of work finished since the actor started; asked from a second thread."""
        return int(self._worker.progress)

    def invoke(self, method: str, *args: Any) -> Any:
        """Calls a method of the worker."""
        return getattr(self._worker, method)(*args)

    def stream(self, method: str, *args: Any) -> Iterator[Any]:
        """Calls a method of the worker that yields."""
        for item in getattr(self._worker, method)(*args):  # not `yield from`: Ray sends into the generator
            yield item


def _redirect_output(log_path: str) -> None:
    Path(log_path).parent.mkdir(parents=True, exist_ok=True)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(log, descriptor)
    os.close(log)
