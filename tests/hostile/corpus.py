"""Hostile candidates: sources that try what a candidate must not, and what must have become of them.

Each is a whole module made from a harmless controller and a piece of hostile code. Code that gets at something says so
by an error that begins with REACHED. Whatever it tries is harmless if it succeeds: it looks instead of killing, and
writes only to a directory of the test.
"""

# ruff: noqa: E501

from __future__ import annotations

import textwrap
from dataclasses import dataclass

__all__ = ["HOSTILE", "PLAIN", "Hostile", "Target"]

#: A harmless controller; the marks are where hostile code goes.
PLAIN = """
from typing import NamedTuple

import jax
import jax.numpy as jnp

import autotts_jax as tts

#TOP


class Params(NamedTuple):
    branches: jax.Array


SCHEDULE = tts.Schedule(Params(branches=tts.whole(1, 8)))


def init(params, obs):
    #INIT
    return ()


def step(params, memory, obs):
    pool = tts.pool_tally(obs)
    opening = tts.fresh_slots(obs, params.branches - obs.opened)
    done = ~jnp.any(obs.active | opening)
    answer = pool.winner
    #STEP
    return memory, tts.act(obs, open=opening, continue_=jnp.where(opening, tts.READ_TO_END, 0), stop=done, answer=answer)


CONTROLLER = tts.Controller("plain", SCHEDULE, init, step, opens=("branches",))
#END
"""


@dataclass(frozen=True)
class Target:
    """What a hostile candidate aims at.

    Attributes:
      directory: A directory of the test with a file `canary`.
      port: A port on which the test listens.
      pid: The process of the test.
    """

    directory: str
    port: int
    pid: int


@dataclass(frozen=True)
class Hostile:
    """A hostile candidate.

    Attributes:
      name: What it tries.
      template: Its source; {directory}, {port} and {pid} stand for the target.
      stages: Where it may be refused; with "none" among them, it may also have tried in vain and be exported.
      polite: Whether `check_source` sees nothing wrong with it.
      seconds: How long it may run.
    """

    name: str
    template: str
    stages: tuple[str, ...]
    polite: bool = False
    seconds: float = 60

    def source(self, target: Target) -> str:
        """Its text."""
        text = self.template
        for name in ("directory", "port", "pid"):
            text = text.replace(f"{{{name}}}", str(getattr(target, name)))
        return text


HOSTILE: list[Hostile] = []


def at(mark: str, code: str) -> str:
    """The harmless controller with code at a mark."""
    indent = next(line for line in PLAIN.splitlines() if line.strip() == f"#{mark}").partition("#")[0]
    return PLAIN.replace(f"{indent}#{mark}", textwrap.indent(textwrap.dedent(code).strip(), indent))


def reaching(code: str) -> str:
    """Code whose `return` is what it got at: an error says what that was, or why there was nothing."""
    return (
        "def attempt():\n"
        + textwrap.indent(textwrap.dedent(code).strip(), "    ")
        + "\nfound = attempt()\nif found:\n    raise ValueError(f'REACHED {found!r}')\n"
    )


def reach(name: str, code: str, *stages: str, mark: str = "TOP") -> None:
    HOSTILE.append(Hostile(name, at(mark, reaching(code)), stages or ("wall",)))


def run(name: str, code: str, *stages: str, mark: str = "TOP", polite: bool = False, seconds: float = 60) -> None:
    HOSTILE.append(Hostile(name, at(mark, code), stages, polite, seconds))


# --- reading ---------------------------------------------------------------------------------------------------------

for path in (
    *("/etc/passwd", "/etc/shadow", "/etc/hosts", "{directory}/canary", "/proc/self/environ", "/proc/1/environ"),
    *("/proc/{pid}/environ", "/proc/{pid}/cmdline", "/proc/{pid}/mem", "/proc/self/maps", "/sys/kernel/version"),
    *("/dev/mem", "/dev/vda", "/dev/kmsg"),
):
    reach(f"read {path}", f"return open('{path}', 'rb').read(100)")
