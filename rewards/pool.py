"""Scoring processes: started when all others are busy, given as many episodes at a time as their rewards take, killed when they hang.

Consumes: (prompt, episode). Waits for: each judgement, `timeout_s` at most. Produces: one judgement a reward, where a process
that was too slow or died is a `Failure` of the reward that it was at. What happens inside a process is in
`posttrain.rewards.process`; what judgements mean to a group is the manager's.

Rewards that take one episode at a time have processes of their own, `num_processes` of them at most. Those that take several
(`Reward.concurrency`: judges, which mostly wait) share one, and see an episode only when all others have scored it.
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
from collections.abc import Iterable, Iterator, Sequence
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
MAX_SHARED = 64
"""Episodes under way in the process of rewards that take several at a time."""

Judged = tuple[Judgement, dict[str, float]]
"""A judgement and what it took: seconds, and what the reward counts."""


class ScoringProcess:
    """One process and the socket to it; several threads may have episodes under way in it."""

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
        self.num_under_way = 0
        self.is_retired = False
        self._numbers = itertools.count()
        self._starting = threading.Lock()
        self._sending = threading.Lock()
        self._concurrency: dict[str, int] | None = None
        self._answers: dict[int, queue.SimpleQueue[Judged | Failure]] = {}
        self._death: Failure | None = None
        self._reader = threading.Thread(target=self._read, name="scoring answers", daemon=True)

    def wait_until_ready(self) -> dict[str, int]:
        """How many episodes each of its rewards takes at a time, as soon as they are constructed.

        Raises UserError: one of them cannot be. RunError: it died, or is not done after two minutes.
        """
        with self._starting:
            if self._concurrency is None:
                answer = self._first_answer()
                if isinstance(answer, Failure):
                    self.is_retired = True
                    text = f"a process for rewards {', '.join(self.names)}: {answer.reason}"
                    raise UserError(answer.reason) if answer.is_mistake else RunError(text)
                self._concurrency = answer
                self._reader.start()
            return self._concurrency

    def judge(self, prompt: Prompt, episode: Episode, timeout_s: float) -> dict[str, Judged]:
        """Judgements and usage by reward, up to the first that is not a score.

        After a timeout nothing more is given to it: it is killed at once when nothing else is under way, else with the last of those.
        """
        self.num_judged += 1
        number, answers = next(self._numbers), queue.SimpleQueue[Judged | Failure]()
        self._answers[number] = answers
        if self._death is not None:
            answers.put(self._death)
        else:
            with contextlib.suppress(OSError), self._sending:  # when it has died, the reader says so
                self._connection.send((number, prompt, episode))
        judged: dict[str, Judged] = {}
        for name in self.names:
            try:
                answer = answers.get(timeout=timeout_s)
            except queue.Empty:
                self.is_retired = True
                answer = Failure("timeout", f"no answer within {timeout_s:g} s")
            judged[name] = (answer, {}) if isinstance(answer, Failure) else answer
            if not isinstance(judged[name][0], Score):
                break
        del self._answers[number]
        return judged

    @property
    def is_usable(self) -> bool:
        """Whether it takes another episode."""
        return not self.is_retired and self._death is None and self._process.poll() is None and self.num_judged < MAX_EPISODES

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


class _Lane:
    """The processes of some rewards: num_slots episodes under way in all of them, `concurrency` in one."""

    def __init__(
        self, names: Sequence[str], *, num_slots: int, concurrency: int, memory_gb: float, processes: Iterable[ScoringProcess] = ()
    ) -> None:
        self.names = list(names)
        self.concurrency = concurrency
        self.memory_gb = memory_gb
        self._slots = threading.BoundedSemaphore(num_slots)
        self._processes = [*processes]
        self._lock = threading.Lock()
        self._is_closed = False

    def start(self) -> dict[str, int]:
        """Starts a first process; how many episodes each reward takes at a time."""
        with self._process() as process:
            return process.wait_until_ready()

    def judge(self, prompt: Prompt, episode: Episode, timeout_s: float) -> dict[str, Judged]:
        """Waits for its turn, then for the judgements."""
        with self._slots, self._process() as process:
            process.wait_until_ready()
            return process.judge(prompt, episode, timeout_s)

    def close(self) -> None:
        """Kills all processes."""
        for process in self.hand_over():
            process.close()

    def hand_over(self) -> list[ScoringProcess]:
        """Closes the lane, but for its processes, which are somebody else's from here on."""
        with self._lock:
            self._is_closed = True
            processes, self._processes = self._processes, []
        return processes

    @contextlib.contextmanager
    def _process(self) -> Iterator[ScoringProcess]:
        """A process with room for one more episode; it is ended after the last one when it cannot be used again."""
        with self._lock:
            if self._is_closed:
                raise RunError("the scoring pool is closed")
            with_room = (one for one in self._processes if one.is_usable and one.num_under_way < self.concurrency)
            process = next(with_room, None)
            if process is None:
                process = ScoringProcess(self.names, self.memory_gb)
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


class ScoringPool:
    """The scoring processes of a task's rewards, behind as many threads as episodes can be under way."""

    def __init__(self, names: Sequence[str], *, num_processes: int, timeout_s: float, memory_gb: float) -> None:
        """Starts one process, which shows that the rewards can be constructed and how many episodes each takes at a time.

        Raises UserError: one of them cannot be.
        """
        self.timeout_s = timeout_s
        self._lanes = [_Lane(names, num_slots=num_processes, concurrency=1, memory_gb=memory_gb)]
        # The threads live as long as the pool: a process is killed by the kernel when the thread that started it ends.
        self._threads = ThreadPoolExecutor(num_processes + MAX_SHARED, thread_name_prefix="scoring")
        try:
            takes = self._threads.submit(self._lanes[0].start).result()
        except (UserError, RunError):
            self.close()
            raise
        shared = [name for name in names if takes[name] > 1]
        if not shared:
            return
        alone, first = [name for name in names if name not in shared], self._lanes.pop()
        if alone:
            first.close()
            self._lanes.append(_Lane(alone, num_slots=num_processes, concurrency=1, memory_gb=memory_gb))
        concurrency, kept = min(MAX_SHARED, *(takes[name] for name in shared)), first.hand_over()
        self._lanes.append(_Lane(shared, num_slots=concurrency, concurrency=concurrency, memory_gb=memory_gb, processes=kept))

    def submit(self, prompt: Prompt, episode: Episode) -> "Future[dict[str, Judged]]":
        """Judges an episode as soon as a process is free."""
        return self._threads.submit(self._judge, prompt, episode)

    def close(self) -> None:
        """Kills all processes, whatever they are at."""
        for lane in self._lanes:
            lane.close()
        self._threads.shutdown(cancel_futures=True)

    def _judge(self, prompt: Prompt, episode: Episode) -> dict[str, Judged]:
        judged: dict[str, Judged] = {}
        for lane in self._lanes:
            judged |= lane.judge(prompt, episode, self.timeout_s)
            if not all(isinstance(judgement, Score) for judgement, _ in judged.values()):
                break
        return judged
