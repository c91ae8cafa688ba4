"""``autotts live``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import typer

import autotts_jax as tts
from autotts_jax.cli.console import OUT, bar, interruptible
from autotts_jax.cli.options import (
    Budget,
    Cost,
    ProbeCost,
    Quiet,
    Seed,
    Shown,
    Shuffles,
    check_directory,
    check_file,
    parsed_betas,
    parsed_orders,
    wing,
    wrote,
)
from autotts_jax.cli.tables import Form, print_records, results_tables

if TYPE_CHECKING:
    from autotts_collect.engines import Engine, Sampling
    from autotts_collect.live import Asked, Progress

__all__ = ["EXAMPLES", "live"]

EXAMPLES = (
    "autotts live --controller confidence_momentum --recorded Qwen3-8B/aime24.json",
    "autotts live --controller best.py:CONTROLLER --beta 0.3 --model Qwen/Qwen3-8B "
    "--base-url http://localhost:8000/v1 --questions mine.jsonl --out live",
)

#: Environment variables that may hold the server's key, the first one first. A command line is no place for it.
_KEYS = ("AUTOTTS_API_KEY", "OPENAI_API_KEY")


def live(
    controller: Annotated[
        list[str],
        typer.Option(help="[LABEL=]NAME[:key=value,…] or [LABEL=]FILE.py:ATTRIBUTE[:…]; repeatable."),
    ],
    beta: Annotated[str, typer.Option(help="β, or a grid: START:STOP:COUNT, or values as in 0,0.5,1.")] = "0.5",
    base_url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server's API; its key, if any, is $AUTOTTS_API_KEY.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, as the server names it.")] = None,
    recorded: Annotated[Path | None, typer.Option(help="Recorded branches instead of a model.")] = None,
    questions: Annotated[Path | None, typer.Option(help="Questions: .jsonl, .csv or .parquet.")] = None,
    question_column: Annotated[str, typer.Option(help="The column of the questions.")] = "question",
    answer_column: Annotated[str, typer.Option(help="The column of their gold answers.")] = "answer",
    branches: Annotated[int, typer.Option(help="N, branches that may be opened for a question.")] = 64,
    interval: Annotated[int, typer.Option(help="Δ, tokens per interval.")] = 500,
    max_tokens: Annotated[int, typer.Option(help="The most tokens of a branch.")] = 32_768,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Of sampling.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Of sampling; 0 for no limit.")] = 0,
    suffix: Annotated[
        str | None, typer.Option(help="What is appended to read an answer; defaults to Dynasor's.")
    ] = None,
    suffix_tokens: Annotated[int, typer.Option(min=1, help="Tokens that the reply to it may have.")] = 20,
    shuffles: Shuffles = 1,
    orders: Annotated[str, typer.Option(help="Of recorded branches: published, random, or bootstrap.")] = "published",
    seed: Seed = 0,
    cost: Cost = tts.CostModel.RELEASED,
    probe_cost: ProbeCost = 0,
    budget: Budget = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for tables and the journal; run the same command again to go on.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Trajectory file for what was generated: .parquet or .json.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = 64,
    patience: Annotated[float, typer.Option(min=0, help="Minutes for which a request may keep failing.")] = 10,
    form: Shown = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Answer questions with a model that a controller steers.

    The rules are those of replay, and so are the tables, with times. With --shuffles, each question is run so often.
    """
    betas = parsed_betas(beta)
    settings = [tts.Setting.parse(text) for text in controller]
    check_directory(out)
    check_file(record)
    if record is not None:
        tts.trajectories.format_of(record)
    if jax.config.values["jax_platforms"] is None:
        # Decisions are small, and a model that is served on this machine wants its accelerators for itself.
        jax.config.update("jax_platforms", "cpu")
    running, engines = _wing("live"), _wing("engines")
    sampling = engines.Sampling(
        branches=branches,
        delta=interval,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
    )
    with interruptible(_farewell(out)), bar("questions") as shown:
        task = shown.add_task("reading", total=None)
        if recorded is not None:
            _refuse("--recorded", base_url=base_url, model=model, questions=questions)
            engine, asked, parts = _of_recording(recorded, shuffles, parsed_orders(orders), seed)
            grading = _wing("answers").VERBATIM
        else:
            engine = _of_server(base_url, model, sampling)
            if questions is None:
                raise tts.InputError("--questions: missing. Name a file of questions, or --recorded branches.")
            asked = _wing("questions").read_questions(questions, question_column, answer_column)
            parts, grading = [(questions.stem, len(asked))], _wing("answers").BOXED

        def watch(progress: Progress) -> None:
            done = max(progress.finished, 1)
            text = f"{100 * progress.correct / done:.1f} % right, {progress.tokens / done:,.0f} tokens each"
            failed = f", {progress.failed} failed" if progress.failed else ""
            shown.update(task, description=text + failed, completed=progress.finished, total=progress.total)

        try:
            results = asyncio.run(
                running.run(
                    engine,
                    asked,
                    settings,
                    parts=parts,
                    betas=betas,
                    shuffles=shuffles,
                    rules=tts.Rules(cost=cost, probe_cost=probe_cost, budget=budget),
                    suffix=engines.DYNASOR._replace(**_given(text=suffix), most=suffix_tokens),
                    grading=grading,
                    seed=seed,
                    at_once=at_once,
                    patience=engines.Patience(60 * patience),
                    journal=None if out is None else out / "journal.jsonl",
                    record=record is not None,
                    progress=watch,
                )
            )
        except running.UnfinishedError as unfinished:
            raise OSError(None, str(unfinished), "live") from None
    written = [] if out is None else results.write(out)
    if record is not None:
        tts.write_trajectories(results.recording, record)
        written.append(record)
    if form is Form.TABLE:
        results_tables(OUT, results, full=True)
        for path in written:
            wrote(path)
    else:
        print_records(OUT, results.table.to_pylist(), form)


def _wing(module: str) -> Any:
    return wing("live", f"autotts_collect.{module}", "collect")


def _of_recording(
    path: Path, shuffles: int, orders: tts.Orders, seed: int
) -> tuple[Engine, list[Asked], list[tuple[str, int]]]:
    """An engine that serves recorded branches, and the questions that it has."""
    datasets = tts.open_datasets(path)
    dataset = datasets[0] if len(datasets) == 1 else tts.concatenate(datasets)
    drawn = tts.draw_orders(datasets, shuffles, orders, seed)
    asked = [_wing("live").Asked(text, gold) for text, gold in zip(dataset.texts, dataset.golds, strict=True)]
    return _wing("engines").Recorded(dataset, drawn), asked, list(dataset.parts)


def _of_server(base_url: str | None, model: str | None, sampling: Sampling) -> Engine:
    if base_url is None or model is None:
        raise tts.InputError("--base-url, --model: missing. Name a server and its model, or --recorded branches.")
    key = next((os.environ[name] for name in _KEYS if os.environ.get(name)), None)
    engine: Engine = _wing("engines.http").Http(base_url, model, sampling, api_key=key)
    return engine


def _refuse(beside: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise tts.InputError(f"--{name.replace('_', '-')}: not used beside {beside}. Leave one of them out.")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _farewell(out: Path | None) -> str:
    if out is None:
        return "Interrupted: nothing was kept. With --out DIR, finished questions are, and a run can go on."
    return f"Interrupted: finished questions are kept in {out}. The same command goes on from there."
