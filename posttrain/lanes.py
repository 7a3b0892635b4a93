"""Processes that do somebody else's work and can be killed: rewards and tools run in them.

Consumes: requests. Waits for: each answer, up to its time-out. Produces: answers, where a process that was too slow or died gives a
`Failure` in place of one. Others are started when all are busy, and replaced after `MAX_REQUESTS`. What happens inside a process is in
`posttrain.lane_process`; what requests and answers mean is their callers' business (`posttrain.rewards.pool`, `posttrain.rollout.desk`).

A process dies with the thread that started it (the kernel's rule), so threads that use a lane have to live as long as the lane.
"""

import contextlib
import itertools
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from posttrain.errors import RunError, UserError

START_S = 120.0
"""What is constructed at the start may load models."""
MAX_REQUESTS = 5000
"""A process is replaced after this many, so that what leaks stays bounded."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What becomes of an exception, a time-out or a dead process.

    kind: "error", "timeout" or "crash". is_mistake: only the user can mend it, and the run ends.
    """

    kind: str
    reason: str
    is_mistake: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a lane's processes are: `python -m MODULE FD MEMORY_GB NAME...` answers requests with what stands behind the names."""

    module: str
    names: tuple[str, ...]
    memory_gb: float


class LaneProcess:
    """One process and the socket to it; several threads may have requests under way in it."""

    def __init__(self, work: Work) -> None:
        """Starts it; `wait_until_ready` comes next."""
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", work.module, str(theirs.fileno()), str(work.memory_gb), *work.names]
        with theirs:
            self._process = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self.work = work
        self.num_requests = 0
        self.num_under_way = 0
        self.is_retired = False
        self._numbers = itertools.count()
        self._starting = threading.Lock()
        self._sending = threading.Lock()
        self._greeting: Any = None
        self._answers: dict[int, queue.SimpleQueue[Any]] = {}
        self._death: Failure | None = None
        self._reader = threading.Thread(target=self._read, name="lane answers", daemon=True)

    def wait_until_ready(self) -> Any:
        """What it says of itself as soon as everything is constructed.

        Raises UserError: something cannot be. RunError: it died, or is not done after two minutes.
        """
        with self._starting:
            if self._greeting is None:
                greeting = self._first_answer()
                if isinstance(greeting, Failure):
                    self.is_retired = True
                    text = f"a process for {', '.join(self.work.names)}: {greeting.reason}"
                    raise UserError(greeting.reason) if greeting.is_mistake else RunError(text)
                self._greeting = greeting
                self._reader.start()
            return self._greeting

    def ask(self, request: Any, timeout_s: float) -> Generator[Any, None, None]:
        """The answers to one request as they come, without end but for a `Failure`, which is the last; close it when there is enough.

        After a timeout nothing more is given to the process: it is killed at once when nothing else is under way, else with the last
        of those.
        """
        self.num_requests += 1
        number, answers = next(self._numbers), queue.SimpleQueue[Any]()
        self._answers[number] = answers
        if self._death is not None:
            answers.put(self._death)
        else:
            with contextlib.suppress(OSError), self._sending:  # when it has died, the reader says so
                self._connection.send((number, request))
        try:
            while True:
                answer = self._next(answers, timeout_s)
                yield answer
                if isinstance(answer, Failure):
                    return
        finally:
            del self._answers[number]

    def _next(self, answers: "queue.SimpleQueue[Any]", timeout_s: float) -> Any:
        try:
            return answers.get(timeout=timeout_s)
        except queue.Empty:
            self.is_retired = True
            return Failure("timeout", f"no answer within {timeout_s:g} s")

    @property
    def is_usable(self) -> bool:
        """Whether it takes another request."""
        return not self.is_retired and self._death is None and self._process.poll() is None and self.num_requests < MAX_REQUESTS

    def kill(self) -> None:
        """Ends it with everything that it started in its session; from any thread."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Ends it and closes the socket."""
        self.kill()
        if self._reader.is_alive():
            self._reader.join()
        self._connection.close()

    def _first_answer(self) -> Any:
        try:
            if self._connection.poll(START_S):
                return self._connection.recv()
        except (EOFError, OSError):
            return self._crashed()
        self.kill()
        return Failure("timeout", f"no answer within {START_S:g} s")

    def _read(self) -> None:
        """Hands answers to those who wait for them, until it dies."""
        try:
            while True:
                number, answer = self._connection.recv()
                if number in self._answers:  # else it came too late
                    self._answers[number].put(answer)
        except (EOFError, OSError):
            self._death = self._crashed()
            for answers in [*self._answers.values()]:
                answers.put(self._death)

    def _crashed(self) -> Failure:
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:  # it closed the socket and lives on
            code = 0
        self.kill()
        return Failure("crash", f"its process died with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}")


class Lane:
    """The processes of some work: num_slots requests under way in all of them, `concurrency` in one."""

    def __init__(self, work: Work, *, num_slots: int, concurrency: int = 1, processes: Iterable[LaneProcess] = ()) -> None:
        """processes: some that do this work already."""
        self.work = work
        self.concurrency = concurrency
        self._slots = threading.BoundedSemaphore(num_slots)
        self._processes = [*processes]
        self._lock = threading.Lock()
        self._is_closed = False

    def start(self) -> Any:
        """Starts a first process; what it says of itself. Raises as `LaneProcess.wait_until_ready` does."""
        with self._process() as process:
            return process.wait_until_ready()

    @contextlib.contextmanager
    def ask(self, request: Any, timeout_s: float) -> Iterator[Iterator[Any]]:
        """Waits for its turn and a process; then the answers, as `LaneProcess.ask` has them."""
        with self._slots, self._process() as process:
            process.wait_until_ready()
            with contextlib.closing(process.ask(request, timeout_s)) as answers:
                yield answers

    def close(self) -> None:
        """Kills all processes."""
        for process in self.hand_over():
            process.close()

    def hand_over(self) -> list[LaneProcess]:
        """Closes the lane, but for its processes, which are somebody else's from here on."""
        with self._lock:
            self._is_closed = True
            processes, self._processes = self._processes, []
        return processes

    @contextlib.contextmanager
    def _process(self) -> Iterator[LaneProcess]:
        """A process with room for one more request; it is ended after the last one when it cannot be used again."""
        with self._lock:
            if self._is_closed:
                raise RunError("the lane is closed")
            with_room = (one for one in self._processes if one.is_usable and one.num_under_way < self.concurrency)
            process = next(with_room, None)
            if process is None:
                process = LaneProcess(self.work)
                self._processes.append(process)
            process.num_under_way += 1
        try:
            yield process
        finally:
            with self._lock:
                process.num_under_way -= 1
                is_done = not process.is_usable and not process.num_under_way and process in self._processes
                if is_done:
                    self._processes.remove(process)
            if is_done:
                process.close()