for place in ("/", "/etc", "/home", "/root", "/tmp", "{directory}", "/proc", "/dev"):
    reach(f"list {place}", f"import os\nreturn 'canary' in os.listdir('{place}') or os.listdir('{place}')")
reach(
    "read beside the interpreter", "import os\nreturn open(os.__file__ + '/../../../../../../../etc/passwd').read(100)"
)
reach("read by pathlib", "import pathlib\nreturn pathlib.Path('{directory}/canary').read_text()")
reach("read by numpy", "import numpy\nreturn numpy.fromfile('{directory}/canary', numpy.uint8).tolist()")
reach(
    "read by libc",
    """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    file = libc.open(b"{directory}/canary", 0)
    if file < 0:
        raise OSError(ctypes.get_errno(), "open")
    return file
    """,
)
reach("find the parent's program", "import os\nreturn os.readlink('/proc/%d/exe' % os.getppid())")
reach("search for the canary", "import glob\nreturn glob.glob('{directory}*/**', recursive=True)", "none")

# --- writing ---------------------------------------------------------------------------------------------------------

for name, code in {
    "write": "open('{directory}/canary', 'w').write('x')",
    "append": "open('{directory}/canary', 'a').write('x')",
    "create": "open('{directory}/new', 'x')",
    "remove": "os.remove('{directory}/canary')",
    "rename": "os.rename('{directory}/canary', '{directory}/other')",
    "chmod": "os.chmod('{directory}/canary', 0o777)",
    "chown": "os.chown('{directory}/canary', 1, 1)",
    "touch": "os.utime('{directory}/canary', (0, 0))",
    "truncate": "os.truncate('{directory}/canary', 0)",
    "make a directory": "os.mkdir('{directory}/new')",
    "make a link": "os.symlink('/', '{directory}/new')",
    "make a hard link": "os.link('{directory}/canary', '{directory}/new')",
    "make a device": "os.mknod('{directory}/new', 0o600 | 0o020000, os.makedev(1, 3))",
    "make a pipe": "os.mkfifo('{directory}/new')",
    "make a temporary file": "__import__('tempfile').TemporaryFile()",
    "save an array": "__import__('numpy').save('{directory}/new', 1)",
    "open a database": "__import__('sqlite3').connect('{directory}/new').execute('create table t (x)')",
    "remove the tree": "__import__('shutil').rmtree('{directory}')",
    "write into the library": "open(tts.__file__ + '.new', 'w')",
    "write into the standard library": "open(os.__file__ + '.new', 'w')",
    "write into the root": "open('/new', 'w')",
    "memory file": "os.memfd_create('x')",
    "set an attribute": "os.setxattr('{directory}/canary', 'user.x', b'x')",
}.items():
    reach(name, f"import os\n{code}\nreturn 'done'", "wall", "contract")  # sqlite3 has errors of its own

# --- secrets ---------------------------------------------------------------------------------------------------------

reach("environment", "import os\nreturn [key for key in os.environ if 'SECRET' in key or 'KEY' in key]", "none")
reach(
    "environment by libc",
    "import ctypes\nf = ctypes.CDLL(None).getenv\nf.restype = ctypes.c_char_p\nreturn f(b'PLANTED_SECRET')",
    "none",
)
reach("arguments", "import sys\nreturn [a for a in sys.orig_argv if 'planted' in a]", "none")
reach(
    "frames of the callers",
    """
    import sys
    frame = sys._getframe()
    while frame is not None:
        if any("planted-" + "secret" in repr(value) for value in list(frame.f_locals.values())):
            return frame.f_code.co_name
        frame = frame.f_back
    """,
    "none",
    "deadline",
)
reach(
    "all objects",
    """
    import gc
    return [o for o in gc.get_objects() if isinstance(o, dict) and "PLANTED_SECRET" in map(str, o)][:1]
    """,
    "none",
)

# --- network ---------------------------------------------------------------------------------------------------------

