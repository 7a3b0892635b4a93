"""Scoring processes: started when all others are busy, given one episode at a time, killed when they hang.

Consumes: (prompt, episode). Waits for: each judgement, `timeout_s` at most. Produces: one judgement a reward, where a process
that was too slow or died is a `Failure` of the reward that it was at. What happens inside a process is in
`posttrain.rewards.process`; what judgements mean to a group is the manager's.
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from posttrain.errors import RunError, UserError
from posttrain.rewards.base import Failure, Judgement, Score
from posttrain.types import Episode, Prompt

START_S = 120.0
"""Rewards may load models when they are constructed."""
MAX_EPISODES = 5000
"""A process is replaced after this many, so that what a reward leaks stays bounded."""


Judged = tuple[Judgement, dict[str, float]]
"""A judgement and what it took: seconds, and what the reward counts."""


class ScoringProcess:
    """One process and the socket to it."""

    def __init__(self, names: Sequence[str], memory_gb: float) -> None:
        """Starts it; `wait_until_ready` comes next."""
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "posttrain.rewards.process", str(theirs.fileno()), str(memory_gb), *names]
        with theirs:
            self._process = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self.names = list(names)
        self.num_judged = 0

    def wait_until_ready(self) -> None:
        """Until its rewards are constructed.

        Raises UserError: one of them cannot be. RunError: it died, or is not done after two minutes.
        """
        problem = self._receive(START_S)
        if problem is not None:
            text = f"a process for rewards {', '.join(self.names)}: {problem.reason}"
            raise UserError(problem.reason) if problem.is_mistake else RunError(text)

    def judge(self, prompt: Prompt, episode: Episode, timeout_s: float) -> dict[str, Judged]:
        """Judgements and usage by reward, up to the first that is not a score; after a timeout or a crash it has been killed."""
        self.num_judged += 1
        judged: dict[str, Judged] = {}
        try:
            self._connection.send((prompt, episode))
        except OSError:
            return {self.names[0]: (self._crashed(), {})}
        for name in self.names:
            answer = self._receive(timeout_s)
            judged[name] = (answer, {}) if isinstance(answer, Failure) else answer
            if not isinstance(judged[name][0], Score):
                break
        return judged

    @property
    def is_usable(self) -> bool:
        """Whether it takes another episode."""
        return self._process.poll() is None and self.num_judged < MAX_EPISODES

    def kill(self) -> None:
        """Ends it with everything that it started in its session; from any thread."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Ends it and closes the socket; from the thread that talks to it."""
        self.kill()
        self._connection.close()

    def _receive(self, timeout_s: float) -> Any:
        try:
            if self._connection.poll(timeout_s):
                return self._connection.recv()
        except (EOFError, OSError):
            return self._crashed()
        self.kill()
        return Failure("timeout", f"no answer within {timeout_s:g} s")

    def _crashed(self) -> Failure:
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:  # it closed the socket and lives on
            code = 0
        self.kill()
        return Failure("crash", f"its process died with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}")


class ScoringPool:
    """Up to `num_processes` scoring processes behind as many threads."""

    def __init__(self, names: Sequence[str], *, num_processes: int, timeout_s: float, memory_gb: float) -> None:
        """Starts one process, which shows that the rewards can be constructed.

        Raises UserError: one of them cannot.
        """
        self.names = list(names)
        self.timeout_s = timeout_s
        self.memory_gb = memory_gb
        self._alive: set[ScoringProcess] = set()
        self._idle: queue.LifoQueue[ScoringProcess] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        # The threads live as long as the pool: a process is killed by the kernel when the thread that started it ends.
        self._threads = ThreadPoolExecutor(num_processes, thread_name_prefix="scoring")
        try:
            self._threads.submit(self._warm_up).result()
        except (UserError, RunError):
            self.close()
            raise

    def submit(self, prompt: Prompt, episode: Episode) -> "Future[dict[str, Judged]]":
        """Judges an episode as soon as a process is free."""
        return self._threads.submit(self._judge, prompt, episode)

    def close(self) -> None:
        """Kills all processes, whatever they are at."""
        with self._lock:
            self._is_closed = True
            alive = list(self._alive)
        for process in alive:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in alive:
            process.close()

    def _judge(self, prompt: Prompt, episode: Episode) -> dict[str, Judged]:
        process = self._take()
        judged = process.judge(prompt, episode, self.timeout_s)
        if process.is_usable:
            self._idle.put(process)
        else:
            self._end(process)
        return judged

    def _warm_up(self) -> None:
        self._idle.put(self._start())

    def _take(self) -> ScoringProcess:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._start()

    def _start(self) -> ScoringProcess:
        with self._lock:
            if self._is_closed:
                raise RunError("the scoring pool is closed")
            process = ScoringProcess(self.names, self.memory_gb)
            self._alive.add(process)
        try:
            process.wait_until_ready()
        except (UserError, RunError):
            self._end(process)
            raise
        return process

    def _end(self, process: ScoringProcess) -> None:
        process.close()
        with self._lock:
            self._alive.discard(process)
