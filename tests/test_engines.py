"""Engines: recorded branches, faults and patience, and a server on the loopback that fails in every way."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from autotts_collect.answers import BOXED
from autotts_collect.engines import (
    DYNASOR,
    Branch,
    EngineError,
    Faulty,
    Patience,
    Piece,
    Recorded,
    Sampling,
    Suffix,
    UnavailableError,
)
from autotts_collect.engines.http import Http
from loopback import FAULTS, MODEL, Loopback, broken, cut_short, hangs, refuses, serving, too_many

import autotts_jax
from autotts_jax import InputError

T = TypeVar("T")
QUICK = Patience(seconds=20, first=0.01, longest=0.02)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as found:
        yield found


def engine(server: Loopback, **options: Any) -> Http:
    sampling = Sampling(branches=4, delta=20, max_tokens=100, seed=3)
    return Http(server.url, options.pop("model", MODEL), sampling, timeout=0.4, **options)


async def asking(http: Http, work: Callable[[Http], Awaitable[T]]) -> T:
    try:
        await http.start()
        return await work(http)
    finally:
        await http.close()


def branch(**fields: Any) -> Branch:
    return Branch(question=0, shuffle=0, slot=0, prompt=[5, 6], **fields)


# --- branches --------------------------------------------------------------------------------------------------------


def test_seeds_differ_by_place() -> None:
    grown = branch()
    grown.tokens.append(9)
    other = Branch(question=0, shuffle=0, slot=1, prompt=[5, 6])
    seeds = {b.seed_here() for b in (branch(), grown, other, branch(seed=1))}
    assert len(seeds) == 4
    assert grown.cut(0).seed_here() == branch().seed_here()
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_sampling_is_checked() -> None:
    with pytest.raises(InputError, match=r"delta 200: outside 1 to 100. An interval cannot be longer than a branch"):
        Sampling(delta=200, max_tokens=100)
    with pytest.raises(InputError, match="32768 intervals, more than 4095"):
        Sampling(delta=1)
    for wrong in ({"temperature": 3.0}, {"top_p": 0.0}, {"branches": 257}, {"seed": -1}, {"top_k": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Sampling(**wrong)  # type: ignore[arg-type]
    assert Sampling(delta=30, max_tokens=100).pool().intervals == 4


# --- recorded --------------------------------------------------------------------------------------------------------

#: Branches with a short last interval, a long one, fewer tokens than probes say, and no probe at all.
BRANCHES = [(["1", "2"], 25, "2"), (["1"], 45, "3"), (["1", "1", "4"], 22, "4"), ([], 7, "5")]


def recorded() -> Recorded:
    question = autotts_jax.Question.from_branches("?", "2", 10, BRANCHES)
    dataset = autotts_jax.pack(autotts_jax.Trajectories([question]))
    return Recorded(dataset, np.array([[[2, 0, 3, 1, -1]]]))


async def stepped(served: Recorded, slot: int) -> tuple[list[str], list[Piece]]:
    found = Branch(question=0, shuffle=0, slot=slot)
    answers, pieces = [], []
    while not pieces or not pieces[-1].ended:
        pieces.append(await served.extend(found, 10))
        found.tokens.extend(pieces[-1].tokens)
        answers.append(pieces[-1].text if pieces[-1].ended else (await served.read(found, DYNASOR)).text)
    return answers, pieces


@pytest.mark.parametrize(("slot", "number"), [(0, 2), (1, 0), (2, 3), (3, 1)])
def test_recorded_branches_are_served(slot: int, number: int) -> None:
    probes, tokens, final = BRANCHES[number]
    answers, pieces = run(stepped(recorded(), slot))
    assert answers == [*probes, final]
    assert pieces[-1].counted == (len(probes) + 1, tokens)
    assert [len(piece.tokens) for piece in pieces[:-1]] == [10] * len(probes)
    whole = run(recorded().extend(Branch(question=0, shuffle=0, slot=slot), 1000))
    assert (whole.ended, whole.text, whole.counted) == (True, final, (len(probes) + 1, tokens))


def test_recorded_branches_are_as_they_were_dealt() -> None:
    served = recorded()
    assert len(served.pool(0, 0).delta) == 4
    assert served.pool(0, 0).intervals == 4
    with pytest.raises(InputError, match="logprobs: not in recorded branches"):
        run(served.extend(branch(), 10, logprobs=2))
    with pytest.raises(InputError, match="orders"):
        Recorded(served._dataset, np.array([[[7]]]))


def test_recorded_features_come_with_intervals() -> None:
    import dataclasses

    served = recorded()
    store = served._dataset.store
    features = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    store = dataclasses.replace(store, features=features, feature_names=("height",))
    served = Recorded(dataclasses.replace(served._dataset, store=store), np.array([[[2, 0, 3, 1]]]))
    found = Branch(question=0, shuffle=0, slot=1)
    found.tokens.extend((run(served.extend(found, 10))).tokens)
    assert served.feature_names == ("height",)
    assert run(served.read(found, DYNASOR)).features == [0.0]
    assert run(served.extend(found, 100)).features == [2.0]


# --- faults and patience ---------------------------------------------------------------------------------------------


def test_faults_are_asked_away() -> None:
    served = Faulty(recorded(), share=0.5, seconds=0.001)

    async def all_of_it() -> Piece:
        return await QUICK.ask(lambda: served.extend(Branch(question=0, shuffle=0, slot=0), 1000))

    assert run(all_of_it()).text == "4"
    assert [run(all_of_it()).text for _ in range(20)] == ["4"] * 20
    assert served.faults > 5
    assert served.about() == recorded().about()


def test_patience_ends() -> None:
    served = Faulty(recorded(), share=1.0)
    short = Patience(seconds=0.05, first=0.01, longest=0.02)
    with pytest.raises(EngineError, match=r"a fault on purpose \(asked \d+ times\)"):
        run(short.ask(lambda: served.read(branch(), DYNASOR)))
    assert served.faults > 2


def test_patience_waits_as_long_as_it_is_told_to() -> None:
    began, calls = time.monotonic(), []

    async def later() -> int:
        calls.append(time.monotonic() - began)
        if len(calls) == 1:
            raise UnavailableError("later", after=0.2)
        return 5

    assert run(QUICK.ask(later)) == 5
    assert calls[1] >= 0.2


# --- a server --------------------------------------------------------------------------------------------------------


def test_a_server_is_asked_by_token_ids(server: Loopback) -> None:
    async def work(http: Http) -> None:
        prompt = await http.prompt("abc")
        assert list(prompt) == [99, 100, 101]
        grown = Branch(question=0, shuffle=0, slot=0, prompt=prompt)
        piece = await http.extend(grown, 20)
        grown.tokens.extend(piece.tokens)
        assert len(piece.tokens) == 20 or piece.ended
        assert server.asked[-1]["prompt"] == [99, 100, 101]
        await http.extend(grown, 20)
        assert server.asked[-1]["prompt"] == [99, 100, 101, *piece.tokens]
        assert server.asked[0]["seed"] != server.asked[1]["seed"]
        before = list(grown.tokens)
        reading = await http.read(grown, Suffix("So \\boxed{", 3))
        assert list(grown.tokens) == before
        assert server.asked[-1]["prompt"][-10:] == [2 + byte for byte in b"So \\boxed{"]
        assert (server.asked[-1]["max_tokens"], server.asked[-1]["temperature"]) == (3, 0)
        assert reading.text.startswith("So \\boxed{")
        assert 1 <= reading.tokens <= 3
        assert http.context == 10_000

    run(asking(engine(server), work))


def test_streamed_or_whole_is_the_same(server: Loopback) -> None:
    async def work(http: Http) -> Piece:
        return await http.extend(branch(), 30, logprobs=2)

    streamed, whole = (run(asking(engine(server, stream=stream), work)) for stream in (True, False))
    assert [body["stream"] for body in server.asked] == [True, False]
    assert (streamed.tokens, streamed.ended) == (whole.tokens, whole.ended)
    for piece in (streamed, whole):
        assert piece.logprobs is not None
        assert piece.logprobs.chosen.tolist() == [-1.0] * len(piece.tokens)
        assert piece.logprobs.top.tolist() == [[-1.0, -2.0]] * len(piece.tokens)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_goes_wrong_is_asked_again(server: Loopback, fault: Any) -> None:
    async def work(http: Http) -> Piece:
        return await QUICK.ask(lambda: http.extend(branch(), 20))

    calm = run(asking(engine(server), work))
    server.faults = [fault, fault]
    assert run(asking(engine(server), work)) == calm
    assert len(server.asked) == 4
    server.faults = [fault]
    with pytest.raises(UnavailableError):
        run(asking(engine(server), lambda http: http.extend(branch(), 20)))


@pytest.mark.parametrize("fault", [broken, too_many, hangs, cut_short], ids=lambda fault: fault.__name__)
def test_readings_are_asked_again(server: Loopback, fault: Any) -> None:
    server.faults = [fault]
    reading = run(asking(engine(server), lambda http: QUICK.ask(lambda: http.read(branch(), DYNASOR))))
    assert reading.text.startswith(DYNASOR.text)


def test_a_server_says_when_to_come_back(server: Loopback) -> None:
    server.faults = [too_many]
    with pytest.raises(UnavailableError, match="status 429: slow down") as caught:
        run(asking(engine(server), lambda http: http.extend(branch(), 20)))
    assert caught.value.after == 0.05


def test_a_refusal_is_final(server: Loopback) -> None:
    server.faults = [refuses]
    with pytest.raises(EngineError, match="status 400: prompt is too long") as caught:
        run(asking(engine(server), lambda http: QUICK.ask(lambda: http.extend(branch(), 20))))
    assert not isinstance(caught.value, UnavailableError)
    assert len(server.asked) == 1


def test_a_cancelled_request_is_over_at_the_server(server: Loopback) -> None:
    async def work(http: Http) -> None:
        server.faults = [hangs]
        task = asyncio.create_task(http.extend(branch(), 20))
        while not server.open:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await http.extend(branch(), 20)).tokens  # and its place is free

    run(asking(engine(server, connections=1), work))


def test_no_more_requests_at_a_time_than_allowed(server: Loopback) -> None:
    async def work(http: Http) -> None:
        await asyncio.gather(*(http.extend(branch(seed=seed), 50) for seed in range(40)))

    run(asking(engine(server, connections=3), work))
    assert server.most_open <= 3


def test_bad_servers_are_refused_before_a_token_is_paid_for(server: Loopback) -> None:
    async def nothing(http: Http) -> None:
        raise AssertionError

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nobody = Http(f"http://127.0.0.1:{port}/v1", MODEL, Sampling())
    with pytest.raises(InputError, match=f"base URL http://127.0.0.1:{port}/v1: no server answers"):
        run(asking(nobody, nothing))
    with pytest.raises(InputError, match="model 'other': the server does not have it, but tiny"):
        run(asking(engine(server, model="other"), nothing))
    with pytest.raises(InputError, match="base URL 'localhost': not one of"):
        Http("localhost", MODEL, Sampling())
    server.template = False
    with pytest.raises(InputError, match=r"makes no prompt of a question .*no chat template"):
        run(asking(engine(server), lambda http: http.prompt("?")))
    assert not server.asked


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{12}", "12"),
        ("\\boxed{1} then \\boxed{ \\frac{1}{2} }", "\\frac{1}{2}"),
        ("\\boxed{042}", "42"),
        ("\\boxed{$1,234$}", "1234"),
        ("\\boxed {x  +\n y}", "x + y"),
        ("\\boxed{3} and \\boxed{4", "3"),
        ("\\boxed{}", "ERR"),
        ("nothing", "ERR"),
    ],
)
def test_the_last_closed_box_is_read(text: str, answer: str) -> None:
    assert BOXED.read(text) == answer


def test_gold_answers_have_the_same_form() -> None:
    assert BOXED.normal(" 007 ") == BOXED.read("\\boxed{7}") == "7"