for name, code in {
    "connect": "s.socket().connect(('127.0.0.1', {port}))",
    "connect, IPv6": "s.socket(s.AF_INET6).connect(('::1', {port}))",
    "send a datagram": "s.socket(type=s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "listen": "s.create_server(('127.0.0.1', 0))",
    "connect to a file": "s.socket(s.AF_UNIX).connect('{directory}/socket')",
    "connect to an abstract name": "s.socket(s.AF_UNIX).connect(chr(0) + 'planted')",
    "talk to the kernel": "s.socket(s.AF_NETLINK, s.SOCK_RAW, 0)",
    "listen to all packets": "s.socket(s.AF_PACKET, s.SOCK_RAW)",
    "cryptography of the kernel": "s.socket(38, s.SOCK_SEQPACKET)",
    "a pair": "s.socketpair()",
    "ask for a name": "s.getaddrinfo('example.com', 80)",
    "fetch a page": "__import__('urllib.request').request.urlopen('http://127.0.0.1:{port}/').read()",
}.items():
    reach(name, f"import socket as s\n{code}\nreturn 'done'")

# --- processes -------------------------------------------------------------------------------------------------------

for name, code in {
    "run a program": "__import__('subprocess').run(['true'])",
    "run a shell": "assert os.system('true'), 'done'; raise OSError(1, 'no shell')",
    "fork": "os.fork() or os._exit(0)",
    "fork a terminal": "__import__('pty').fork()[0] or os._exit(0)",
    "spawn": "os.posix_spawn('/usr/bin/true', ['true'], {})",
    "become a program": "os.execv('/usr/bin/true', ['true'])",
    "multiprocessing": "__import__('multiprocessing').Process(target=print).start()",
    "leave the group": "os.setsid()",
    "signal the parent": "os.kill(os.getppid() or 1, 0)",
    "signal the test": "os.kill({pid}, 0)",
    "signal all": "os.kill(-1, 0)",
    "signal the group": "os.killpg(0, 0)",
    "raise its limits": "r = __import__('resource'); r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
    "become another user": "os.setuid(1)",
    "get an alarm": "__import__('signal').setitimer(0, 1000)",
    "change the root": "os.chroot('/usr')",
}.items():
    reach(name, f"import os\n{code}\nreturn 'done'", "wall", "contract")  # setrlimit raises ValueError

run(
    "fork bomb",
    """
    import os
    children = []
    for _ in range(30):  # not many, in case that it works
        child = os.fork()
        if not child:
            import time
            time.sleep(20)
            os._exit(0)
        children.append(child)
    raise ValueError(f"REACHED {children}")
    """,
    "wall",
)
run(
    "fork by a system call",
    """
    import ctypes, time
    child = ctypes.CDLL(None, use_errno=True).syscall(56, 17, 0, 0, 0, 0)
    if child == 0:
        time.sleep(5)
    if child >= 0:
        raise ValueError("REACHED")
    raise OSError(ctypes.get_errno(), "clone")
    """,
    "wall",
)
run(
    "thread bomb",
    """
    import threading, time
    threads = [threading.Thread(target=time.sleep, args=(30,), daemon=True) for _ in range(3000)]
    for thread in threads:
        thread.start()
    """,
    *("contract", "memory", "wall", "deadline"),
    seconds=10,
)
for daemon in (False, True):
    run(
        f"a thread that stays, daemon={daemon}",
        f"""
        import threading
        def stay():
            while True:
                pass
        threading.Thread(target=stay, daemon={daemon}).start()
        """,
        *("none", "deadline"),
        seconds=20,
    )

