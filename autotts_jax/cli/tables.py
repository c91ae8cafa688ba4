"""Tables in the terminal."""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import autotts_jax as tts
from autotts_jax.bench import Timing

__all__ = ["results_tables", "timing_tables", "trace_account"]


def results_tables(out: Console, results: tts.Results) -> None:
    """One table per dataset; the less telling columns are only in the files."""
    tables: dict[str, Table] = {}
    last = ""
    for row in results.table.to_pylist():
        if row["dataset"] not in tables:
            table = tables[row["dataset"]] = Table(title=escape(row["dataset"]), title_justify="left", box=SIMPLE_HEAD)
            table.add_column("controller", min_width=20, overflow="fold")
            for name in ("β", "accuracy %", "tokens", "sequential", "opened"):
                table.add_column(name, justify="right", no_wrap=True)
            last = row["controller"]
        table = tables[row["dataset"]]
        if last != row["controller"]:
            table.add_section()
            last = row["controller"]
        error = "" if row["accuracy_se"] is None else f" ± {100 * row['accuracy_se']:.1f}"
        table.add_row(
            escape(row["controller"]),
            "" if row["beta"] is None else f"{row['beta']:g}",
            f"{100 * row['accuracy']:.2f}{error}",
            *(f"{row[name]:,.0f}" for name in ("tokens", "sequential_tokens")),
            f"{row['opened']:.1f}",
        )
    for table in tables.values():
        out.print(table)


def timing_tables(out: Console, timings: Sequence[Timing]) -> None:
    """What `autotts bench` measured."""

    def show(title: str, columns: dict[str, Callable[[Timing], str]]) -> None:
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("controller", min_width=20, overflow="fold")
        for name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        for t in timings:
            table.add_row(t.controller, *(value(t) for value in columns.values()))
        out.print(table)

    columns: dict[str, Callable[[Timing], str]] = {
        "comp. s": lambda t: f"{t.compile_seconds:.1f}",
        "run s": lambda t: f"{t.run_seconds:.3f}",
        "µs/ep.": lambda t: f"{t.us_per_episode:.2f}",
        "ep./s": lambda t: f"{t.episodes_per_second / 1e3:,.0f}k",
        "rounds/s": lambda t: f"{t.rounds_per_second / 1e6:.2f}M",
        "occup.": lambda t: f"{t.occupancy:.1%}",
        "MiB": lambda t: "" if t.memory_bytes is None else f"{t.memory_bytes / 2**20:.0f}",
    }
    if any(t.times_python for t in timings):
        columns["×py."] = lambda t: "" if t.times_python is None else f"{t.times_python:,.0f}"
    show(f"{timings[0].device}, jax {timings[0].jax}, {timings[0].episodes:,} episodes each", columns)
    if timings[0].bandwidth is not None:
        bandwidth = f"{timings[0].bandwidth / 1e9:,.1f} GB/s per device"
        columns = {
            "kB": lambda t: f"{(t.round_bytes or 0) / 1e3:,.0f}",
            "thousand operations": lambda t: f"{(t.round_operations or 0) / 1e3:,.0f}",
            "bandwidth share": lambda t: f"{t.bandwidth_share or 0:.0%}",
        }
        show(f"one round of a device's lanes; bandwidth {bandwidth}", columns)


def trace_account(out: Console, told: tts.traces.Trace) -> None:
    """One line per round."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("round", "branch", "continue", "prune", "finished", "votes", "tokens"):
        number = name in ("round", "tokens")
        table.add_column(
            name, justify="right" if number else "left", overflow="fold", no_wrap=number or name == "votes"
        )
    for moment in told.rounds:
        slots: dict[str, list[int]] = {kind: [] for kind in ("BRANCH", "CONTINUE", "PRUNE")}
        for event in moment.events:
            if event.kind in slots and event.slot is not None:
                slots[event.kind].append(event.slot)
        finished = [f"{e.slot}: {e.answer}" for e in moment.events if e.kind in ("BRANCH", "CONTINUE") and e.answer]
        table.add_row(
            str(moment.number),
            *(_ranges(slots[kind]) for kind in ("BRANCH", "CONTINUE", "PRUNE")),
            ", ".join(finished),
            ", ".join(f"{answer}×{count}" for answer, count in list(moment.votes.items())[:3]),
            f"{moment.tokens:,}",
        )
    outcome = told.outcome
    right = "right" if outcome["correct"] else f"wrong: the gold answer is {told.gold}"
    out.print(f"{told.dataset}, question {told.question}, shuffle {told.shuffle}", highlight=False)
    out.print(f"{told.controller} {json.dumps(told.params)}", highlight=False, soft_wrap=True)
    out.print(table)
    out.print(
        f"{outcome['stop_reason'].lower()} {outcome['answer']}, {right}; {outcome['tokens']:,} tokens, "
        f"{outcome['sequential_tokens']:,} of them sequential",
        highlight=False,
        soft_wrap=True,
    )


def _ranges(numbers: Sequence[int]) -> str:
    """0–3, 5: ranges of slots; repeated ones carry a count."""
    texts, counts = [], collections.Counter(numbers)
    for _, group in itertools.groupby(enumerate(sorted(counts)), lambda pair: (pair[1] - pair[0], counts[pair[1]])):
        run = [number for _, number in group]
        times = f" × {counts[run[0]]}" if counts[run[0]] > 1 else ""
        texts.append((f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}") + times)
    return ", ".join(texts)
