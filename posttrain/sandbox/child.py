"""The inside of a sandbox: started as a fresh interpreter for each run, it shuts the doors, starts the program and watches it.

Three processes: the supervisor stays outside and enforces limits; `init`, its child, builds the program's file system and reaps
orphans; the program is init's child. What shuts which door:

- namespaces of its own for network, processes and System V memory: no connection out, no process outside can be named, and
  the end of init is the end of everything;
- private files: a root of its own in memory, with the interpreter and the system's libraries read-only, no /proc, and one
  small writable folder. Nothing outside can be read, and a full disk is a full 64 MB;
- a user of its own (started as root): nothing outside may be signalled or read, and the limit on processes counts its alone;
- the system call filter: no sockets of any family, no debugging, no mounts, no shared memory;
- Landlock: the files again, by another mechanism, and the only one where mounts are refused;
- resource limits for one process, and for all together the supervisor's counting of CPU time, memory, processes and disk.

A door that the machine does not let us shut is left out of `active`; `ways_out` says what that leaves open. Kept to the
standard library and to modules that load fast. Left out on purpose: reading the program's output, which the parent does.
"""

import fcntl
import marshal
import os
import resource
import signal
import sys
import time
from collections.abc import Callable

from posttrain.sandbox import kernel, watch
from posttrain.sandbox.watch import Order

NETWORK, PROCESSES, IPC, FILES = "network namespace", "process namespace", "ipc namespace", "private files"
USER, PRIVILEGES, FILTER, LANDLOCK, LIMITS = "own user", "no new privileges", "system call filter", "landlock", "resource limits"
PROTECTIONS = (NETWORK, PROCESSES, IPC, FILES, USER, PRIVILEGES, FILTER, LANDLOCK, LIMITS)
RESULTS_FD = 3

_NOBODY = 65534
# Plus the supervisor's process id: a user that no other run has at the same time, far above those that people are given.
_FIRST_USER = 1_800_000_000
_SYSTEM_FOLDERS = ("/usr", "/bin", "/lib", "/lib64")
_SYSTEM_FILES = ("/etc/ld.so.cache",)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def ways_out(active: list[str]) -> list[str]:
    """What untrusted code could still reach: any of "network", "parent", "files", "processes"; empty for a tight sandbox."""
    shut = {
        "network": NETWORK in active or FILTER in active,
        "parent": USER in active or (PROCESSES in active and FILES in active) or (LANDLOCK in active and FILTER in active),
        "files": FILES in active or LANDLOCK in active,
        "processes": PROCESSES in active or USER in active or FILTER in active,
    }
    return [name for name, is_shut in shut.items() if not is_shut]


