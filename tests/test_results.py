"""Results: what is in them has a name of its own, knows what it comes from, and is refused where it does not match."""

import dataclasses
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import autotts_jax
from autotts_jax import (
    CONTROLLERS,
    ContractError,
    Dataset,
    InputError,
    Question,
    Results,
    Setting,
    Trajectories,
    act,
    failures,
    sweep,
)
from autotts_jax.cli import main
from autotts_jax.results import FIELDS
from autotts_jax.sweeps import replayed

SC = "self_consistency"

CONTROLLER = """
import dataclasses
from autotts_jax import CONTROLLERS
MINE = dataclasses.replace(CONTROLLERS["self_consistency"], name="mine")
OTHER = dataclasses.replace(CONTROLLERS["early_stopping"], name="mine")
"""


def made(answer: str = "1", name: str = "bench", questions: int = 2) -> Trajectories:
    branches = [([answer] * (1 + i % 3), 500 * (1 + i % 3) + 20, [answer, "2"][i % 2]) for i in range(6)]
    asked = [Question.from_branches(f"question {q}", "1", 500, branches) for q in range(questions)]
    return Trajectories(asked, model="Model", benchmark=name)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return autotts_jax.pack(made())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in, with a file of traces and one of controllers."""
    monkeypatch.chdir(tmp_path)
    autotts_jax.write_trajectories(made(), tmp_path / "Model" / "bench.json")
    (tmp_path / "mine.py").write_text(CONTROLLER, encoding="utf-8")
    return tmp_path


Run = Callable[..., str]


@pytest.fixture
def run(quickly: None, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in that directory, and gives what it printed."""

    def go(*args: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["autotts", *args])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        assert (exit_.value.code or 0) == code, out + err
        return err if code else out

    return go


# --- names -----------------------------------------------------------------------------------------------------------


def test_settings_of_a_controller_have_labels_of_their_own(data: Dataset) -> None:
    results = sweep(data, [f"{SC}:samples=2", SC, f"{SC}:samples=2,beta=1"], betas=[0, 1], shuffles=2)
    assert [row.label for row in results.rows] == [f"{SC}:samples=2", SC, SC, f"{SC}:samples=2,beta=1"]
    assert results.table["controller"].to_pylist() == [row.label for row in results.rows]
    assert repr(results) == (
        f"Results(4 rows of {SC}:samples=2, {SC}, {SC}:samples=2,beta=1; Model/bench; 2 questions × 2 shuffles)"
    )


def test_a_notebook_shows_the_table() -> None:
    data = autotts_jax.pack(dataclasses.replace(made(), model="<b>m</b>"))
    page = sweep(data, [SC], betas=[0, 1], shuffles=1)._repr_html_()
    assert page.count("<tr>") == 3
    assert "&lt;b&gt;m&lt;/b&gt;" in page
    assert "<b>" not in page


def test_different_controllers_of_one_name_are_told_apart(data: Dataset, place: Path) -> None:
    results = sweep(data, ["mine.py:MINE", "mine.py:OTHER", "new=mine.py:OTHER"], betas=[1], shuffles=2)
    first, second, third = (row.label for row in results.rows)
    assert first != second
    assert {first.partition("@")[0], second.partition("@")[0]} == {"mine"}
    assert third == "new"
    assert any(note.startswith("mine: the name of 2 settings; ") and first in note for note in results.notes)
    with pytest.raises(InputError, match="label a: of 2 different settings"):
        sweep(data, [f"a={SC}:samples=2", f"a={SC}:samples=3"], betas=[1], shuffles=2)


def test_what_is_given_twice_counts_once(data: Dataset, place: Path) -> None:
    twice = ["mine.py:MINE", "mine.py:MINE", SC, SC]  # each time the file is run, its functions are new ones
    results = sweep([data, autotts_jax.pack(made(name="copy"))], twice, betas=[1, 0.5, 1.0], shuffles=2)
    assert [(row.label, row.beta) for row in results.rows] == [("mine", 1), ("mine", 0.5), (SC, 1), (SC, 0.5)]
    assert results.parts == [("Model/bench", 2)]
    assert results.notes[:4] == (
        "Model/copy: the same data as Model/bench; counted once.",
        "mine: given twice; counted once.",
        f"{SC}: given twice; counted once.",
        "β = 1: given more than once; counted once.",
    )


def test_datasets_of_one_name_are_told_apart(data: Dataset) -> None:
    other = autotts_jax.pack(made("3"))
    results = sweep([data, other], SC, betas=[1], shuffles=2)
    assert [name for name, _ in results.parts] == [f"Model/bench@{d.digests[0][:6]}" for d in (data, other)]
    assert len(set(results.table["dataset"].to_pylist())) == 2
    with pytest.raises(InputError, match="some of its data are there twice"):
        sweep([data, autotts_jax.concatenate([other, data])], SC, betas=[1], shuffles=2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"a\nb={SC}", "not printable"),
        (f"{SC}:samples=2,samples=3", "samples is given twice"),
        ("confidence_momentum:delta_slack=inf", "outside"),
        ("parallel_probe:chains=3e9", "outside 1 to"),
    ],
)
def test_settings_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Setting.parse(text)


