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
      folder: The results folder that they are kept in: ``proof-<n>`` in the run.
      openings: How often the run has opened held-out data, this time included.
    """

    verdict: Verdict
    comparison: pa.Table
    results: tts.Results
    folder: Path
    openings: int


def prove(
    run: str | Path, data: tts.Dataset | Sequence[tts.Dataset], against: Sequence[tts.Setting | tts.Controller] = ()
) -> Proof:
    """Judges a run's best candidate on held-out data. The ledger says so before anything is seen.

    Args:
      run: The run's directory.
      data: Questions that are not in the search set.
      against: Rivals to compare it with, beside the hand-made controllers: replayed on the same shuffles. The gain in
        the verdict is that over the hand-made ones alone.

    Returns:
      What came of it, which is in the ledger, too.

    Raises:
      InputError: if there is no such run, it has found nothing, the data share questions with the search set, or a
        rival breaks the contract; then nothing was opened.
    """
    datasets, _ = distinct_datasets([data] if isinstance(data, tts.Dataset) else list(data))
    if not datasets:
        raise InputError("data: empty; there must be at least one.")
    features = datasets[0].store.feature_names
    rivals = _rivals(against, features)
    with Ledger.locked(run) as ledger:
        best, begun = ledger.best, ledger.begun
        if best is None:
            raise InputError(f"{run}: no candidate was judged. Go on with the run by --resume, or start another one.")
        refuse_shared(datasets, begun.questions)
        candidate = best.proposed.candidate
        source = ledger.kept("candidates", f"{candidate}.py") or ""
        check_source(source)
        artefact = wall.export(source, feature_names=features, trust=begun.trust)
        ledger.append(VaultOpened(**stamp(ledger.elapsed), candidate=candidate, datasets=used_datasets(datasets)))
        terms = Terms(latency=begun.settings.latency)
        with Judge(make_bench(datasets, betas=BETAS, shuffles=SHUFFLES, terms=terms)) as judge:
            verdict = judge.judge(artefact)
        found = tts.Setting(artefact.controller(), label=FOUND)
        results = tts.sweep(datasets, [found, *map(tts.Setting, CONTROLLERS.values()), *rivals], shuffles=SHUFFLES)
        openings = len(ledger.of(VaultOpened))
        folder = ledger.directory / f"proof-{openings}"
        results.write(folder)
        comparison = tts.frontier.compare(results, FOUND)
        rows = tuple(comparison.to_pylist())
        ledger.append(
            Proved(
                **stamp(ledger.elapsed),
                candidate=candidate,
                verdict=verdict.model_dump(mode="json"),
                comparison=rows,
                results=folder.name,
            )
        )
        report.write(ledger)
        return Proof(verdict, comparison, results, folder, openings)


def _rivals(against: Sequence[tts.Setting | tts.Controller], features: tuple[str, ...]) -> list[tts.Setting]:
    """The rivals as settings with labels that nothing else in the comparison has."""
    rivals = [tts.Setting(rival) if isinstance(rival, tts.Controller) else rival for rival in against]
    taken = {FOUND, *CONTROLLERS}
    for rival in rivals:
        if rival.label in taken:
            raise InputError(f"against {rival.label}: a name that is taken. Give it another, as in NAME=FILE.py:…")
        taken.add(rival.label)
        tts.check_controller(rival.controller, features)
    return rivals
