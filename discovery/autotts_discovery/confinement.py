"""What holds a worker on Linux: namespaces, Landlock, seccomp and limits, through `ctypes`.

The standard library only: a worker enters its namespaces before it imports anything else, while it has one thread.
They take its file system, network and sight of other processes away; `restrict` then takes from a single candidate
what the worker still needed itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["LAYERS", "available", "die_with_parent", "enter", "missing", "restrict"]

#: The layers, by name; tests leave single ones out.
LAYERS = ("environment", "limits", "namespaces", "landlock", "seccomp")


def available(readable: Sequence[str]) -> list[str]:
    """Those of `LAYERS` that work on this machine, for a worker that reads these paths."""
    found = ["environment"]
    if sys.platform == "linux":
        found.append("limits")
        if _in_child(lambda: enter(readable)):
            found.append("namespaces")
        if _in_child(lambda: _landlock(readable)):
            found.append("landlock")
        if _in_child(_seccomp):
            found.append("seccomp")
    return found


def missing(layers: Sequence[str]) -> str:
    """What these layers leave open, in words; empty if they are a wall."""
    lacks = {
        "other processes": {"namespaces", "seccomp"},
        "files": {"namespaces", "landlock"},
        "the network": {"namespaces", "seccomp"},
        "memory": {"limits"},
    }
    return ", ".join(what for what, holds in lacks.items() if not holds & set(layers))


def enter(readable: Sequence[str]) -> None:
    """Enters namespaces of its own: an empty network, a tree of `readable` only, which nobody can write to.

    The processes that are started from now on are in a PID namespace, whose first one takes all others with it.

    Raises:
      OSError: if the machine does not allow it; the process is then good for nothing.
    """
    uid, gid = os.getuid(), os.getgid()
    _call(_libc.unshare, sum(_NAMESPACES))
    for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{file}", "w") as written:
            written.write(text)
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp" + _OLD)
    _call(_libc.pivot_root, b"/tmp", b"/tmp" + _OLD.encode())
    os.chdir("/")
    for path in sorted(readable):
        _show(path)
    _call(_libc.umount2, _OLD.encode(), _MNT_DETACH)
    os.rmdir(_OLD)
    _read_only("/", 0)


def restrict(layers: Sequence[str], readable: Sequence[str], limits: dict[str, float]) -> None:
    """Puts this process, which has one thread, behind what is left of the layers.

    Args:
      layers: Those to apply; the namespaces are entered before.
      readable: Files, and directories with all that is in them.
      limits: `seconds`, `memory_bytes`, `processes` and `file_bytes`.

    Raises:
      OSError: if one of them cannot be applied.
    """
    if "limits" in layers:
        _limit(limits)
    _call(_libc.prctl, _PR_SET_DUMPABLE, 0, 0, 0, 0)
    _call(_libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if "landlock" in layers:
        _landlock(readable)
    # All capabilities, for good: nothing is ever executed that could give some back.
    _call(_libc.capset, struct.pack("=Ii", 0x20080522, 0), bytes(24))
    if "seccomp" in layers:
        _seccomp()


# --- namespaces ------------------------------------------------------------------------------------------------------

_NAMESPACES = (0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)  # mnt, uts, ipc, user, pid, net
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_OLD = "/.old"


def _show(path: str) -> None:
    """Makes a file or directory of the old tree appear, read-only, in the new one."""
    old = _OLD + path
    if os.path.islink(old):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(os.readlink(old), path)
        return
    if os.path.exists(path):  # within a directory that is shown already
        return
    if os.path.isdir(old):
        os.makedirs(path)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT, 0o444))
    _mount(old, path, None, _MS_BIND | _MS_REC)
    _read_only(path, _AT_RECURSIVE, devices=not os.path.isdir(path))


_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000


def _read_only(path: str, flags: int, devices: bool = False) -> None:
    """Makes a mount, or all below it, read-only, without set-uid programs and, but for a device itself, devices."""
    attributes = struct.pack("=QQQQ", _MS_RDONLY | _MS_NOSUID | (0 if devices else _MS_NODEV), 0, 0, 0)
    _syscall("mount_setattr", _AT_FDCWD, path.encode(), flags, attributes, len(attributes))


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _call(_libc.mount, *texts[:3], ctypes.c_ulong(flags), texts[3])


# --- limits ----------------------------------------------------------------------------------------------------------


def _limit(limits: dict[str, float]) -> None:
    import resource  # there is none on Windows

    wanted = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        # Of all its threads together, which the deadline does not count; four cores' worth.
        resource.RLIMIT_CPU: 4 * limits["seconds"] + 1,
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in wanted.items():
        hard = resource.getrlimit(which)[1]
        most = int(most) if hard == resource.RLIM_INFINITY else min(int(most), hard)
        resource.setrlimit(which, (most, most))


# --- Landlock --------------------------------------------------------------------------------------------------------

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
#: By version of the interface, how many rights to files there are: 13 at first, then REFER, TRUNCATE and IOCTL_DEV.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def _landlock(readable: Sequence[str]) -> None:
    """Leaves reading below `readable`, and no TCP, no abstract sockets and no signals to processes outside."""
    version = _syscall("landlock_create_ruleset", None, 0, 1)
    files = (1 << _FILE_RIGHTS[min(version, 5)]) - 1
    rights = [files, 3 if version >= 4 else 0, 3 if version >= 6 else 0][
        : 1 if version < 4 else 2 if version < 6 else 3
    ]
    attributes = struct.pack(f"={len(rights)}Q", *rights)
    rules = _syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    for path in readable:
        if os.path.islink(path):
            continue
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
        _syscall("landlock_add_rule", rules, 1, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    _call(_libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _syscall("landlock_restrict_self", rules, 0)
    os.close(rules)


# --- seccomp ---------------------------------------------------------------------------------------------------------

#: System calls by number on x86-64 and on 64-bit ARM; None where there is none.
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # Memory and threads.
    "brk": (12, 214),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mincore": (27, 232),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "arch_prctl": (158, None),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "futex": (202, 98),
    "get_robust_list": (274, 100),
    "gettid": (186, 178),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_yield": (24, 124),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "getcpu": (309, 168),
    # Signals of its own.
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    # Reading, and writing to what is open already.
    "access": (21, None),
    "close": (3, 57),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "epoll_wait": (232, None),
    "eventfd2": (290, 19),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "fstat": (5, 80),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    "lseek": (8, 62),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "pread64": (17, 67),
    "pselect6": (270, 72),
    "read": (0, 63),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "select": (23, None),
    "stat": (4, None),
    "statx": (332, 291),
    "write": (1, 64),
    "writev": (20, 66),
    # What it is and what time it is.
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "nanosleep": (35, 101),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "uname": (63, 160),
    # With certain arguments only: see `_with_arguments`.
    "clone": (56, 220),
    "clone3": (435, 435),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "open": (2, None),
    "openat": (257, 56),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "tgkill": (234, 131),
}
#: Called here only.
_OWN_NUMBERS = {
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "mount_setattr": (442, 442),
    "seccomp": (317, 277),
}

_Instruction = tuple[int, int, int, int]  # code, where to jump if true and if false, operand
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _EACCES, _ENOSYS, _ENOTTY = 1, 13, 38, 25
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def _seccomp() -> None:
    """Leaves the system calls that tracing and compiling need: no other process, no socket, no file to write."""
    program = list(_filter())
    code = (ctypes.c_char * (8 * len(program))).from_buffer_copy(b"".join(struct.pack("=HBBI", *i) for i in program))
    _call(_libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _syscall("seccomp", 1, 0, struct.pack("=H6xQ", len(program), ctypes.addressof(code)))


def _filter() -> Iterator[_Instruction]:
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(_ENOSYS, f"no list of system calls for {platform.machine()}")
    column, architecture = _ARCHITECTURES[platform.machine()]
    yield (_LOAD, 0, 0, 4)
    yield (_EQUAL, 1, 0, architecture)
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, 0)
    yield (_AT_LEAST, 0, 1, 0x40000000)  # x32, with other numbers
    yield (_RETURN, 0, 0, _ERRNO | _ENOSYS)
    special = _with_arguments()
    for name, numbers in _NUMBERS.items():
        if (number := numbers[column]) is not None:
            checks = special.get(name, [(_RETURN, 0, 0, _ALLOW)])
            yield (_EQUAL, 0, len(checks), number)
            yield from checks
    yield (_RETURN, 0, 0, _ERRNO | _EPERM)


def _with_arguments() -> dict[str, list[_Instruction]]:
    """What to do with calls that are allowed with certain arguments only."""
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | _EPERM)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # the last makes O_TMPFILE

    def argument(index: int, half: int = 0) -> _Instruction:
        return (_LOAD, 0, 0, 16 + 8 * index + 4 * half)

    def one_of(index: int, *values: int, error: int = _EPERM) -> list[_Instruction]:
        tests = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
        return [argument(index), *tests, (_RETURN, 0, 0, _ERRNO | error), allow]

    def reading(index: int) -> list[_Instruction]:
        return [argument(index), (_ANY_BIT, 0, 1, writing), (_RETURN, 0, 0, _ERRNO | _EACCES), allow]

    return {
        "clone": [argument(0), (_ANY_BIT, 1, 0, 0x00010000), refuse, allow],  # threads of this process
        "clone3": [(_RETURN, 0, 0, _ERRNO | _ENOSYS)],  # its flags cannot be seen; the C library then calls clone
        "fcntl": one_of(1, 0, 1, 2, 3, 4, 1030),  # duplicates and flags, no locks and no owners of signals
        "ioctl": one_of(1, 0x5401, error=_ENOTTY),  # is it a terminal?
        "open": reading(1),
        "openat": reading(2),
        "prctl": one_of(0, 15, 0x53564D41),  # names of threads and of memory
        "prlimit64": [
            argument(2),
            (_EQUAL, 0, 2, 0),
            argument(2, 1),
            (_EQUAL, 1, 0, 0),
            refuse,
            allow,
        ],  # looking only
        "tgkill": one_of(0, os.getpid()),  # as abort() does
    }


# --- calling the kernel ----------------------------------------------------------------------------------------------

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG = 4, 38, 1
if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends."""
    _call(_libc.prctl, _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _call(function: Any, *args: object) -> int:
    result = int(function(*args))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{function.__name__}: {os.strerror(ctypes.get_errno())}")
    return result


def _syscall(name: str, *args: object) -> int:
    column = _ARCHITECTURES.get(platform.machine(), (0, 0))[0]
    wide = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return _call(_libc.syscall, ctypes.c_long(_OWN_NUMBERS[name][column]), *wide)


def _in_child(attempt: Callable[[], None]) -> bool:
    """Whether something that cannot be undone works, tried in a process of its own."""
    if not (child := os.fork()):
        try:
            attempt()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
