"""Running code that nobody has read: without network, under limits, in an empty folder, and gone when it is over.

    outcome = run("print(int(input()) * 2)", stdin="21")
    outcome.reason, outcome.stdout        # "ok", "42\\n"

This is the side that is trusted: it gives the order, reads what is printed, and cleans up. The doors are shut and the limits
held by a process of its own (`child`, which says what each protection is against), never by a fork of this one, which
may have threads. The program sees the standard library and the system's programs, nothing that pip installed.

A machine gives more or fewer protections; `protections()` and `python -m posttrain.doctor` say which are active. Where they
leave a way out to the network, to this process (its environment, its memory, signals), to files outside the folder, or for a
process to survive, nothing is run: UserError, unless POSTTRAIN_ALLOW_WEAK_SANDBOX=1 says that the machine is expendable.

Left out on purpose: other systems than Linux, other languages than Python (an argument list runs what is in /usr), installed
packages, and GPUs.
"""

import fcntl
import marshal
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast

import posttrain
from posttrain.errors import UserError
from posttrain.sandbox import child

ALLOW_WEAK = "POSTTRAIN_ALLOW_WEAK_SANDBOX"
Reason = Literal["ok", "crash", "timeout", "memory", "output", "disk", "processes"]

# Generous, for a machine that is very busy: neither is a limit of the program's.
_START_S = 60.0
_END_S = 30.0
_STARTER = "import sys; sys.path.append(sys.argv[1]); from posttrain.sandbox import child; child.main()"
_WAYS = {
    "network": "the network",
    "parent": "this process and its environment",
    "files": "files outside its folder",
    "processes": "processes outside, and so survive",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may use: all its processes together, except that a file and the address space (memory_mb) are also each's.

    cpu_s is whole seconds, wall_s seconds from the program's start; mb are 2^20 bytes and kb 2^10. output_kb binds standard
    output and error separately, results_kb the results.
    """

    cpu_s: int = 5
    wall_s: float = 8.0
    memory_mb: int = 512
    num_processes: int = 32
    file_mb: int = 16
    folder_mb: int = 64
    output_kb: int = 64
    results_kb: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended and what it printed.

    reason: "ok" (exit status 0), "crash" (another status or a signal), or the limit that ended it. exit_status: as of
    subprocess, -11 for signal 11; None when a limit ended it. stdout, stderr: at most output_kb each, undecodable bytes replaced.
    results: what was written to descriptor 3. wall_s, cpu_s: of the program, all its processes together. active: the
    protections that were.
    """

    reason: Reason
    exit_status: int | None
    stdout: str
    stderr: str
    results: bytes
    wall_s: float
    cpu_s: float
    active: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protections:
    """What the machine gives. ways_out: what untrusted code could reach all the same; empty means that run() works."""

    active: tuple[str, ...]
    inactive: tuple[str, ...]
    ways_out: tuple[str, ...]


def run(program: str | Sequence[str], *, stdin: str = "", limits: Limits | None = None, has_results: bool = False) -> Outcome:
    """Runs Python source, or an argument list that begins with the path of a program in /usr, to its end.

    An empty source is a program that does nothing. has_results: opens descriptor 3 for writing, apart from all that is printed.
    Whatever the program does is an outcome. Raises UserError: the machine leaves a way out (see above); RuntimeError: the
    sandbox itself broke.
    """
    outcome = _run(program, stdin, limits or Limits(), has_results, os.environ.get(ALLOW_WEAK) == "1")
    if outcome is None:
        raise UserError(
            f"the sandbox leaves a way to {' and to '.join(protections().ways_out)}, so untrusted code is not run: "
            f"see python -m posttrain.doctor, or set {ALLOW_WEAK}=1 on a machine that is expendable"
        )
    return outcome


def protections() -> Protections:
    """Starts a sandbox with an empty program and says which protections it had. Raises UserError, RuntimeError: none starts."""
    outcome = _run("", "", Limits(), False, True)
    assert outcome is not None, "a weak sandbox was allowed and refused"
    inactive = tuple(name for name in child.PROTECTIONS if name not in outcome.active)
    ways_out = tuple(_WAYS[way] for way in child.ways_out(list(outcome.active)))
    return Protections(active=outcome.active, inactive=inactive, ways_out=ways_out)


def _run(program: str | Sequence[str], stdin: str, limits: Limits, has_results: bool, is_weak_allowed: bool) -> Outcome | None:
    """None: the program was not started, because of a way out."""
    if sys.platform != "linux":
        raise UserError(f"the sandbox needs Linux, got {sys.platform}: run the rewards that execute code there")
    folder = tempfile.mkdtemp(prefix="posttrain-sandbox-")
    interpreter = os.path.realpath(sys.executable)
    order = {
        "argv": [interpreter, "-I", "-S", "-X", "utf8", "main.py"] if isinstance(program, str) else list(program),
        "code": (program.encode(errors="replace") or b"\n") if isinstance(program, str) else b"",
        "folder": folder,
        "is_weak_allowed": is_weak_allowed,
        "has_results": has_results,
        "cpu_s": limits.cpu_s,
        "wall_s": limits.wall_s,
        "memory_bytes": limits.memory_mb << 20,
        "num_processes": limits.num_processes,
        "file_bytes": limits.file_mb << 20,
        "folder_bytes": limits.folder_mb << 20,
    }
    try:
        with _Session(interpreter, marshal.dumps(order), stdin.encode(errors="replace")) as session:
            printed, is_flooded = session.read(limits)
    finally:
        _remove(folder)
    if not printed["link"]:
        raise RuntimeError(f"the sandbox ended without a word: {_text(printed['stderr']).strip() or 'it was killed'}")
    report = marshal.loads(printed["link"])
    if report["failure"]:
        raise RuntimeError(f"the sandbox did not start: {report['failure']}")
    if not is_weak_allowed and child.ways_out(report["active"]):
        return None
    return _outcome(report, printed, "output" if is_flooded else report["reason"], limits)


class _Session:
    """The supervisor's process and our ends of its pipes. Leaving it ends the sandbox, whatever state that is in."""

    def __init__(self, interpreter: str, order: bytes, stdin: bytes) -> None:
        root = str(Path(posttrain.__file__).parent.parent)
        with ExitStack() as stack, ExitStack() as theirs:
            link, their_link = socket.socketpair()
            self._link = stack.enter_context(link)
            theirs.enter_context(their_link)
            results_r, results_w = os.pipe()
            self._results = stack.enter_context(open(results_r, "rb", buffering=0))
            theirs.callback(os.close, results_w)
            order_fd, stdin_fd = (theirs.enter_context(_sealed(content)).fileno() for content in (order, stdin))
            self._process = subprocess.Popen(
                [interpreter, "-I", "-S", "-c", _STARTER, root, str(order_fd), str(their_link.fileno()), str(results_w)],
                stdin=stdin_fd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env={},
                start_new_session=True,
                pass_fds=(order_fd, their_link.fileno(), results_w),
            )
            self._ours = stack.pop_all()
        assert self._process.stdout and self._process.stderr
        self._streams: dict[str, IO[bytes] | socket.socket] = {
            "stdout": self._process.stdout,
            "stderr": self._process.stderr,
            "results": self._results,
            "link": link,
        }

    def __enter__(self) -> "_Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()  # the supervisor takes a closed link for the order to stop
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream
            stream.close()

    def read(self, limits: Limits) -> tuple[dict[str, bytes], bool]:
        """All that comes, up to its cap, and whether a cap was passed, which stops the run at once.

        Raises RuntimeError: it never ends.
        """
        kilobytes = {"stdout": limits.output_kb, "stderr": limits.output_kb, "results": limits.results_kb, "link": 1024}
        kept = {name: bytearray() for name in self._streams}
        is_flooded = False
        deadline = time.monotonic() + _START_S + limits.wall_s
        with selectors.DefaultSelector() as selector:
            for name, stream in self._streams.items():
                selector.register(stream, selectors.EVENT_READ, name)
            while selector.get_map():
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the sandbox gave no answer within {_START_S + limits.wall_s:.0f} s and was killed")
                for key, _ in selector.select(timeout=1.0):
                    is_flooded |= _take(selector, key, kept[key.data], kilobytes[key.data] << 10)
                if is_flooded:
                    self._stop()
        return {name: bytes(content) for name, content in kept.items()}, is_flooded

    def _stop(self) -> None:
        with suppress(OSError):  # it ended by itself in between
            self._link.shutdown(socket.SHUT_WR)


def _take(selector: selectors.BaseSelector, key: selectors.SelectorKey, kept: bytearray, cap: int) -> bool:
    """Reads a piece, keeps what fits, forgets a stream that has ended; returns whether there was too much."""
    try:
        piece = os.read(key.fd, 1 << 16)
    except ConnectionResetError:  # the supervisor was killed
        piece = b""
    if not piece:
        selector.unregister(key.fileobj)
    kept += piece[: cap - len(kept) + 1]
    is_too_much = len(kept) > cap
    del kept[cap:]
    return is_too_much


def _outcome(report: dict[str, Any], printed: dict[str, bytes], limit: str, limits: Limits) -> Outcome:
    status = None if limit or report["status"] is None else os.waitstatus_to_exitcode(report["status"])
    stderr = _text(printed["stderr"])
    reason = limit or _reason(status, stderr, report["cpu_s"] >= limits.cpu_s)
    return Outcome(
        reason=cast(Reason, reason),
        exit_status=status,
        stdout=_text(printed["stdout"]),
        stderr=stderr,
        results=printed["results"],
        wall_s=report["wall_s"],
        cpu_s=report["cpu_s"],
        active=tuple(sorted(report["active"], key=child.PROTECTIONS.index)),
    )


def _reason(status: int | None, stderr: str, is_cpu_used_up: bool) -> Reason:
    if status == 0:
        return "ok"
    if status == -signal.SIGXCPU or (status == -signal.SIGKILL and is_cpu_used_up):
        return "timeout"
    # No status: init itself was killed, which nobody but the kernel does, and only for memory.
    if status is None or stderr.rstrip().rpartition("\n")[2].startswith("MemoryError"):
        return "memory"
    return "crash"


def _sealed(content: bytes) -> BinaryIO:
    """A file in memory, at its start, that nobody can change any more."""
    file = os.fdopen(os.memfd_create("posttrain-sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
    file.write(content)
    file.seek(0)  # which also writes what is buffered
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return file


def _remove(folder: str) -> None:
    """Removes the folder and whatever a program without private files has left there, never what a link in it points to."""
    with suppress(OSError):
        os.rmdir(folder)
        return
    # Not shutil.rmtree, which recurses: a program can nest folders deeper than that.
    for command in (
        ["find", folder, "-type", "d", "!", "-perm", "-u=rwx", "-exec", "chmod", "u+rwx", "{}", ";"],
        ["rm", "-rf", "--", folder],
    ):
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _text(printed: bytes) -> str:
    return printed.decode(errors="replace")
