"""Candidates: what `check_source` says, what the wall holds, and what may come out of it."""

import collections
import io
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from autotts_discovery import confinement, programs, wall
from autotts_discovery.candidates import Candidate, Refused, check_source, with_ends
from hostile.corpus import HOSTILE, PLAIN, Hostile, Target

import autotts_jax
from autotts_jax import CONTROLLERS, InputError, check_controller
from autotts_jax.artefacts import Artefact, export_controller, write_artefact

ROOT = Path(__file__).parent.parent

#: Told to nobody behind the wall. (Not written as one word: a candidate's source is no secret.)
SECRET = "-".join(["planted", "secret"])

# --- check_source ----------------------------------------------------------------------------------------------------


def test_sources_that_are_fine() -> None:
    check_source(PLAIN)
    check_source((ROOT / "notebooks/examples/leash.py").read_text().replace("LEASH = ", "CONTROLLER = "))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("import os", "line 1: import os: not allowed. Import jax"),
        ("from . import x", "line 1: from . import …: not allowed"),
        ("from jax import config", "line 1: from jax import config: not allowed"),
        ("from autotts_jax import testing", "from autotts_jax import testing: not allowed. A controller needs Action"),
        ("from math import *", "from math import *: not allowed"),
        ("import jax\njax.config.update('x', 1)", "line 2: jax.config is not allowed"),
        ("import jax.numpy as jnp\njnp.load('x')", "line 2: jax.numpy.load is not allowed"),
        ("import jax\njax.numpy.save('x', 1)", "line 2: jax.numpy.save is not allowed"),
        ("from jax import numpy as n\nn.save('x', 1)", "line 2: jax.numpy.save is not allowed"),
        ("x = ().__class__", ".__class__ is not allowed"),
        ("x = '{0.a}'.format(1)", ".format is not allowed"),
        ("x = (1 for _ in ()).gi_frame", ".gi_frame is not allowed"),
        ("x = open('x')", "open is not allowed"),
        ("x = getattr(x, 'y')", "getattr is not allowed"),
        ("x = __builtins__", "__builtins__ is not allowed"),
        ("exec('x')", "exec is not allowed"),
        ("def f(__x__):\n    return 1", "__x__ is not allowed"),
        ("while True:\n    pass", "while is not allowed. Use for over a range, or jax.lax.while_loop."),
        ("try:\n    pass\nfinally:\n    pass", "try is not allowed. Let errors show."),
        ("with x:\n    pass", "with is not allowed"),
        ("def f():\n    global x", "global is not allowed. Pass values as arguments."),
        ("def f():\n    yield", "yield is not allowed"),
        ("async def f():\n    pass", "asyncfunctiondef is not allowed"),
        ("del x", "delete is not allowed"),
        ("class A:\n    pass", "class A: only NamedTuples are allowed"),
        ("class A(NamedTuple):\n    def f(self):\n        pass", "class A: only fields are allowed"),
        ("@staticmethod\ndef f():\n    pass", "@staticmethod is not allowed"),
        ("import jax\njax.jit = 1", "line 2: sets .jit"),
        ("def f(:", "line 1: invalid syntax"),
        ("x = 1\ny = 2", "line 2: no CONTROLLER. Define CONTROLLER"),
        ("(" * 5000, "too many nested parentheses"),
        ("-" * 50_000 + "1", "line 1: not Python"),
        ("x.y" + ".y" * 15_000, "line 1: "),
        ("\0", "null bytes"),
        ("\ud800", "not Python"),
        ("#" * 60_000, "60015 characters; at most 60000"),
    ],
)
def test_source_is_refused_with_its_line(line: str, problem: str) -> None:
    with pytest.raises(Refused, match=re.escape(problem)) as refused:
        check_source(line if "no CONTROLLER" in problem else f"{line}\nCONTROLLER = 1")
    assert refused.value.stage == "syntax"
    assert refused.value.reason.isprintable()


def test_several_problems_are_told_at_once() -> None:
    with pytest.raises(Refused, match=r"line 1: import os.*line 2: import sys.*line 3: open.*And 1 more\."):
        check_source("import os\nimport sys\nopen\nCONTROLLER = exec")


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_check_source_sees_what_is_hostile(hostile: Hostile) -> None:
    source = hostile.source(Target("/nowhere", 1, 1))
    if hostile.polite:
        check_source(source)
    else:
        with pytest.raises(Refused, match=r"^syntax: line "):
            check_source(source)


