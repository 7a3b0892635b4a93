"""The supervisor's eyes and hands: what all processes of a sandbox use together, and the end of every one of them.

Limits of the kernel bind one process; these bind the run. They are counted every few milliseconds, so what is used in between
may pass a limit: 50 ms of allocating or writing. Kept to modules that load fast, as is all that a sandbox imports.

Left out on purpose: limits on input and output rates, and any measurement of processes that have already been reaped, but for
their CPU time.
"""

import itertools
import marshal
import os
import select
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.05
_MAX_FILES = 4096
_END_S = 10.0


class Order:
    """What to run and how much of everything it may use; comes from the parent, marshalled.

    code: written to main.py in the working folder; empty for none. folder: an empty folder of the parent's, which becomes the
    mount point of the private files, or the working folder where there are none. is_weak_allowed: runs even with a way out.
    """

    argv: list[str]
    code: bytes
    folder: str
    is_weak_allowed: bool
    has_results: bool
    cpu_s: int
    wall_s: float
    memory_bytes: int
    num_processes: int
    file_bytes: int
    folder_bytes: int

    def __init__(self, packed: bytes) -> None:
        vars(self).update(marshal.loads(packed))


class Meter:
    """Adds up what everything below this process uses; `init` itself is ours and is not counted, but for its CPU time.

    watches_disk: the working folder is an ordinary one, whose size nothing else bounds.
    """

    def __init__(self, order: Order, init: int, watches_disk: bool) -> None:
        self.order = order
        self.init = init
        self.watches_disk = watches_disk

    def excess(self) -> str:
        """Which limit is passed: "timeout", "memory", "processes", "disk", or "" for none."""
        usage = {pid: used for pid in descendants() if (used := _usage(pid))}
        cpu_s = sum(seconds for seconds, _ in usage.values())
        usage.pop(self.init, None)
        if cpu_s > self.order.cpu_s:
            return "timeout"
        if len(usage) > self.order.num_processes:
            return "processes"
        if self._is_memory_full({pid: resident for pid, (_, resident) in usage.items()}):
            return "memory"
        return "disk" if self.watches_disk and self._is_disk_full(list(usage)) else ""

    def last_excess(self) -> str:
        """What still shows when everything has ended: "disk" or ""."""
        return "disk" if self.watches_disk and self._is_disk_full([]) else ""

    def _is_memory_full(self, resident: dict[int, int]) -> bool:
        # Resident sizes count a shared page again for each process; the slower, exact sum is for when they pass the limit.
        limit = self.order.memory_bytes
        return sum(resident.values()) > limit and sum(_proportional_bytes(pid, size) for pid, size in resident.items()) > limit

    def _is_disk_full(self, pids: list[int]) -> bool:
        """What cannot be counted is too much: a folder that was closed to us, or nested deeper than a path can say."""
        total = 0
        try:
            for number, size in enumerate(_file_sizes(self.order.folder, pids)):
                total += size
                if total > self.order.folder_bytes or number >= _MAX_FILES:
                    return True
        except OSError:
            return True
        return False


def wait(meter: Meter, link_fd: int) -> str:
    """Returns when init has ended ("", or "disk"), a limit is passed (its name), or the parent says stop or is gone ("stopped").

    The clock of wall_s starts here.
    """
    deadline = time.monotonic() + meter.order.wall_s
    pause_s = _FIRST_PAUSE_S
    init_fd = os.pidfd_open(meter.init)
    poll = select.poll()
    poll.register(init_fd, select.POLLIN)
    poll.register(link_fd, select.POLLIN | select.POLLHUP)
    while True:
        remaining_s = deadline - time.monotonic()
        ready = [fd for fd, _ in poll.poll(max(0.0, min(pause_s, remaining_s)) * 1000)]
        if init_fd in ready:
            os.close(init_fd)
            return meter.last_excess()
        if link_fd in ready:
            return "stopped"
        reason = "timeout" if remaining_s <= 0 else meter.excess()
        if reason:
            return reason
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def end_everything(init: int, user: int) -> None:
    """Kills and reaps all that is below this process, and all that runs as `user` (0: no user is this run's alone).

    Raises RuntimeError: something is still alive after ten seconds.
    """
    os.kill(init, signal.SIGKILL)  # it is not reaped yet, so the number is still its own
    if user:
        killer = os.fork()
        if killer == 0:
            _kill_all_of(user)
        os.waitpid(killer, 0)
    deadline = time.monotonic() + _END_S
    while _has_children():
        for pid in descendants():
            _kill(pid)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {list(descendants())} cannot be killed")


def descendants() -> Iterator[int]:
    """All processes below this one."""
    waiting = [os.getpid()]
    while waiting:
        found = _children(waiting.pop())
        yield from found
        waiting += found


def num_tasks_of_user() -> int:
    """Threads that run as this user, on all of the machine that can be seen: what the limit on processes is compared with."""
    user = os.getuid()
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            count += len(os.listdir(f"/proc/{name}/task")) if os.stat(f"/proc/{name}").st_uid == user else 0
        except OSError:  # ended in between
            continue
    return count


def _kill_all_of(user: int) -> None:
    os.setresuid(user, user, user)
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os._exit(0)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _has_children() -> bool:
    """Reaps one child, if one has ended; False when none is left."""
    try:
        pid, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    if pid == 0:
        time.sleep(0.0005)
    return True


def _children(pid: int) -> list[int]:
    # One file a thread; a kernel built without them answers with nothing, and then the whole list is read.
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    except FileNotFoundError:
        if os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
            return found
        return [int(name) for name in filter(str.isdigit, os.listdir("/proc")) if _parent(name) == pid]
    except OSError:
        return found
    return found


def _parent(pid: str) -> int:
    try:
        return int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _usage(pid: int) -> tuple[float, int] | None:
    """CPU seconds (children that it reaped included) and resident bytes; None when it has ended."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / _TICKS_PER_S, int(fields[21]) * _PAGE_BYTES


def _proportional_bytes(pid: int, resident: int) -> int:
    """Memory with shared pages divided among those that share them; the resident size where the kernel does not say."""
    try:
        lines = _read(f"/proc/{pid}/smaps_rollup").splitlines()
    except OSError:
        return resident
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _file_sizes(folder: str, pids: list[int]) -> Iterator[int]:
    """Bytes on the disk of everything in the folder, and of files that were deleted and are still open. Raises OSError."""
    waiting = [folder]
    while waiting:
        for entry in _entries(waiting.pop()):
            with suppress(FileNotFoundError):
                yield entry.stat(follow_symlinks=False).st_blocks * 512
            waiting += [entry.path] if entry.is_dir(follow_symlinks=False) else []
    for pid in pids:
        with suppress(FileNotFoundError, PermissionError):
            yield from _deleted_sizes(f"/proc/{pid}/fd")


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(itertools.islice(entries, _MAX_FILES + 1))
    except FileNotFoundError:  # removed in between
        return []


def _deleted_sizes(descriptors: str) -> Iterator[int]:
    for name in os.listdir(descriptors):
        with suppress(FileNotFoundError, PermissionError):
            found = os.stat(f"{descriptors}/{name}")
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                yield found.st_blocks * 512


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