class Run:
    """What the processes of one sandbox know of each other. Copied at every fork, so what is added later stays below.

    user: the user of its own, 0 for none. others: tasks of the same user outside. active: doors that are shut so far.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.others = watch.num_tasks_of_user() if os.geteuid() else 0
        self.active = _isolate()
        self.user = _own_user()
        self.report_r, self.report_w = os.pipe()
        self.status_r, self.status_w = os.pipe()


def main() -> None:
    """Runs the order of descriptor argv[2], reports over the socket argv[3], hands the program argv[4] for its results."""
    order, link_fd = _take_descriptors(*(int(word) for word in sys.argv[2:5]))
    # Not killed with the parent, as everything below is: it sees the link close, and then has an end to make.
    kernel.adopt_orphans()
    try:
        message = _supervise(Run(order), link_fd)
    except Exception as error:  # whatever it is, the parent has to hear of it, and this process has no other voice
        message = {"failure": f"{type(error).__name__}: {error}"}
    try:
        os.write(link_fd, marshal.dumps(message))
    except BrokenPipeError:  # the parent is gone and will not clean up
        os.execv("/bin/rm", ["rm", "-rf", "--", order.folder])
    os._exit(0)


def _supervise(run: Run, link_fd: int) -> dict[str, object]:
    init = os.fork()
    if init == 0:
        _close(link_fd, run.report_r, run.status_r)
        _guarded(run, lambda: _init(run))
    _close(run.report_w, run.status_w, RESULTS_FD, 0, 1, 2)
    kernel.hide_from_same_user()
    try:
        report = _read_all(run.report_r)  # ends when the program starts, or when something before it has failed
        active, failure = marshal.loads(report) if report else (run.active, "it was killed while it started")
        started = time.monotonic()
        reason = watch.wait(watch.Meter(run.order, init, watches_disk=FILES not in active), link_fd)
        wall_s = time.monotonic() - started
    finally:
        watch.end_everything(init, 0 if PROCESSES in run.active else run.user)
    status = _read_all(run.status_r)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "active": active,
        "failure": failure,
        "reason": reason,
        "status": int(status) if status else None,
        "wall_s": wall_s,
        "cpu_s": used.ru_utime + used.ru_stime,
    }


def _take_descriptors(order_fd: int, link_fd: int, results_fd: int) -> tuple[Order, int]:
    """Reads the order, puts the results on their number, and leaves nothing open that an exec would pass on."""
    order = Order(_read_all(order_fd))
    link, results = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, RESULTS_FD + 1) for fd in (link_fd, results_fd))
    _close(order_fd, link_fd, results_fd)
    os.dup2(results, RESULTS_FD, inheritable=order.has_results)
    _close(results)
    return order, link


def _isolate() -> list[str]:
    """Enters the namespaces that the machine allows, through a user namespace where this is not root."""
    if os.geteuid() != 0 and _can_be_root_of_its_own():
        _enter_user_namespace()
    active = []
    for name, flag in {NETWORK: kernel.NEW_NETWORK, IPC: kernel.NEW_IPC | kernel.NEW_UTS, PROCESSES: kernel.NEW_PIDS}.items():
        try:
            kernel.unshare(flag)
        except OSError:
            continue
        active.append(name)
    return active


def _can_be_root_of_its_own() -> bool:
    """Whether a user namespace is given and gives rights; tried in a process of its own, since there is no way back."""
    probe = os.fork()
    if probe:
        return os.waitpid(probe, 0)[1] == 0
    try:
        _enter_user_namespace()
        kernel.unshare(kernel.NEW_MOUNTS)
    except OSError:
        os._exit(1)
    os._exit(0)


def _enter_user_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEW_USER)
    # Mapped to nobody, not to root: the program's exec then drops every right inside the namespace.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{_NOBODY} {user} 1"), ("gid_map", f"{_NOBODY} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _own_user() -> int:
    """The user id for this run; 0 when this is not root and cannot take one. Raises OSError: root that cannot either."""
    if os.geteuid() != 0:
        return 0
    user = _FIRST_USER + os.getpid()
    with open("/proc/self/uid_map") as file:
        ranges = [[int(word) for word in line.split()] for line in file]
    if not any(first <= user < first + length for first, _, length in ranges):
        raise OSError(f"user {user} does not exist in this container: give it all user ids, or run as somebody else than root")
    return user


def _init(run: Run) -> None:
    """Builds the file system, starts the program, reaps what it leaves, and ends when it ends."""
    os.umask(0o022)
    kernel.die_with_parent(signal.SIGKILL)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when the machine runs out of memory, this goes first
    readable = _readable()
    folder = _build_files(run.order, readable, run.user)
    if folder:
        run.active.append(FILES)
    elif run.user:
        os.chown(run.order.folder, run.user, run.user)
    folder = folder or run.order.folder
    _write_program(run.order, folder, run.user)
    kernel.hide_from_same_user()
    program = os.fork()
    if program == 0:
        _guarded(run, lambda: _become(run, readable, folder))
    _close(run.report_w, RESULTS_FD, 0, 1, 2)
    child, status = os.wait()
    while child != program:
        child, status = os.wait()
    os.write(run.status_w, str(status).encode())
    os._exit(0)


def _readable() -> list[str]:
    """Files and folders without which the interpreter and the system's programs do not start."""
    with open("/proc/self/maps") as file:
        mapped = {line.split(maxsplit=5)[5].strip() for line in file if "/" in line}
    folders = [*_SYSTEM_FOLDERS, os.path.dirname(os.path.realpath(os.__file__))]
    needed = sorted({os.path.dirname(path) for path in mapped if ".so" in path and os.path.exists(path)})
    folders += [path for path in needed if not any(path.startswith(f"{folder}/") for folder in folders)]
    paths = [*folders, *_SYSTEM_FILES, *_DEVICES, os.path.realpath(sys.executable)]
    known = [path for path in paths if os.path.exists(path)]
    return [path for path in known if not any(path.startswith(f"{other}/") for other in known if not os.path.islink(other))]