def test_refusals_are_one_printable_line() -> None:
    refused = Refused("wall", "a\nb\x1b[2J" + chr(0x202E) + "x" * 1000)
    assert refused.reason.startswith("a b [2J x")
    assert refused.reason.isprintable()
    assert len(refused.reason) == 300
    assert str(refused) == f"wall: {refused.reason}"
    again = refused.__reduce__()
    assert vars(again[0](*again[1])) == vars(refused)


def test_candidates_are_known_by_their_source() -> None:
    assert Candidate("x", "a").digest == Candidate("x", "b", ("c",), "d", "e").digest != Candidate("y", "a").digest


# --- with_ends -------------------------------------------------------------------------------------------------------

_SCHEDULE = """# β, and more
class P(NamedTuple):
    a: Any
    b: Any

LINES = P(
    tts.whole(  # ä, the first
        (1), (6), log=True  # ) ,
    ),
    b=real(stop=(1, 2.), start=(0, .5), least=-1, ),
)
S = tts.Schedule(LINES)  # untouched
"""


def test_ends_are_replaced_in_the_text() -> None:
    found = with_ends(_SCHEDULE, {"a": (2, np.float32(5.2)), "b": ((0.25, -0.5), np.array([0.1, 2], np.float32))})
    assert found == _SCHEDULE.replace("(1), (6), log=True  #", "(2), (5), log=True, least=1, greatest=6  #").replace(
        "stop=(1, 2.), start=(0, .5), least=-1, )", "stop=(0.1, 2.0), start=(0.25, -0.5), least=-1, greatest=2.0 )"
    )