#: System calls that a candidate has no business with, by number on x86-64; what they are given makes them fail.
SYSTEM_CALLS = {
    "mount": 165, "umount2": 166, "pivot_root": 155, "unshare": 272, "setns": 308, "ptrace": 101, "bpf": 321,
    "process_vm_readv": 310, "process_vm_writev": 311, "io_uring_setup": 425, "perf_event_open": 298, "keyctl": 250,
    "userfaultfd": 323, "kexec_load": 246, "init_module": 175, "swapon": 167, "sethostname": 170, "settimeofday": 164,
    "syslog": 103, "personality": 135, "open_by_handle_at": 304, "execveat": 322, "pidfd_open": 434, "shmget": 29,
    "msgget": 68, "mq_open": 240, "semget": 64, "fanotify_init": 300, "inotify_init1": 294, "openat2": 437,
    "memfd_secret": 447, "sched_setaffinity": 203, "setpriority": 141, "move_mount": 429, "splice": 275,
}  # fmt: skip
for name, number in SYSTEM_CALLS.items():
    run(
        f"system call {name}",
        f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.syscall({number}, -1, -1, -1, -1, -1)
        if result >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            raise ValueError(f"REACHED {{result}} {{ctypes.get_errno()}}")
        raise OSError(ctypes.get_errno(), "refused")
        """,
        "wall",
    )

# --- memory and time -------------------------------------------------------------------------------------------------

for name, code in {
    "bytes": "x = bytearray(1 << 40)",
    "many bytes": "x = [bytearray(1 << 28) for _ in range(1000)]",
    "a long text": "x = 'x' * (1 << 36)",
    "zeros": "x = __import__('numpy').ones(1 << 34)",
    "a list that grows": "x = [0]\nwhile True:\n    x += x",
    "a list of lists": "x = []\nfor _ in range(10**9):\n    x.append([0] * 1000000)",
    "an array of the device": "x = jnp.ones(1 << 34)",
}.items():
    run(
        f"memory: {name}",
        code,
        "memory",
        "deadline",
        polite=name in ("a long text", "a list of lists", "an array of the device"),
        seconds=20,
    )
for mark, polite_loop in (("TOP", False), ("INIT", False), ("STEP", False), ("END", False)):
    run(f"endless, at {mark}", "while True:\n    pass", "deadline", mark=mark, polite=polite_loop, seconds=4)
for name, code in {
    "sleep": "import time\ntime.sleep(10**6)",
    "wait for a lock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "a regular expression": "import re\nre.match('(a+)+$', 'a' * 50 + 'b')",
    "a sum": "x = sum(range(10**13))",
    "a power": "x = 10 ** 10 ** 9",
    "a power of a power": "x = [i for i in range(10**12) if i < 0]",
    "ignored signals": "import signal\nfor s in range(1, 32):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n    except OSError:\n        pass\nwhile True:\n    pass",
    "a finalizer": "class Late:\n    def __del__(self):\n        while True:\n            pass\nLate()",
    "read its own answer": "import os\nos.read(0, 1)\nwhile True:\n    pass",
}.items():
    polite_code = code.startswith("x = ")
    run(f"endless: {name}", code, "deadline", "memory", polite=polite_code, seconds=4)
run(
    "a program that doubles with every line",
    """
    def once(x):
        return jnp.sin(x) + jnp.cos(x)
    def twice(f):
        return jax.jit(lambda x: f(f(x)))
    double = once
    for _ in range(60):
        double = twice(double)
    answer = jnp.where(double(obs.tokens.astype(jnp.float32)) > 2, answer, pool.winner)
    """,
    *("deadline", "program", "contract", "memory"),
    mark="STEP",
    polite=True,
    seconds=15,
)
for count in (8_000, 10**7):
    run(
        f"{count} operations in a row",
        f"""
        x = obs.tokens.astype(jnp.float32)
        for i in range({count}):
            x = x * jnp.float32(2)
        answer = jnp.where(x > 2, answer, pool.winner)
        """,
        *("deadline", "program", "memory"),
        mark="STEP",
        polite=True,
        seconds=60 if count < 10**6 else 6,
    )
run(
    "a table of answers",
    "answer = jnp.array(list(range(5000)))[obs.opened % 5000].astype(jnp.int32)",
    "contract",
    mark="STEP",
    polite=True,
)
run(
    "a table of answers in its expressions",
    "for i in range(1000):\n    answer = jnp.where(obs.tokens == 7 * i, jnp.int32(3 * i + 1), answer)",
    "contract",
    mark="STEP",
    polite=True,
)
run(
    "more numbers than an episode can have",
    "big = jnp.zeros((64, 512, 512), jnp.int32) + obs.opened\nanswer = answer + jnp.sum(big, dtype=jnp.int32) * 0",
    *("program", "deadline"),
    mark="STEP",
    polite=True,
)
run("a memory of many megabytes", "return jnp.zeros((1024, 1024), jnp.int32)", "program", mark="INIT", polite=True)
run(
    "a loop that the program runs for ever",
    "answer = jax.lax.while_loop(lambda x: x >= 0, lambda x: x, answer)",
    *("none", "deadline"),  # as a program it is legal; whoever runs it needs a deadline
    mark="STEP",
    polite=True,
)

# --- calls out of the program ----------------------------------------------------------------------------------------

for name, code in {
    "pure callback": "answer = jax.pure_callback(lambda x: x, answer, answer)",
    "io callback": "from jax.experimental import io_callback\nanswer = io_callback(lambda x: x, answer, answer)",
    "debug print": "jax.debug.print('{x}', x=answer)",
    "debug callback": "jax.debug.callback(print, answer)",
    "foreign function": "answer = jax.ffi.ffi_call('evil', jax.ShapeDtypeStruct((), jnp.int32))(answer)",
    "an array of the host": "answer = jnp.int32(jax.device_get(answer))",
    "a leaked value": "global leak\nleak = answer",
}.items():
    run(name, code, "contract", "export", "program", "none", mark="STEP")

# --- forged answers --------------------------------------------------------------------------------------------------

_SEND = """
import os, struct, json, io, zipfile, zlib
def send(answer, length=None):
    data = struct.pack(">Q", len(answer) if length is None else length) + answer
    while data:
        data = data[os.write(3, data):]
    os._exit(0)
def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()
"""

for name, code in {
    "nothing": "os._exit(0)",
    "no bytes": "send(b'')",
    "zeros": "send(bytes(1000))",
    "chance": "send(b'+' + os.urandom(10_000))",
    "half of the length": "send(b'+xy', length=2)",
    "less than its length": "send(b'+xy', length=100)",
    "more than may be": "send(b'+' + bytes(100 << 20))",
    "an absurd length": "send(b'', length=2**64 - 1)",
    "a flood": "while True:\n    os.write(3, b'x' * 4096)",
    "every file": "for file in range(64):\n    try:\n        os.write(file, b'+' * 100)\n    except OSError:\n        pass\nos._exit(0)",
    "an empty archive": "send(b'+' + zipped({}))",
    "an archive of nonsense": "send(b'+' + zipped({'controller.json': 'x', 'digest': 'y'}))",
    "a path": "send(b'+' + zipped({'../../../{directory}/new': 'x', 'controller.json': '{}', 'digest': ''}))",
    "a zip bomb": "send(b'+' + zipped({'controller.json': bytes(1 << 29), 'digest': ''}))",
    "deep JSON": "send(b'+' + zipped({'controller.json': '[' * 10**6, 'digest': ''}))",
    "a number without end": "send(b'+' + zipped({'controller.json': '9' * 10**6, 'digest': ''}))",
    "a pickle": "import pickle\nclass Evil:\n    def __reduce__(self):\n        return os.system, ('touch {directory}/new',)\nsend(b'+' + pickle.dumps(Evil()))",
    "a stage that there is not": "send(b'-' + json.dumps({'stage': 'won', 'reason': 'x'}).encode())",
    "a stage of the judge": "send(b'-' + json.dumps({'stage': 'judge', 'reason': 'x'}).encode())",
    "a reason that is no text": "send(b'-' + json.dumps({'stage': 'wall', 'reason': {'x': 1}}).encode())",
    "a reason that is deep": "send(b'-' + b'[' * 10**6)",
    "a reason with commands": "send(b'-' + json.dumps({'stage': 'wall', 'reason': chr(27) + '[2J' + chr(10) + 'gain: 100' + chr(0x202e)}).encode())",
    "a reason without end": "send(b'-' + json.dumps({'stage': 'wall', 'reason': 'x' * 10**6}).encode())",
}.items():
    run(f"answer: {name}", f"{textwrap.dedent(_SEND)}\n{code}", "wall", "program", "output", "deadline", seconds=15)

# An artefact as it should be, then changed; `members` are the parts of its zip file.
_FORGE = (
    _SEND
    + """
from autotts_jax.artefacts import Artefact, export_controller, write_artefact
artefact = export_controller(CONTROLLER)
about, programs = json.loads(artefact.description), dict(artefact.programs)
{code}
file = io.BytesIO()
write_artefact(Artefact(json.dumps(about), programs), file)
content = file.getvalue()
{after}
send(b"+" + content)
"""
)
for name, code, after in (
    ("programs exchanged", "programs['step-64'] = programs['init-64']", ""),
    ("a program missing", "del programs['step-64']", ""),
    ("a program too many", "programs['evil'] = b''", ""),
    ("a program of nothing", "programs['step-64'] = b''", ""),
    ("a program cut off", "programs['step-64'] = programs['step-64'][:-500]", ""),
    ("a program of chance", "programs['step-64'] = os.urandom(5000)", ""),
    ("another digest", "", "content = zipped({'controller.json': artefact.description, **programs, 'digest': '0' * 32})"),
    ("half a file", "", "content = content[:len(content) // 2]"),
    ("a name with commands", "about['name'] = chr(27) + '[2J'", ""),
    ("a name of many lines", "about['name'] = 'x' + chr(10) + 'y'", ""),
    ("a name that turns around", "about['name'] = 'x' + chr(0x202e) + 'y'", ""),
    ("a name without end", "about['name'] = 'x' * 10**6", ""),
    ("a source with commands", "about['source'] = chr(7)", ""),
    ("other widths", "about['widths'] = [8]", ""),
    ("other features", "about['feature_names'] = ['gold']", ""),
    ("a parameter that is not there", "about['params'][0]['name'] = 'other'", ""),
    ("a parameter that is markup", "about['params'][0]['name'] = '<b>'; about['lines'] = None; about['bounds'] = {}; about['opens'] = []", ""),
    ("a parameter of another type", "about['params'][0]['dtype'] = 'float64'", ""),
    ("a parameter without end", "about['params'][0]['shape'] = [10**9]", ""),
    ("a memory that is not there", "about['memory']['64'] = [{'name': 'x', 'shape': [2], 'dtype': 'int32'}]", ""),
    ("a memory of objects", "about['memory']['64'] = [{'name': 'x', 'shape': [2], 'dtype': 'object'}]", ""),
    ("bounds upside down", "about['bounds'] = {'branches': [5, 1]}", ""),
    ("bounds of nobody", "about['bounds'] = {'other': [1, 5]}", ""),
    ("opens what is not there", "about['opens'] = ['other']", ""),
    ("lines of another", "about['lines'] = {'other': about['lines']['branches']}", ""),
    ("another format", "about['format'] = 2", ""),
    ("something more", "about['evil'] = 1", ""),
):  # fmt: skip
    forged = _FORGE.replace("{code}", code).replace("{after}", after)
    HOSTILE.append(Hostile(f"forged: {name}", at("END", forged), ("program", "wall")))

# Programs that export_controller would not make.
_PROGRAM = """
import jax.export
exported = jax.export.deserialize(bytearray(programs["schedule"]))
(lanes,) = jax.export.symbolic_shape("lanes")
beta = jax.ShapeDtypeStruct((lanes,), jnp.float32)
def remade(function, shape=beta, checks=(), platforms=("cpu", "cuda", "tpu")):
    return bytes(jax.export.export(jax.jit(function), platforms=platforms, disabled_checks=checks)(shape).serialize())
"""
for name, code in {
    "a foreign function": "evil = jax.ffi.ffi_call('evil', beta)\nprograms['schedule'] = remade(lambda x: [evil(x).astype(jnp.int32)], checks=[jax.export.DisabledSafetyCheck.custom_call('evil')])",
    "a callback by its target": "evil = jax.ffi.ffi_call('xla_ffi_python_cpu_callback', beta)\nprograms['schedule'] = remade(lambda x: [evil(x).astype(jnp.int32)], checks=[jax.export.DisabledSafetyCheck.custom_call('xla_ffi_python_cpu_callback')])",
    "one platform": "programs['schedule'] = remade(lambda x: [x.astype(jnp.int32)], platforms=('cpu',))",
    "another result": "programs['schedule'] = remade(lambda x: [x])",
    "a result more": "programs['schedule'] = remade(lambda x: [x.astype(jnp.int32), x])",
    "another argument": "programs['schedule'] = remade(lambda x: [x], jax.ShapeDtypeStruct((lanes,), jnp.int32))",
    "another structure": "programs['schedule'] = remade(lambda x: {'a': x.astype(jnp.int32)})",
    "two kinds of lanes": "programs['schedule'] = remade(lambda x: [x.astype(jnp.int32)], jax.ShapeDtypeStruct(jax.export.symbolic_shape('2*lanes'), jnp.float32))",
    "a table": "t = jnp.arange(5000) * 7 % 1013\nt = __import__('numpy').asarray(t)\nprograms['schedule'] = remade(lambda x: [jnp.asarray(t)[x.astype(jnp.int32)]])",
    "a decomposition": "programs['schedule'] = remade(lambda x: [jnp.linalg.eigvalsh(x[:, None, None] * jnp.eye(3))[:, 0].astype(jnp.int32)])",
    "a Fourier transform": "programs['schedule'] = remade(lambda x: [jnp.abs(jnp.fft.fft(x[:, None] * jnp.ones(4)))[:, 0].astype(jnp.int32)])",
    "many operations": "def f(x):\n    for i in range(7000):\n        x = x + 1\n    return [x.astype(jnp.int32)]\nprograms['schedule'] = remade(f)",
    "more with every call": "def f(x):\n    g = lambda x: x * 2 + 1\n    for _ in range(14):\n        g = jax.jit(lambda x, g=g: g(g(x)))\n    return [g(x).astype(jnp.int32)]\nprograms['schedule'] = remade(f)",
    "a large array": "programs['schedule'] = remade(lambda x: [jnp.sum(jnp.zeros((1 << 20,)) + x[:, None], axis=1).astype(jnp.int32)])",
}.items():
    forged = _FORGE.replace("{code}", textwrap.dedent(_PROGRAM) + code).replace("{after}", "")
    HOSTILE.append(Hostile(f"program: {name}", at("END", forged), ("program",)))

# --- errors ----------------------------------------------------------------------------------------------------------

for name, code in {
    "a text with commands": "raise ValueError(chr(27) + ']0;x' + chr(7) + chr(10) + 'line two')",
    "a text without end": "raise ValueError('x' * 10**8)",
    "a text that is none": "class E(Exception):\n    def __str__(self):\n        return 5\nraise E()",
    "a text that fails": "class E(Exception):\n    def __str__(self):\n        raise self\nraise E()",
    "a text that takes for ever": "class E(Exception):\n    def __str__(self):\n        while True:\n            pass\nraise E()",
    "an exit": "raise SystemExit(0)",
    "an exit at once": "import os\nos._exit(7)",
    "an interrupt": "raise KeyboardInterrupt",
    "a base exception": "class E(BaseException):\n    pass\nraise E('x')",
    "a group": "raise ExceptionGroup('x', [ValueError('y')] * 1000)",
    "causes in a circle": "a, b = ValueError('a'), ValueError('b')\na.__cause__, b.__cause__ = b, a\nraise a",
    "a lie about its class": "class E(Exception):\n    @property\n    def __class__(self):\n        return MemoryError\nraise E('x')",
    "an error of the wall's": "from autotts_discovery.candidates import Refused\nraise Refused('judge', 'x')",
    "recursion": "def f():\n    return f()\nf()",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    return f([x])\nf(0)",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "an abort": "import os\nos.abort()",
    "a trap": "import ctypes, signal\ngetattr(ctypes.CDLL(None), 'raise')(signal.SIGTRAP)",
    "deep source": "x = " + "(" * 150 + "0" + ")" * 150 + "\neval('-' * 10**6 + '1')",
}.items():
    stages = ("contract", "wall", "memory", "deadline")
    run(f"error: {name}", code, *stages, polite=name == "recursion", seconds=8)

# --- output ----------------------------------------------------------------------------------------------------------

for name, code in {
    "print": "for _ in range(10**5):\n    print('x' * 1000)",
    "standard error": "import sys\nfor _ in range(10**5):\n    sys.stderr.write('x' * 1000)",
    "the files themselves": "import os\nfor _ in range(10**5):\n    os.write(1, b'x' * 1000), os.write(2, b'x' * 1000)",
    "warnings": "import warnings\nwarnings.simplefilter('always')\nfor _ in range(10**4):\n    warnings.warn('x' * 1000)",
    "logging": "import logging\nfor _ in range(10**4):\n    logging.error('x' * 1000)",
}.items():
    run(f"output: {name}", code, "none", "deadline")

# --- the libraries turned --------------------------------------------------------------------------------------------

for name, code in {
    "no check": "import autotts_jax.testing as t\nt.check_controller = lambda *a: None",
    "no export": "import autotts_jax.artefacts as a\na.export_controller = lambda *a: None",
    "an export of another": "import autotts_jax.artefacts as a\nreal = a.export_controller\na.export_controller = lambda c, *r: real(tts.CONTROLLERS['self_consistency'], *r)",
    "another isinstance": "import builtins\nbuiltins.isinstance = lambda *a: True",
    "other numbers": "jnp.sum = lambda *a, **k: 0",
    "another act": "tts.environment.act = tts.act = lambda *a, **k: None",
    "no exit": "import os\nos._exit = lambda *a: None",
    "another main": "import sys\nmain = sys.modules['__main__']\nmain._write = lambda file, content: main.os.write(file, b'x' * 100)",
    "no modules": "import sys\nsys.modules.clear()",
    "an import hook": "import sys\nclass Hook:\n    def find_spec(self, *a):\n        raise ImportError('hooked')\nsys.meta_path.insert(0, Hook())",
    "a path hook": "import sys\nsys.path.insert(0, '{directory}')\nsys.path_hooks.clear()",
    "a tracer": "import sys\nsys.settrace(lambda *a: 1 / 0)",
    "an audit hook": "import sys\nsys.addaudithook(lambda *a: 1 / 0)",
    "at exit": "import atexit, os\natexit.register(lambda: os.write(3, b'x'))",
    "a finalizer": "import weakref\nclass A:\n    pass\na = A()\nweakref.finalize(a, print, 'x')",
    "a module attribute": "def __getattr__(name):\n    raise SystemExit",
    "a controller that is none": "class Controller:\n    __class__ = tts.Controller\nCONTROLLER = Controller()",
    "a name that is none": "class Name(str):\n    def __str__(self):\n        return 'x' * 10**6\nimport dataclasses\nCONTROLLER = dataclasses.replace(CONTROLLER, name=Name('x'))",
    "reduce": "class Evil(tts.Controller):\n    def __reduce__(self):\n        return print, ('x',)\nCONTROLLER = Evil('x', SCHEDULE, init, step)",
    "a lie about bounds": "CONTROLLER = tts.Controller('x', SCHEDULE, init, step, bounds={'branches': ('<b>', 1)})",
    "switches of JAX": "jax.config.update('jax_compilation_cache_dir', '{directory}/cache')\njax.config.update('jax_dump_ir_to', '{directory}/dump')",
    "flags of XLA": "import os\nos.environ['XLA_FLAGS'] = '--xla_dump_to={directory}/dump'",
    "the profiler": "jax.profiler.start_trace('{directory}/profile')",
    "a server of the profiler": "jax.profiler.start_server(9999)",
}.items():
    run(
        f"turned: {name}",
        code,
        *("contract", "wall", "export", "program", "output", "none"),
        mark="END" if "CONTROLLER" in code else "TOP",
        polite=name == "a lie about bounds",
        seconds=20,
    )