def _build_files(order: Order, readable: list[str], user: int) -> str:
    """Makes a root of its own of what is readable, and enters it; returns the working folder in it, "" where mounts are refused."""
    try:
        kernel.unshare(kernel.NEW_MOUNTS)  # here and not earlier: the supervisor goes on seeing the machine
        kernel.mount("", "/", "", kernel.PRIVATE | kernel.RECURSIVE)
        kernel.mount("tmpfs", order.folder, "tmpfs", kernel.NO_SETUID | kernel.NO_DEVICES, "mode=0755,size=1m")
    except OSError:
        return ""
    try:
        for path in readable:
            _show(path, order.folder + path)
        work = f"{order.folder}/work"
        os.mkdir(work)
        owner = f",uid={user},gid={user}" if user else ""
        options = f"mode=0700,size={order.folder_bytes},nr_inodes=4096{owner}"
        kernel.mount("tmpfs", work, "tmpfs", kernel.NO_SETUID | kernel.NO_DEVICES, options)
        kernel.mount("", order.folder, "", kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES)
        kernel.enter_root(order.folder)
    except OSError:
        kernel.leave_mount(order.folder)
        return ""
    return "/work"


def _show(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):  # /lib -> usr/lib
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    if source in _DEVICES:
        kernel.mount(source, target, "", kernel.BIND)
    else:
        kernel.bind_read_only(source, target)


def _write_program(order: Order, folder: str, user: int) -> None:
    os.chdir(folder)
    if not order.code:
        return
    with open("main.py", "wb") as file:
        file.write(order.code)
    if user:
        os.chown("main.py", user, user)


def _become(run: Run, readable: list[str], folder: str) -> None:
    """Gives up every right and becomes the program. Raises PermissionError: the program is out of reach for its user."""
    os.setsid()
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if run.user:
        os.setgroups([])
        os.setresgid(run.user, run.user, run.user)
        os.setresuid(run.user, run.user, run.user)
        run.active.append(USER)
    kernel.die_with_parent(signal.SIGKILL)
    _set_limits(run.order, run.others)
    kernel.forbid_new_privileges()
    run.active += [PRIVILEGES, LIMITS]
    _shut_calls(run.active, readable, folder)
    program = run.order.argv[0]
    if not os.access(program, os.X_OK) or not os.access(os.path.dirname(os.__file__), os.R_OK):
        raise PermissionError(f"user {os.getuid()} cannot reach {program}: install it where every user can read it")
    os.write(run.report_w, marshal.dumps((run.active, "")))
    if run.order.is_weak_allowed or not ways_out(run.active):
        os.execve(program, run.order.argv, {})


def _set_limits(order: Order, others: int) -> None:
    limits = {
        resource.RLIMIT_CPU: order.cpu_s,
        resource.RLIMIT_AS: order.memory_bytes,
        # Processes of the same user outside count too; the supervisor counts the run's alone.
        resource.RLIMIT_NPROC: order.num_processes + others,
        resource.RLIMIT_FSIZE: order.file_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for name, amount in limits.items():
        # A second from the signal that can be caught to the one that cannot.
        resource.setrlimit(name, (amount, amount + (name == resource.RLIMIT_CPU)))


def _shut_calls(active: list[str], readable: list[str], folder: str) -> None:
    writable = [folder, *(path for path in _DEVICES if os.path.exists(path))]
    try:
        version = kernel.landlock([path for path in readable if os.path.exists(path)], writable)
    except OSError:
        version = 0
    if version:
        active.append(LANDLOCK)
    is_beside_others = not (PROCESSES in active or USER in active)
    try:
        is_filtered = kernel.filter_system_calls(is_beside_others)
    except OSError:
        is_filtered = False
    if is_filtered:
        active.append(FILTER)


def _guarded(run: Run, action: Callable[[], None]) -> None:
    """Ends this process with the action, and reports to the supervisor what it raises."""
    try:
        action()
    except Exception as error:  # as in main
        os.write(run.report_w, marshal.dumps((run.active, f"{type(error).__name__}: {error}")))
    os._exit(1)


def _read_all(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