def test_values_that_a_parameter_cannot_hold() -> None:
    free = dataclasses.replace(CONTROLLERS[SC], schedule=lambda beta: CONTROLLERS[SC].schedule(beta), bounds={})
    with pytest.raises(InputError, match="does not fit into an int32"):
        Setting(free, {"samples": 3e9})
    with pytest.raises(InputError, match="not a finite number"):
        Setting(free, {"samples": float("inf")})


# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(data: Dataset, tmp_path: Path) -> Path:
    sweep(data, [f"{SC}:samples=2", "early_stopping"], betas=[0, 1], shuffles=2).write(tmp_path / "results")
    return tmp_path / "results"


def test_a_folder_gives_back_the_results(data: Dataset, folder: Path, tmp_path: Path) -> None:
    results = autotts_jax.read_results(folder)
    again = sweep(data, [f"{SC}:samples=2", "early_stopping"], betas=[0, 1], shuffles=2)
    for field in FIELDS:
        np.testing.assert_array_equal(results.sums[field], again.sums[field])
    assert results.table.equals(again.table)
    assert results.per_question.equals(again.per_question)
    (used,) = results.provenance.datasets
    assert (used.label, used.questions, used.digest) == ("Model/bench", 2, data.digests[0])
    assert results.provenance.settings == again.provenance.settings
    assert results.provenance.versions["jax"] == autotts_jax.provenance.versions()["jax"]
    # Its controllers decide the same.
    dataset, orders, rules = replayed(results, [data])
    for row, original in zip(results.rows, again.rows, strict=True):
        found, wanted = (failures.watch(dataset, one, orders, rules) for one in (row, original))
        np.testing.assert_array_equal(found.outcome.tokens, wanted.outcome.tokens)
        np.testing.assert_array_equal(found.outcome.answer, wanted.outcome.answer)
    results.write(tmp_path / "copy")
    assert (tmp_path / "copy" / "sweep.json").read_bytes() == (folder / "sweep.json").read_bytes()


def test_features_reach_a_swept_controller() -> None:
    base = CONTROLLERS[SC]

    def step(params: Any, memory: Any, obs: Any) -> Any:
        stop = (obs.round > 0) & (obs.feature("entropy")[0] >= 0)
        return memory, act(obs, branch=jnp.where(obs.round == 0, 1, 0), continue_=obs.active, stop=stop, answer=0)

    reader = dataclasses.replace(base, name="reader", step=step, probe_everything=True)
    data = autotts_jax.pack(made())
    features = np.zeros((*data.store.answers.shape, 1), np.float32)
    with pytest.raises(InputError, match="feature 'entropy': not recorded"):
        sweep(data, reader, betas=[1], shuffles=1)
    store = dataclasses.replace(data.store, features=features, feature_names=("entropy",))
    results = sweep(dataclasses.replace(data, store=store), reader, betas=[1], shuffles=1)
    assert results.artefacts["reader"].described.feature_names == ("entropy",)


def test_answers_from_nowhere_are_noted_and_strictly_refused(data: Dataset) -> None:
    gold = int(data.store.gold[0])

    def step(params: Any, memory: Any, obs: Any) -> Any:
        return memory, act(obs, branch=1, continue_=obs.active, stop=obs.round > 0, answer=gold)

    knowing = dataclasses.replace(CONTROLLERS[SC], name="knowing", step=step, probe_everything=True)
    orders = autotts_jax.published_orders(data.store, 2)
    shown = [[gold in data.store.answers[q, orders[q, s, 0], :1] for s in range(2)] for q in range(2)]
    results = sweep(data, knowing, betas=[1], shuffles=2)
    assert results.sums["unshown"].sum() == 4 - np.sum(shown) > 0
    assert f"knowing: {4 - np.sum(shown)} answers were never shown to it, and count as none." in results.notes
    with pytest.raises(ContractError, match="knowing"):
        sweep(data, knowing, betas=[1], shuffles=2, strict=True)
    sweep(data, SC, betas=[1], shuffles=2, strict=True)


def test_the_command_checks_controllers_from_files(run: Run, place: Path) -> None:
    peeking = """
from autotts_jax import CONTROLLERS, act
import dataclasses, jax.numpy as jnp
def step(params, memory, obs):
    return memory, act(obs, branch=1, answer=7)
BAD = dataclasses.replace(CONTROLLERS["self_consistency"], name="bad", step=step)
"""
    (place / "bad.py").write_text(peeking, encoding="utf-8")
    line = (
        "sweep",
        "Model/bench.json",
        "--controller",
        "bad.py:BAD",
        "--beta",
        "1",
        "--shuffles",
        "1",
        "--out",
        "out",
    )
    assert "bad" in run(*line, code=2)
    assert not (place / "out" / "sweep.json").exists()
    run(*line, "--no-check")


