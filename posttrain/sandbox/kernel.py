"""Calls of the Linux kernel that Python 3.11 has no function for: namespaces, mounts, prctl, the system call filter, Landlock.

Each call does one thing and raises OSError where the kernel refuses; which of them a sandbox needs, and what it does without,
is decided in `child`. Kept to the standard library, and to modules of it that load in a few milliseconds (no typing,
no dataclasses, no json), because every sandbox imports it anew.

Left out on purpose: cgroups, which a container can rarely create, and every architecture but x86_64 and aarch64, on which
the filter is absent and says so.
"""

import ctypes
import errno
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SECCOMP, _SET_SUBREAPER, _SET_NO_NEW_PRIVILEGES = 1, 4, 22, 36, 38

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Refused to every program, as (number on x86_64, number on aarch64). A socket is refused even inside a network namespace:
# not every address family (vsock) is bound to one. io_uring would make all these calls past the filter.
_REFUSED = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "personality": (135, 92),
    # Memory that no limit of a process counts and that outlives it.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
# Refused as well where others run under the same user and could be reached by their process id.
_REFUSED_BESIDE_OTHERS = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
# (numbers, argument, mask, the one masked value that is let through): no namespace by clone, no limits of another process, and
# of the socket pairs only streams, which are bound to each other and cannot be pointed elsewhere.
_CONDITIONS = (((56, 220), 0, 0x7E020000, 0), ((302, 261), 0, 0xFFFFFFFF, 0), ((53, 199), 1, 0xFF, 1))
# The C library falls back to clone, whose flags a filter can read.
_CLONE3 = 435

_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_X32 = 0x40000000

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER, _MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE, _IOCTL = 1, 2, 4, 8, 1 << 6, 1 << 11, 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE


def machine() -> str:
    """The architecture as the kernel names it, such as x86_64."""
    return os.uname().machine


def unshare(flags: int) -> None:
    """Moves the calling process (for NEW_PIDS: its later children) into new namespaces. Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mounts, remounts or binds; see mount(2). Raises OSError."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(result, f"mount {target}")


def bind_read_only(source: str, target: str) -> None:
    """Shows a file or folder at `target`, which exists, without writing, devices or setuid programs. Raises OSError."""
    mount(source, target, "", BIND | RECURSIVE)
    # A user namespace may not take away what the mount already forbids, so noexec is passed on.
    kept = NO_EXEC if os.statvfs(source).f_flag & os.ST_NOEXEC else 0
    mount("", target, "", REMOUNT | BIND | READ_ONLY | NO_SETUID | NO_DEVICES | kept)


def enter_root(folder: str) -> None:
    """Makes a mount point the root of the file system, and lets go of everything outside. Raises OSError."""
    os.chdir(folder)
    number = _PIVOT_ROOT.get(machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"pivot_root is not known for {machine()}")
    _checked(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    leave_mount(".")
    os.chdir("/")


def leave_mount(target: str) -> None:
    """Unmounts at once, whoever still uses it. Raises OSError."""
    _checked(_libc.umount2(target.encode(), _DETACH), f"umount {target}")


def die_with_parent(signal_number: int) -> None:
    """The signal that comes when the parent ends; a change of user forgets it."""
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal_number)


def hide_from_same_user() -> None:
    """Memory, environment and descriptors of this process can no longer be read by others of its user; exec undoes it."""
    _prctl(_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Whatever loses its parent below this process becomes its child."""
    _prctl(_SET_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """From here on no setuid program gives rights; the system call filter and Landlock ask for it."""
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)


def filter_system_calls(is_beside_others: bool) -> bool:
    """Refuses sockets, debugging, mounts, namespaces and shared memory with EPERM, for this process and all that come of it.

    is_beside_others: processes of the same user can be named by id, so signals are refused too. False: an unknown architecture.
    Raises OSError: the kernel takes no filter.
    """
    column = {"x86_64": 0, "aarch64": 1}.get(machine())
    if column is None:
        return False
    refused = {**_REFUSED, **_REFUSED_BESIDE_OTHERS} if is_beside_others else _REFUSED
    program = _op(_LOAD, 4) + _op(_IF_EQUAL, _AUDIT_ARCH[machine()], 1, 0) + _op(_RETURN, _KILL) + _op(_LOAD, 0)
    if machine() == "x86_64":
        program += _op(_IF_AT_LEAST, _X32, 0, 1) + _op(_RETURN, _ERROR | errno.EPERM)
    program += _op(_IF_EQUAL, _CLONE3, 0, 1) + _op(_RETURN, _ERROR | errno.ENOSYS)
    for numbers in refused.values():
        program += _op(_IF_EQUAL, numbers[column], 0, 1) + _op(_RETURN, _ERROR | errno.EPERM)
    for numbers, argument, mask, let_through in _CONDITIONS:
        program += _op(_IF_EQUAL, numbers[column], 0, 5) + _op(_LOAD, 16 + 8 * argument) + _op(_AND, mask)
        program += _op(_IF_EQUAL, let_through, 1, 0) + _op(_RETURN, _ERROR | errno.EPERM) + _op(_LOAD, 0)
    program += _op(_RETURN, _ALLOW)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    program_header = ctypes.create_string_buffer(header, len(header))
    _prctl(_SET_SECCOMP, 2, ctypes.addressof(program_header))
    return True


def landlock(readable: list[str], writable: list[str]) -> int:
    """Forbids every file but these and what is below them, to this process and all that come of it.

    Returns the version of the kernel's Landlock; 0 where there is none, and then nothing is forbidden. From 4 on it refuses TCP
    too, from 6 on signals to processes outside. Raises OSError.
    """
    version: int = _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_long(0), ctypes.c_long(1))
    if version < 1:
        return 0
    rights = (1 << min(16, {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16))) - 1
    handled = struct.pack("QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    handled = handled[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = _checked(_libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), handled, ctypes.c_long(len(handled)), ctypes.c_long(0)), "landlock")
    for path in readable:
        _allow(rules, path, rights & (_EXECUTE | _READ_FILE | _READ_FOLDER))
    for path in writable:
        _allow(rules, path, rights & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL))
    _checked(_libc.syscall(ctypes.c_long(_LANDLOCK_RESTRICT), ctypes.c_long(rules), ctypes.c_long(0)), "landlock")
    os.close(rules)
    return version


def _allow(rules: int, path: str, rights: int) -> None:
    target = os.open(path, os.O_PATH)
    rights = rights if os.path.isdir(path) else rights & _FILE_RIGHTS
    rule = struct.pack("=Qi", rights, target)
    result = _libc.syscall(ctypes.c_long(_LANDLOCK_ADD), ctypes.c_long(rules), ctypes.c_long(1), rule, ctypes.c_long(0))
    _checked(result, f"landlock {path}")
    os.close(target)


def _op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    words = [ctypes.c_ulong(word) for word in (value, pointer, 0, 0)]
    _checked(_libc.prctl(option, *words), f"prctl {option}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
