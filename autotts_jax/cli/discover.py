"""``autotts discover``: the loop, and what can be asked of a run."""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import autotts_jax as tts
from autotts_jax.cli.console import ERR, OUT, interruptible, printable, status
from autotts_jax.cli.options import Data, Quiet, opened, wing, wrote
from autotts_jax.cli.tables import print_table

if TYPE_CHECKING:
    from autotts_discovery.loop import Standing
    from autotts_discovery.proposers import Tried

__all__ = ["EXAMPLES", "app"]

EXAMPLES = (
    "autotts discover --out found",
    "autotts sweep --controller found/best.py:CONTROLLER",
    "autotts discover Qwen3-8B/aime24.json --hold-out Qwen3-8B/aime25.json --minutes 60 --out found",
    'autotts discover --proposer "command:my-agent --quiet" --latency 1 --out found',
    "autotts discover --proposer gemini --thinking high --tools 8 --dollars 2 --minutes 60 --out found",
    "autotts discover --proposer http --base-url http://localhost:8000/v1 --model Qwen/Qwen3-32B --out found",
    "autotts discover show found",
    "autotts discover judge found --on other.json --against mine.py:CONTROLLER",
)

#: Characters of a name that is shown; twice as many of a reason.
_LONGEST = 60


class _LoopUnlessNamed(typer.core.TyperGroup):
    """A group whose first argument may be a command's name; without one, all arguments are the loop's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the loop's name where no other command's is."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["run", *args])


app = typer.Typer(cls=_LoopUnlessNamed, rich_markup_mode=None, help="Search for a controller, and prove it.")


@app.command("run", epilog="\n".join(["\b", "Examples:", *(f"  {example}" for example in EXAMPLES)]))
def discover(
    out: Annotated[Path, typer.Option(help="The run's directory: empty, new, or with --resume that of the run.")],
    data: Data = None,
    proposer: Annotated[
        str,
        typer.Option(
            help="builtin, gemini, http, files, command:PROGRAM, or tape:RUN. Requests and replies are in --out."
        ),
    ] = "builtin",
    rounds: Annotated[int, typer.Option(help="Requests to the proposer.")] = 5,
    proposals: Annotated[int, typer.Option(help="Controllers that each asks for.")] = 4,
    minutes: Annotated[float, typer.Option(help="Begin nothing new after so long.")] = 15,
    hold_out: Annotated[
        list[Path] | None, typer.Option(help="Data to keep away from, for `autotts discover judge`; repeatable.")
    ] = None,
    traces: Annotated[bool, typer.Option(help="Tell the proposer what happened in episodes.")] = True,
    history: Annotated[bool, typer.Option(help="Tell it what was tried.")] = True,
    tuning: Annotated[bool, typer.Option(help="Tune the candidates' schedules.")] = True,
    tuning_seconds: Annotated[float, typer.Option(help="For each of the two that a round tunes.")] = 20,
    latency: Annotated[
        float | None, typer.Option(help="Cap on sequential tokens, as a multiple of CMC's; defaults to none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 0,
    strategy: Annotated[
        str, typer.Option(help="Whom to build on: lineage, the best of all lines; or archive, a front and niches.")
    ] = "lineage",
    trust: Annotated[bool, typer.Option("--trust", help="Run candidates even where there is no wall.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    reply_minutes: Annotated[
        float, typer.Option(help="That a command may take for a reply, or a language model for an answer.")
    ] = 10,
    model: Annotated[
        str | None, typer.Option(help="Language model that gemini or http calls; gemini's defaults to a cheap one.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="From 0 to 2; defaults to the model's own.")] = None,
    thinking: Annotated[
        str | None, typer.Option(help="low, medium or high, say, or a number of tokens; defaults to the model's own.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Where it is, if not with Google or OpenAI.")] = None,
    tools: Annotated[
        int | None, typer.Option(help="Tool calls that it may make before each reply; defaults to none.")
    ] = None,
    dollars: Annotated[float | None, typer.Option(help="The most to spend, defaults to 5; inf is no limit.")] = None,
    calls: Annotated[int | None, typer.Option(help="The most calls to make; defaults to no limit.")] = None,
    tokens: Annotated[int | None, typer.Option(help="The most tokens, in and out; defaults to no limit.")] = None,
    prices: Annotated[
        Path | None, typer.Option(help="Prices in TOML, for models whose price is not known or has changed.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Search for a controller that beats the hand-made ones.

    A proposer writes controllers; each is judged on the data, tuned, and remembered. The best so far is best.py in
    --out. `autotts discover judge RUN` tests it on other data, `autotts discover show RUN` lists what was tried.
    """
    loop = _wing("loop")
    asked = {
        "model": model,
        "temperature": temperature,
        "thinking": thinking,
        "base_url": base_url,
        "tools": tools,
        "dollars": dollars,
        "calls": calls,
        "tokens": tokens,
        "prices": prices,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    farewell = f"Interrupted: {out} keeps what was done. The same command with --resume goes on from there."
    stop = threading.Event()

    def end() -> None:
        stop.set()
        ERR.print("\nending after what is in flight; Ctrl-C again ends at once", soft_wrap=True)

    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    hidden = ERR.quiet or not ERR.is_terminal
    with interruptible(farewell, end), Progress(*columns, console=ERR, disable=hidden, transient=True) as shown:
        task = shown.add_task("reading", total=None)
        found = loop.discover(
            opened(data),
            out=out,
            proposer=proposer,
            rounds=rounds,
            proposals=proposals,
            minutes=minutes,
            held_out=[dataset for path in hold_out or () for dataset in tts.open_datasets(path)],
            traces=traces,
            history=history,
            tuning=tuning,
            tuning_seconds=tuning_seconds,
            latency=latency,
            seed=seed,
            strategy=strategy,
            trust=trust,
            resume=resume,
            reply_minutes=reply_minutes,
            language_model=loop.ModelOptions(**asked) if asked else None,
            watch=lambda standing: shown.update(task, description=printable(_lines(standing))),
            say=lambda text: ERR.print(f"note: {text}", soft_wrap=True),
            stop=stop,
        )
    _candidates(found.tried)
    wrote(found.report)
    if found.reason == "interrupted":
        ERR.print(farewell, soft_wrap=True)
        raise typer.Exit(130)
    if found.reason == "minutes":
        ERR.print(f"note: {minutes:g} minutes are over. --resume with more --minutes goes on.", soft_wrap=True)
    elif found.reason in ("dollars", "calls", "tokens"):
        ERR.print(f"note: the {found.reason} are spent. --resume with more --{found.reason} goes on.", soft_wrap=True)
    _spent(out)
    if found.best is None:
        raise tts.InputError(f"{out}: no candidate could be judged. `autotts discover show {out}` says why.")
    wrote(found.file)
    OUT.print(f"best: {_points(found.best.gain, found.best.gain_se)} points above the envelope, seen on these data")


@app.command()
def judge(
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    on: Annotated[
        list[Path] | None, typer.Option(help="Held-out data; repeatable. Defaults to what --hold-out named.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="A rival to compare with, [LABEL=]FILE.py:ATTRIBUTE or a name[:key=value,…]; repeatable."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Judge a run's best controller on data that the search has not seen.

    The ledger says so before anything is seen: held-out data is a vault, and how often it was opened is shown.
    """
    proof, ledger = _wing("proof"), _wing("ledger")
    kept = ledger.Ledger(run).begun.held_out
    paths = on or [Path(source) for source in dict.fromkeys(used.source for used in kept) if source]
    if not paths:
        raise tts.InputError("--on: no data, and the run was given no --hold-out. Name some.")
    rivals = [tts.Setting.parse(text) for text in against or ()]
    with interruptible("Interrupted: the ledger says that the data were used."), status("judging"):
        proved = proof.prove(run, opened(paths), rivals)
    rows = proved.comparison.to_pylist()
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        some = [row for row in rows if row["dataset"] == dataset]
        columns = {
            "against": [row["baseline"] for row in some],
            "at": [row["at"] for row in some],
            "effect": [_effect(row, "effect") for row in some],
            "95 %": [f"{_effect(row, 'low')} … {_effect(row, 'high')}" for row in some],
            "p (Holm)": [f"{row['p_corrected']:.3f}" for row in some],
        }
        print_table(OUT, printable(dataset, _LONGEST), columns, texts=["at"])
    OUT.print("effect: at equal tokens, points of accuracy more; at equal accuracy, times the tokens", soft_wrap=True)
    verdict = proved.verdict
    OUT.print(f"gain over the envelope of the hand-made ones: {_points(verdict.gain, verdict.gain_se)} points")
    wrote(proved.folder)
    OUT.print(f"held-out data {_opened(proved.openings)} in this run")


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    html: Annotated[bool, typer.Option("--html", help="Write its report.html anew, too.")] = False,
) -> None:
    """List what a run has tried, and what came of it."""
    ledger, evidence = _wing("ledger"), _wing("evidence")
    found = ledger.Ledger(run)
    if html:
        wrote(_wing("report").write(found))
    _candidates(found.tried())
    for corrected in found.of(ledger.Corrected)[-1:]:
        correction = evidence.Correction.model_validate(corrected.figures)
        OUT.print(f"{correction.candidate[:8]}: {evidence.sentence(correction)}", soft_wrap=True)
    for gap in evidence.gaps(found):
        OUT.print(
            f"{gap.candidate[:8]}, tuned on half of the questions: gained {100 * gap.seen:+.2f} points there, "
            f"{100 * gap.unseen:+.2f} on the others",
            soft_wrap=True,
        )
    _spent(run)
    for replied in found.of(ledger.Replied):
        if replied.failure:
            OUT.print(f"reply {replied.number}: {printable(replied.failure, _LONGEST)}")
    for proved in found.of(ledger.Proved):
        gain = _points(proved.verdict["gain"], proved.verdict["gain_se"])
        OUT.print(f"{proved.candidate[:8]} on held-out data: {gain} points above the envelope there")
    OUT.print(f"held-out data {_opened(len(found.of(ledger.VaultOpened)))} in this run")


def _wing(module: str) -> ModuleType:
    return wing("discover", f"autotts_discovery.{module}", "discovery")


def _lines(standing: Standing) -> str:
    """How a run stands: what it does, what it has, what was refused."""
    best, refused = standing.best, sum(standing.refused.values())
    parts = [
        f"round {standing.round} of {standing.rounds}",
        f"{standing.candidates} candidates",
        f"{standing.minutes:.1f} of {standing.limit:g} minutes",
    ]
    lines = [standing.doing, ", ".join(parts + ([] if standing.dollars is None else [f"${standing.dollars:.2f}"]))]
    if best is not None:
        lines.append(f"best: {_points(best.gain, best.gain_se)} points, {best.digest[:8]} {best.name}")
    if refused:
        stages = sorted(standing.refused.items(), key=lambda item: -item[1])
        lines.append(f"{refused} refused: {', '.join(f'{stage} {count}' for stage, count in stages)}")
    return "\n".join(lines)


def _spent(run: Path) -> None:
    """What a run's calls of a language model have cost, if it has made any, and what was wrong with them."""
    ledger = _wing("ledger")
    found = ledger.Ledger(run)
    called, spent = found.of(ledger.Called), found.spent
    if not called:
        return
    unknown = sum(call.dollars is None for call in called)
    price = f"${spent.dollars:.2f}" + (f" and {unknown} calls without a price" if unknown else "")
    OUT.print(f"{called[-1].model}: {spent.calls} calls, {spent.tokens:,} tokens, {price}", soft_wrap=True)
    for fault, count in collections.Counter(call.fault for call in called if call.fault).most_common():
        OUT.print(f"a call: {printable(fault, 2 * _LONGEST)}{f' × {count}' if count > 1 else ''}", soft_wrap=True)


def _candidates(tried: Sequence[Tried]) -> None:
    """What was tried, the best first, then refusals by reason."""
    judged = sorted((one for one in tried if one.lower is not None), key=lambda one: -(one.lower or 0))
    if judged:
        columns = {
            "candidate": [one.digest[:8] for one in judged],
            "round": [str(one.round) for one in judged],
            "gain, points": [_points(one.gain, one.gain_se) for one in judged],
            "at least": [f"{100 * (one.lower or 0):+.2f}" for one in judged],
            "tokens": [f"{one.tokens or 0:,.0f}" for one in judged],
            "sequential": [f"{one.sequential or 0:,.0f}" for one in judged],
            "name": [printable(one.name, _LONGEST) + (", tuned" if one.tuned else "") for one in judged],
        }
        print_table(OUT, "", columns, texts=["name"], spare=("sequential", "round"))
    refusals = collections.Counter((one.refused, one.reason) for one in tried if one.refused)
    for (stage, reason), count in refusals.most_common():
        OUT.print(f"refused, {stage}: {printable(reason, 2 * _LONGEST)}{f' × {count}' if count > 1 else ''}")


def _points(gain: float | None, error: float | None) -> str:
    return "" if gain is None or error is None else f"{100 * gain:+.2f} ± {100 * error:.2f}"


def _effect(row: Any, end: str) -> str:
    if row[end] is None:
        return "—"
    return f"{100 * row[end]:+.1f}" if row["at"] == "equal tokens" else f"× {row[end]:.2f}"


def _opened(count: int) -> str:
    return "was never opened" if count == 0 else "was opened once" if count == 1 else f"was opened {count} times"