def test_ends_of_an_example_are_those_of_the_schedule_that_a_search_moved() -> None:
    source = (ROOT / "notebooks/examples/leash.py").read_text()
    before: dict = {}
    exec(source, before)
    schedule = before["SCHEDULE"]
    moved = schedule.moved(np.random.default_rng(0).uniform(size=schedule.ends.shape))
    lines = moved.named_lines
    after: dict = {}
    exec(with_ends(source, {name: (line.start, line.stop) for name, line in lines.items()}), after)
    assert after["SCHEDULE"].named_lines == lines
    assert with_ends(source, {}) == source


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ({"c": (1, 2)}, "c is not written as .* It has a, b"),
        ({"a": (0, 2)}, "a 0 is outside 1 to 6"),
        ({"b": ((0, 0), (0, 3))}, "b 3.0 is outside -1 to 2.0"),
        ({"b": (0, (0, 3))}, "other shapes"),
    ],
)
def test_ends_that_do_not_fit(ends: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_ends(_SCHEDULE, ends)


def test_ends_that_are_computed_cannot_be_replaced() -> None:
    with pytest.raises(InputError, match=r"a is written as 2 \* N. Write its numbers out."):
        with_ends("S = Schedule(P(a=whole(1, 2 * N)))", {"a": (1, 2)})


# --- the wall --------------------------------------------------------------------------------------------------------

needs_wall = pytest.mark.skipif(sys.platform != "linux", reason="there is a wall on Linux only")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """What hostile candidates aim at, with a secret in the environment."""
    directory = tmp_path_factory.mktemp("target")
    (directory / "canary").write_text("canary")
    wall._worker.cache_clear()
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        patch.setenv("PLANTED_SECRET", SECRET)
        patch.setenv("API_KEY", SECRET)
        server.setblocking(False)
        yield Target(str(directory), server.getsockname()[1], os.getpid())
        with pytest.raises(BlockingIOError):  # nobody has connected
            server.accept()
    wall._worker(frozenset()).end()


def seen(target: Target) -> dict[str, tuple]:
    """All that a candidate could have changed: names, sizes, rights and times."""
    packages = [Path(autotts_jax.__file__).parent, Path(wall.__file__).parent]
    files = [file for place in (Path(target.directory), *packages) for file in (place, *place.rglob("*"))]
    stats = {str(file): file.stat() for file in files if "__pycache__" not in str(file)}
    # The library's directories change when the test's own process caches bytecode.
    return {
        name: (stat.st_mode, stat.st_uid, stat.st_size, *([stat.st_mtime_ns] if Path(name).is_file() else []))
        for name, stat in stats.items()
    }


def descendants(pid: int) -> list[int]:
    """The processes that came from a process and are still there."""
    children = collections.defaultdict(list)
    for place in Path("/proc").glob("[0-9]*"):
        try:
            children[int((place / "stat").read_text().rpartition(")")[2].split()[1])].append(int(place.name))
        except OSError:
            continue
    found, rest = [], [pid]
    while rest:
        new = children[rest.pop()]
        found, rest = found + new, rest + new
    return found


def outcome(source: str, seconds: float = 60, **options) -> Refused | Artefact:
    limits = wall.Limits(seconds=seconds, memory_bytes=2 << 30)
    try:
        return wall._exported(source, check=False, limits=limits, **options)
    except Refused as refused:
        return refused


def check_contained(hostile: Hostile, target: Target) -> None:
    """Runs a hostile candidate, whatever its syntax, and sees that nothing has happened."""
    before, started = seen(target), time.monotonic()
    found = outcome(hostile.source(target), hostile.seconds)
    assert time.monotonic() - started < hostile.seconds + 10
    text = found.description if isinstance(found, Artefact) else str(found)
    assert SECRET not in text
    if isinstance(found, Refused):
        assert found.stage in hostile.stages
        assert found.reason
        assert found.reason.isprintable()
        assert len(found.reason) <= 300
        assert "REACHED" not in found.reason
    else:
        assert "none" in hostile.stages
        assert found.described.source_text == hostile.source(target)
    assert seen(target) == before
    process = wall._worker(frozenset())._process
    assert process is not None
    assert len(descendants(process.pid)) == 1  # the one that waits for the next


@needs_wall
def test_layers_are_told() -> None:
    assert {"environment", "limits"} < set(wall.layers()) <= set(confinement.LAYERS)
    assert not confinement.missing(wall.layers())
    assert confinement.missing(("environment", "limits", "landlock")) == "other processes, the network"
    assert confinement.missing(()) == "other processes, files, the network, memory"


@needs_wall
def test_a_candidate_comes_out_as_the_same_artefact(target: Target) -> None:
    found = wall.export(PLAIN, widths=(8,), check=False)
    module: dict = {}
    exec(PLAIN, module)
    expected = export_controller(module["CONTROLLER"], (8,))
    assert found.programs == expected.programs
    assert found.described == expected.described.model_copy(update={"source_text": PLAIN})
    assert found.schedule is not None
    assert found.schedule.named_lines == module["SCHEDULE"].named_lines


_SAMPLE = (
    *("read {directory}/canary", "write", "environment", "connect", "fork bomb", "system call ptrace"),
    *("a thread that stays, daemon=False", "memory: zeros", "a table of answers", "answer: a flood"),
    *("answer: a pickle", "forged: a name with commands", "program: a foreign function"),
    *("error: a text with commands", "error: a crash", "turned: an import hook"),
)


@needs_wall
@pytest.mark.parametrize("name", _SAMPLE)
def test_sample_is_contained(name: str, target: Target) -> None:
    (hostile,) = [hostile for hostile in HOSTILE if hostile.name == name]
    check_contained(hostile, target)


@needs_wall
def test_endless_candidate_ends_at_its_deadline(target: Target) -> None:
    check_contained(Hostile("", f"while True:\n    pass\n{PLAIN}", ("deadline",), seconds=1), target)


@needs_wall
@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_contained(hostile: Hostile, target: Target) -> None:
    check_contained(hostile, target)


@needs_wall
@pytest.mark.slow
def test_the_run_goes_on(target: Target) -> None:
    for name in ("a crash", "an abort", "deep source"):
        check_contained(next(hostile for hostile in HOSTILE if hostile.name == f"error: {name}"), target)
    assert isinstance(outcome(PLAIN), Artefact)


@needs_wall
@pytest.mark.slow
def test_what_breaks_the_contract_is_refused_behind_the_wall(target: Target) -> None:
    source = PLAIN.replace("answer = pool.winner", "answer = jnp.int32(1)")
    assert isinstance(outcome(source), Artefact)  # as a program there is nothing wrong with it
    with pytest.raises(Refused, match=r"^contract: plain.step answers id 1, which no branch has shown"):
        wall.export(source)
    turned = source.replace("#TOP", "import autotts_jax.testing as t\nt.check_controller = lambda *a: None")
    with pytest.raises(Refused, match=r"^contract: plain.step answers id 1"):  # nor can it do away with the check
        wall._exported(turned)
    with pytest.raises(Refused, match=r"^contract: plain.step answers id 1"):
        wall.check(wall.export(source, check=False))
    wall.check(wall.export(PLAIN, check=False))
    assert wall.export(PLAIN).described.name == "plain"


@needs_wall
@pytest.mark.slow
def test_real_numbers_are_summed_behind_the_wall(target: Target) -> None:
    """XLA leaves such sums to a library that looks up what the processor can do."""
    source = PLAIN.replace(
        "answer = pool.winner",
        """same = obs.answer[:, None] == obs.answer[None, :]
    weight = jnp.where(obs.finished, 1.0 / obs.depth.astype(jnp.float32), 0.0)
    support = jnp.sum(jnp.where(same, weight[None, :], 0.0), axis=1)
    answer = jnp.where(jnp.any(obs.finished), obs.answer[jnp.argmax(support)], tts.NO_ANSWER)""",
    )
    wall.check(wall.export(source, check=False))


@needs_wall
@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("width", [8, 256])
def test_built_in_controllers_pass(name: str, width: int, target: Target) -> None:
    source = f"import autotts_jax\nCONTROLLER = autotts_jax.CONTROLLERS[{name!r}]\n"
    found = outcome(source, widths=(width,))
    assert isinstance(found, Artefact), found
    expected = export_controller(CONTROLLERS[name], (width,)).described
    assert found.described == expected.model_copy(update={"source_text": source})


@needs_wall
@pytest.mark.slow
def test_exported_controller_keeps_the_contract(target: Target) -> None:
    check_controller(wall.export(PLAIN, check=False).controller())


# A layer; others that would hold the same and are left out, too; and what the layer alone holds.
_ALONE = [
    ("environment", (), "environment"),
    ("limits", (), "memory: zeros"),
    ("namespaces", ("landlock", "seccomp"), "read {directory}/canary"),
    ("namespaces", ("landlock", "seccomp"), "append"),
    ("namespaces", ("landlock", "seccomp"), "send a datagram"),
    ("namespaces", ("landlock", "seccomp"), "signal the test"),
    ("landlock", ("namespaces", "seccomp"), "read {directory}/canary"),
    ("landlock", ("namespaces", "seccomp"), "append"),
    ("landlock", ("namespaces", "seccomp"), "list {directory}"),
    ("seccomp", ("namespaces", "landlock"), "append"),
    ("seccomp", ("namespaces", "landlock"), "send a datagram"),
    ("seccomp", ("namespaces", "landlock"), "signal the test"),
    ("seccomp", ("namespaces", "landlock"), "chmod"),
    ("seccomp", ("namespaces", "landlock"), "fork bomb"),
    ("seccomp", ("namespaces", "landlock"), "memory file"),
    ("seccomp", ("namespaces", "landlock"), "system call mount"),
]


@needs_wall
@pytest.mark.slow
@pytest.mark.parametrize(("layer", "others", "name"), _ALONE)
def test_every_layer_holds_something(
    layer: str, others: tuple[str, ...], name: str, target: Target, tmp_path: Path
) -> None:
    if layer not in wall.layers():
        pytest.skip(f"there is no {layer} here")
    (tmp_path / "canary").write_text("canary")
    (hostile,) = [hostile for hostile in HOSTILE if hostile.name == name]
    source = hostile.source(Target(str(tmp_path), _free_port(), target.pid))
    if layer == "limits":  # more address space than allowed, of which nothing is touched
        source = PLAIN.replace(
            "#TOP", "import numpy\nx = numpy.empty(3 << 30, numpy.uint8)\nraise ValueError('REACHED')"
        )
    held = outcome(source, without=others) if others else outcome(source)
    assert not (isinstance(held, Refused) and "REACHED" in held.reason)
    with pytest.raises(Refused, match="REACHED"):
        wall._exported(source, check=False, without=(layer, *others))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@needs_wall
@pytest.mark.slow
def test_processes_that_a_lesser_wall_lets_start_end_with_the_candidate(target: Target) -> None:
    source = PLAIN.replace(
        "#TOP", "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n        time.sleep(30)"
    )
    outcome(source, without=("seccomp",))
    process = wall._worker(frozenset(["seccomp"]))._process
    assert process is not None
    assert len(descendants(process.pid)) == 1


@needs_wall
@pytest.mark.slow
def test_worker_ends_with_its_owner(target: Target) -> None:
    script = textwrap.dedent(
        f"""
        import os, threading, time
        from autotts_discovery import wall
        wall.layers()
        print(wall._worker(frozenset())._process.pid, flush=True)
        threading.Thread(target=wall._exported, args=({f"while True: pass{PLAIN}"!r},)).start()
        time.sleep(2)
        os.kill(os.getpid(), 9)
        """
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "discovery")])
    found = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    worker = int(found.stdout)
    until = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