def test_a_copied_folder_needs_no_controllers_file(run: Run, place: Path) -> None:
    run(
        "sweep",
        "Model/bench.json",
        "--controller",
        "mine.py:OTHER",
        "--beta",
        "0,1",
        "--shuffles",
        "2",
        "--out",
        "out",
    )
    told = run("trace", "Model/bench.json", "--controller", "mine.py:OTHER", "--beta", "1", "--question", "1")
    (place / "mine.py").write_text("raise SystemExit('this ran')", encoding="utf-8")
    shutil.move(place / "out", place / "elsewhere" / "deep")
    assert run("trace", "elsewhere/deep", "--controller", "mine", "--beta", "1", "--question", "1") == told
    run("plot", "elsewhere/deep", "--out", "curves.svg")
    assert run("trace", "elsewhere/deep", "--question", "1") == told  # the first setting, the middle β
    said = run("trace", "elsewhere/deep", "--controller", "other", code=2)
    assert "not in these results. Use one of mine." in said
    assert "not swept. Use one of 0, 1" in run("trace", "elsewhere/deep", "--beta", "0.5", code=2)
    # Other data under the old name.
    autotts_jax.write_trajectories(made("3"), place / "Model" / "bench.json")
    said = run("trace", "elsewhere/deep", "--controller", "mine", "--beta", "1", code=2)
    assert "data: Model/bench is not among them as it was swept" in said
    assert str(place / "Model" / "bench.json") in said


def test_a_figure_does_not_mix(run: Run, place: Path) -> None:
    autotts_jax.write_trajectories(made("3"), place / "new" / "Model" / "bench.json")
    for out, data in (("a", "Model/bench.json"), ("b", "new/Model/bench.json")):
        run("sweep", data, "--controller", "mine.py:OTHER", "--beta", "0,1", "--shuffles", "2", "--out", out)
    assert "b: dataset Model/bench is another one in a. Sweep them together." in run("plot", "a", "b", code=2)
    shutil.copytree("a", "c")
    assert "c: Model/bench and mine are also in a. Leave one out." in run("plot", "a", "c", code=2)


def test_the_command_and_its_call_leave_the_same(run: Run, place: Path) -> None:
    run("sweep", "Model/bench.json", "--controller", SC, "--beta", "1", "--shuffles", "2", "--out", "command")
    (dataset,) = autotts_jax.open_datasets("Model/bench.json")
    sweep(dataset, SC, betas=[1], shuffles=2).write("call")
    command, call = (autotts_jax.read_results(name).provenance for name in ("command", "call"))
    assert command.command[:2] == ("autotts", "sweep")
    assert command.model_copy(update={"command": (), "finished": call.finished}) == call


def test_results_made_by_hand_cannot_be_written(tmp_path: Path) -> None:
    sums = {field: np.zeros((0, 0), np.int64) for field in FIELDS}
    with pytest.raises(InputError, match="Make them by sweep"):
        Results([], [], [], sums, 1).write(tmp_path)


def test_earlier_results_are_replaced_as_one(
    data: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (folder / "mine.txt").write_text("stays")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = sweep(data, SC, betas=[0.5], shuffles=3)

    def full(*args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("autotts_jax.results._write_parquet", full)
        with pytest.raises(InputError, match=r"cannot be written to \(No space left"):
            other.write(folder, per_question=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    other.write(folder, per_question=True)
    assert autotts_jax.read_results(folder).shuffles == 3
    assert len(list((folder / "controllers").iterdir())) == 1
    other.write(folder)
    assert not (folder / "questions.csv").exists()
    assert (folder / "mine.txt").read_text() == "stays"


@pytest.mark.parametrize("flips", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_no_bit_flips_unseen(folder: Path, flips: int) -> None:
    rng = random.Random(flips)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    wanted = autotts_jax.read_results(folder)
    for _ in range(flips):
        file = rng.choice(files)
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            found = autotts_jax.read_results(folder)
            assert found.table.equals(wanted.table)
            assert found.provenance == wanted.provenance
        except InputError:
            pass
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "sweep.json: the file"),
        ("{", "Invalid JSON"),
        ('{"controller": ["evil.py:X"]}', "provenance: Field required"),
        ('{"format": 7}', "format"),
    ],
)
def test_other_manifests_are_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "sweep.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        autotts_jax.read_results(tmp_path)


def test_a_manifest_names_no_file_outside(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    manifest["files"]["../secret.csv"] = "0" * 32
    (folder / "sweep.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match="files"):
        autotts_jax.read_results(folder)


def test_other_directories_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="Name the directory that `autotts sweep --out`"):
            autotts_jax.read_results(path)


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    trajectories = dataclasses.replace(made(), model="=1+1", benchmark="")
    questions = [dataclasses.replace(question, gold="@SUM(1)") for question in trajectories.questions]
    results = sweep(
        autotts_jax.pack(dataclasses.replace(trajectories, questions=questions)), SC, betas=[1], shuffles=1
    )
    results.write(tmp_path, per_question=True)
    for name, column, text in (("results", "dataset", "=1+1"), ("questions", "gold", "@SUM(1)")):
        assert pyarrow.csv.read_csv(tmp_path / f"{name}.csv")[column].to_pylist()[0] == f"'{text}"
        assert pq.read_table(tmp_path / f"{name}.parquet")[column].to_pylist()[0] == text
