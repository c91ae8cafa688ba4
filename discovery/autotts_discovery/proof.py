"""The proof: a run's best candidate against every hand-made controller on data that the search never saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

import autotts_jax as tts
from autotts_discovery import report, wall
from autotts_discovery.candidates import check_source
from autotts_discovery.judge import Judge, Terms, Verdict, make_bench
from autotts_discovery.ledger import Ledger, Proved, VaultOpened, stamp
from autotts_discovery.loop import BETAS, SHUFFLES, refuse_shared
from autotts_jax.controllers import CONTROLLERS
from autotts_jax.errors import InputError
from autotts_jax.provenance import distinct_datasets, used_datasets

__all__ = ["Proof", "prove"]

#: The candidate's name in the tables.
FOUND = "found"


class Proof(NamedTuple):
    """What held-out data says.

    Attributes:
      verdict: The judge's, there.
      comparison: `frontier.compare` of the candidate with every hand-made controller, paired by question, p-values
        corrected over the whole table.
      results: All curves.
      openings: How often the run has opened held-out data, this time included.
    """

    verdict: Verdict
    comparison: pa.Table
    results: tts.Results
    openings: int


def prove(run: str | Path, data: tts.Dataset | Sequence[tts.Dataset]) -> Proof:
    """Judges a run's best candidate on held-out data. The ledger says so before anything is seen.

    Args:
      run: The run's directory.
      data: Questions that are not in the search set.

    Returns:
      What came of it, which is in the ledger, too.

    Raises:
      InputError: if there is no such run, it has found nothing, or the data share questions with the search set.
    """
    datasets, _ = distinct_datasets([data] if isinstance(data, tts.Dataset) else list(data))
    if not datasets:
        raise InputError("data: empty; there must be at least one.")
    with Ledger.locked(run) as ledger:
        best, begun = ledger.best, ledger.begun
        if best is None:
            raise InputError(f"{run}: no candidate was judged. Go on with the run by --resume, or start another one.")
        refuse_shared(datasets, begun.questions)
        candidate = best.proposed.candidate
        source = ledger.kept("candidates", f"{candidate}.py") or ""
        check_source(source)
        features = datasets[0].store.feature_names
        artefact = wall.export(source, feature_names=features, trust=begun.trust)
        ledger.append(VaultOpened(**stamp(ledger.elapsed), candidate=candidate, datasets=used_datasets(datasets)))
        terms = Terms(latency=begun.settings.latency)
        with Judge(make_bench(datasets, betas=BETAS, shuffles=SHUFFLES, terms=terms)) as judge:
            verdict = judge.judge(artefact)
        found = tts.Setting(artefact.controller(), label=FOUND)
        results = tts.sweep(datasets, [found, *map(tts.Setting, CONTROLLERS.values())], shuffles=SHUFFLES)
        comparison = tts.frontier.compare(results, FOUND)
        rows = tuple(comparison.to_pylist())
        ledger.append(
            Proved(
                **stamp(ledger.elapsed), candidate=candidate, verdict=verdict.model_dump(mode="json"), comparison=rows
            )
        )
        report.write(ledger)
        return Proof(verdict, comparison, results, len(ledger.of(VaultOpened)))