def test_without_a_wall_candidates_must_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Open:
        layers = ("environment", "limits")

    monkeypatch.setattr(wall, "_worker", lambda _: Open())
    assert wall.layers() == ()
    with pytest.raises(
        InputError, match=r"no wall on this machine: nothing would keep .* from other processes, files, the network"
    ):
        wall.export(PLAIN)


@pytest.mark.slow
def test_trusted_candidates_run_where_nothing_can_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall, "_FORKS", False)
    wall._worker.cache_clear()
    assert wall.layers() == ()
    source = PLAIN.replace("#TOP", "print('x' * 10_000)")
    found = wall._exported(source, check=False, trust=True)
    assert found.described.source_text == source
    with pytest.raises(Refused, match=r"^wall: the worker process was lost"):
        wall._exported(PLAIN.replace("#TOP", "import os\nos._exit(0)"), check=False, trust=True)
    with pytest.raises(Refused, match=r"^deadline: "):
        wall._exported(PLAIN.replace("#TOP", "while True: pass"), limits=wall.Limits(seconds=1), trust=True)
    wall._worker.cache_clear()


# --- programs --------------------------------------------------------------------------------------------------------


def packed(artefact: Artefact) -> bytes:
    file = io.BytesIO()
    write_artefact(artefact, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def plain() -> Artefact:
    module: dict = {}
    exec(PLAIN, module)
    return export_controller(module["CONTROLLER"], (8,))


def test_a_program_is_looked_through(plain: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.check_artefact(packed(plain), (8,))
    with pytest.raises(Refused, match="program: exported for other widths"):
        programs.check_artefact(packed(plain), (16,))
    for name, value, message in (
        ("MAX_OPERATIONS", 10, r"schedule has \d+ operations; at most 10"),
        ("MAX_ELEMENTS", 4, "makes 8 numbers an episode; at most 4"),
        ("MAX_BYTES", 1000, r"5 files of \d+ bytes"),
        ("OPERATIONS", programs.OPERATIONS - {"stablehlo.select"}, "stablehlo.select is not an operation"),
        ("MAX_CONSTANTS", 1, "different numbers; at most 1"),
        ("_CUSTOM_CALLS", (), "calls shape_assertion"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(programs, name, value)
            with pytest.raises(Refused, match=message):
                programs.check_artefact(packed(plain), (8,))


def test_what_jax_numpy_makes_is_on_the_list() -> None:
    """As a sample of what controllers may compute."""

    def computed(x: jax.Array) -> list[jax.Array]:
        whole = jax.numpy.arange(8, dtype=jax.numpy.int32)
        return [
            jax.lax.top_k(x, 3)[0],
            jax.lax.erf(x),
            jax.numpy.cumsum(x),
            jax.numpy.median(x),
            jax.numpy.argsort(x)[whole],
            x.at[whole].add(x),
            jax.nn.softmax(x),
            jax.random.uniform(jax.random.key(0), (3,)),
            jax.lax.fori_loop(0, 5, lambda _, y: y * 2, x),
            jax.lax.scan(lambda c, y: (c + y, c), x[0], x)[1],
            jax.lax.cond(x[0] > 0, jax.numpy.sin, jax.numpy.tan, x),
            jax.numpy.outer(x, x) @ x,
            jax.numpy.searchsorted(x, x),
        ]

    (lanes,) = jax.export.symbolic_shape("lanes")
    batched = jax.jit(jax.vmap(computed))
    exported = jax.export.export(batched, platforms=programs.PLATFORMS)(
        jax.ShapeDtypeStruct((lanes, 8), jax.numpy.float32)
    )
    with programs.make_ir_context() as context:
        module = programs.stablehlo_dialect.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        functions = programs._functions("sample", module)
        programs._check_size("sample", functions)


def inspection(content: bytes) -> str:
    """The stage at which a worker refuses an artefact; "none" if it does not."""
    request = {"task": "inspect", "widths": [8], "feature_names": [], "check": False}
    try:
        wall._worker(frozenset()).ask(request, content, wall.Limits())
    except Refused as refused:
        return refused.stage
    return "none"


@needs_wall
@pytest.mark.slow
def test_damaged_programs_are_refused_or_harmless(plain: Artefact, target: Target) -> None:
    rng, stages = np.random.default_rng(0), collections.Counter[str]()
    for _ in range(60):
        name = rng.choice(list(plain.programs))
        data = bytearray(plain.programs[name])
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        damaged = Artefact(plain.description, {**plain.programs, name: bytes(data)})
        stages[inspection(packed(damaged))] += 1
    assert set(stages) <= {"none", "program", "wall"}  # "wall" if MLIR does not survive it
    assert stages["program"] > 15
