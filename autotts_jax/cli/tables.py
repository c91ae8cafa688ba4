"""Tables in the terminal, fitted to its width, and the same as JSON, Markdown or CSV."""

from __future__ import annotations

import collections
import enum
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.box import MARKDOWN, SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

import autotts_jax as tts
from autotts_jax.bench import Timing
from autotts_jax.cli.console import Plain, printable
from autotts_jax.results import write_csv

__all__ = ["Form", "print_records", "print_table", "results_tables", "timing_tables", "trace_account"]

#: Characters of an answer or a name that a table shows.
_LONGEST = 60

#: Characters to which words are folded before a column is left out.
_FOLDED = 12


class Form(enum.StrEnum):
    """How a command prints what it found."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    CSV = "csv"


def print_records(out: Console, records: Sequence[Mapping[str, Any]], form: Form) -> None:
    """Prints records that have the same fields in a form for programs, or as Markdown."""
    match form:
        case Form.JSON:
            text = json.dumps(list(records), indent=1, allow_nan=False)
        case Form.CSV:
            buffer = io.BytesIO()
            write_csv(pa.Table.from_pylist(list(records)), buffer)
            text = buffer.getvalue().decode().rstrip("\n")
        case _:
            table = Table(box=MARKDOWN)
            for name, value in records[0].items():
                table.add_column(name, no_wrap=True, justify="right" if isinstance(value, int | float) else "left")
            for record in records:
                cells = ("" if value is None else str(value) for value in record.values())
                table.add_row(*(cell.replace("|", "\\|").replace("\n", " ") for cell in cells))
            written = io.StringIO()
            Plain(file=written, width=1_000_000).print(table)
            text = "\n".join(line for line in written.getvalue().splitlines() if line.strip())
    out.print(text, soft_wrap=True)


def print_table(
    out: Console,
    title: str,
    columns: Mapping[str, Sequence[str]],
    *,
    texts: Sequence[str],
    spare: Sequence[str] = (),
    sections: Sequence[int] = (),
) -> None:
    """Prints a table that never crops a number: where the terminal is narrow, with fewer columns, or as lists.

    Args:
      out: The console.
      title: Above the table; may be empty.
      columns: The cells of each column.
      texts: Columns of words, which may be folded; the others hold numbers.
      spare: Columns that are left out where there is no room, the first one first.
      sections: Rows after which a section ends.
    """
    kept = [name for name in columns if any(columns[name])]
    for number in range(len(spare) + 1):
        kept = [name for name in kept if name not in spare[:number]]
        table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        least = 1
        for name in kept:
            longest = max(map(cell_len, [name, *columns[name]]))
            least += 1 + (min(longest, _FOLDED) if name in texts else longest)
            table.add_column(name, overflow="fold") if name in texts else table.add_column(
                name, justify="right", no_wrap=True, min_width=longest
            )
        for row, cells in enumerate(zip(*(columns[name] for name in kept), strict=True)):
            table.add_row(*cells, end_section=row in sections)
        if least <= out.width:
            out.print(table)
            left_out = [name for name in spare[:number] if name in columns]
            if left_out:
                out.print(f"(left out, for want of room: {', '.join(left_out)})")
            return
    kept = [name for name in columns if any(columns[name])]
    out.print(title)
    for cells in zip(*(columns[name] for name in kept), strict=True):
        out.print(*(f"{name}: {cell}" for name, cell in zip(kept, cells, strict=True)), sep="\n", end="\n\n")


def results_tables(out: Console, results: tts.Results, *, full: bool) -> None:
    """One table per dataset; the less telling columns, and unless `full` most βs, are only in the files."""
    left_out = 0
    by_dataset = itertools.groupby(results.table.to_pylist(), lambda row: row["dataset"])
    for dataset, rows in by_dataset:
        picked, sections = [], []
        for _, group in itertools.groupby(rows, lambda row: row["controller"]):
            grid = list(group)
            few = grid if full or len(grid) <= 3 else [grid[0], grid[len(grid) // 2], grid[-1]]
            left_out += len(grid) - len(few)
            picked += few
            sections.append(len(picked) - 1)
        columns = {
            "controller": [printable(row["controller"], _LONGEST) for row in picked],
            "β": ["" if row["beta"] is None else f"{row['beta']:g}" for row in picked],
            "accuracy %": [
                f"{100 * row['accuracy']:.2f}"
                + ("" if row["accuracy_se"] is None else f" ± {100 * row['accuracy_se']:.1f}")
                for row in picked
            ],
            "tokens": [f"{row['tokens']:,.0f}" for row in picked],
            "sequential": [f"{row['sequential_tokens']:,.0f}" for row in picked],
            "opened": [f"{row['opened']:.1f}" for row in picked],
        }
        names = ("opened", "sequential")
        print_table(out, printable(dataset, _LONGEST), columns, texts=["controller"], spare=names, sections=sections)
    if left_out:
        out.print(f"{left_out} more rows, between these βs: --full prints all, --out DIR writes all.")


def timing_tables(out: Console, timings: Sequence[Timing]) -> None:
    """What `autotts bench` measured."""

    def show(title: str, columns: dict[str, Callable[[Timing], str]], spare: Sequence[str] = ()) -> None:
        cells = {"controller": [t.controller for t in timings]}
        cells |= {name: [value(t) for t in timings] for name, value in columns.items()}
        print_table(out, title, cells, texts=["controller"], spare=spare)

    columns: dict[str, Callable[[Timing], str]] = {
        "comp. s": lambda t: f"{t.compile_seconds:.1f}",
        "run s": lambda t: f"{t.run_seconds:.3f}",
        "µs/ep.": lambda t: f"{t.us_per_episode:.2f}",
        "ep./s": lambda t: f"{t.episodes_per_second / 1e3:,.0f}k",
        "rounds/s": lambda t: f"{t.rounds_per_second / 1e6:.2f}M",
        "occup.": lambda t: f"{t.occupancy:.1%}",
        "MiB": lambda t: "" if t.memory_bytes is None else f"{t.memory_bytes / 2**20:.0f}",
        "×py.": lambda t: "" if t.times_python is None else f"{t.times_python:,.0f}",
    }
    title = f"{timings[0].device}, jax {timings[0].jax}, {timings[0].episodes:,} episodes each"
    show(title, columns, ["MiB", "rounds/s", "occup.", "ep./s", "run s"])
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

    def short(answer: object) -> str:
        return printable(str(answer), _LONGEST).replace("\n", " ")

    names = ("round", "branch", "continue", "prune", "finished", "votes", "tokens")
    columns: dict[str, list[str]] = {name: [] for name in names}
    for moment in told.rounds:
        slots: dict[str, list[int]] = {kind: [] for kind in ("BRANCH", "CONTINUE", "PRUNE")}
        for event in moment.events:
            if event.kind in slots and event.slot is not None:
                slots[event.kind].append(event.slot)
        ended = [e for e in moment.events if e.kind in ("BRANCH", "CONTINUE") and e.answer is not None]
        cells = (
            str(moment.number),
            *(_ranges(slots[kind]) for kind in ("BRANCH", "CONTINUE", "PRUNE")),
            ", ".join(f"{e.slot}: {short(e.answer)}" for e in ended),
            ", ".join(f"{short(answer)}×{count}" for answer, count in list(moment.votes.items())[:3]),
            f"{moment.tokens:,}",
        )
        for name, cell in zip(names, cells, strict=True):
            columns[name].append(cell)
    outcome = told.outcome
    right = "right" if outcome["correct"] else f"wrong: the gold answer is {short(told.gold)}"
    out.print(f"{told.dataset}, question {told.question}, shuffle {told.shuffle}")
    out.print(f"{told.controller} {json.dumps(told.params)}", soft_wrap=True)
    print_table(out, "", columns, texts=names[1:-1], spare=("continue", "finished"))
    out.print(
        f"{outcome['stop_reason'].lower()} {short(outcome['answer'])}, {right}; {outcome['tokens']:,} tokens, "
        f"{outcome['sequential_tokens']:,} of them sequential",
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
