import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autotts_jax import InputError, Question, Trajectories, read_trajectories, write_trajectories
from autotts_jax.trajectories import describe

BRANCHES = [(["1", "2"], 1100, "2"), ([], 30, "ERR"), (["2", "2", "2"], 1400, "2")]


def trajectories(**fields: Any) -> Trajectories:
    questions = [
        Question.from_branches("1 + 1?", "2", 500, BRANCHES),
        Question.from_branches("Häh?", "½", 250, BRANCHES[:1]),
    ]
    return Trajectories(questions, **fields)


def same(a: Trajectories, b: Trajectories) -> bool:
    def plain(q: Question) -> tuple:
        return q.text, q.gold, q.delta, list(q.branches())

    return [plain(q) for q in a.questions] == [plain(q) for q in b.questions]


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "Model" / f"bench{suffix}"
    made = trajectories(
        model="Model",
        benchmark="bench",
        unparsable=("ERR", ""),
        sampling={"temperature": 0.6},
        probe_suffix="</think>",
        grading="string equality",
    )
    write_trajectories(made, file)
    found = read_trajectories(file)
    assert same(made, found)
    assert found.name == "Model/bench"
    assert [p.name for p in file.parent.iterdir()] == [file.name]  # nothing half-written is left
    if suffix == ".parquet":
        for field in ("model", "benchmark", "unparsable", "sampling", "probe_suffix", "grading"):
            assert getattr(found, field) == getattr(made, field)


def test_formats_agree_on_real_data(replay_directory: Path, tmp_path: Path) -> None:
    real = read_trajectories(replay_directory / "Qwen3-8B" / "aime24.json")
    file = tmp_path / "traces.parquet"
    write_trajectories(real, file)
    assert same(real, read_trajectories(file))
    assert file.stat().st_size < 300_000  # the JSON file has 2.1 million bytes
    assert describe(real)["tokens per branch"].startswith("1977 to 41470")


def question(**changes: Any) -> dict[str, Any]:
    good = {
        "question": "1 + 1?",
        "gold_answer": "2",
        "probe_freq": 500,
        "each_branch": [[["1", "2"], 1100, "2"]],
        "final_answers_trace": ["2"],
    }
    return {key: value for key, value in (good | changes).items() if value is not ...}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "the file: Invalid JSON"),
        (json.dumps([question()])[:-20], "EOF while parsing"),
        ("[]", "at least 1 item"),
        ("{}", "valid array"),
        (
            json.dumps([question(), question(gold_answer=...)]),
            "question 1, field gold_answer: Field required",
        ),
        (
            json.dumps([question(gold_answer=2)]),
            "field gold_answer: Input should be a valid string (found 2)",
        ),
        (json.dumps([question(each_branch=[])]), "field each_branch: List should have at least 1 item"),
        (json.dumps([question(probe_freq=0)]), "field probe_freq"),
        (json.dumps([question(probe_freq="500")]), "field probe_freq: Input should be a valid integer"),
        (json.dumps([question(each_branch=[[["1"], 0, "1"]])]), "field each_branch, branch 0, tokens"),
        (json.dumps([question(each_branch=[[["1"], -5, "1"]])]), "(found -5)"),
        (json.dumps([question(each_branch=[[["1"], 9.5, "1"]])]), "branch 0, tokens"),
        (json.dumps([question(each_branch=[[["1", 2], 9, "1"]])]), "branch 0, probes, probe 1"),
        (json.dumps([question(each_branch=[[["1"], 9]])]), "branch 0, final answer: Field required"),
        (json.dumps([question(final_answers_trace=["3"])]), "field final_answers_trace"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        read_trajectories(file)
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("tokens", [[1100, 30], [1100]], "question 0, column tokens: 2 values for 3 branches"),
        ("tokens", [[1100, 30, 0], [1100]], "column tokens: 0 to 1100"),
        ("intervals", [[3, 0, 4], [3]], "column intervals: 0 to 4"),
        ("intervals", [[], [3]], "column intervals: no branch"),
        ("answers", [[0] * 8, [0]], "question 1, column answers: 1 values for 3 intervals"),
        ("answers", [[9] * 8, [0] * 3], "outside the 3 choices"),
        ("delta", [500, 0], "column delta: 0"),
        ("delta", ["a", "b"], "column delta is string, not int32"),
        ("gold", ["2", None], "column gold holds nulls"),
        ("gold", ..., "column gold is missing"),
    ],
)
def test_bad_parquet_is_named(tmp_path: Path, column: str, value: Any, said: str) -> None:
    file = tmp_path / "bad.parquet"
    write_trajectories(trajectories(), file)
    table = pq.read_table(file)
    index = table.column_names.index(column)
    if value is ...:
        table = table.remove_column(index)
    else:
        kind = pa.string() if value == ["a", "b"] else table.schema.field(column).type
        table = table.set_column(index, pa.field(column, kind), pa.array(value, kind))
    pq.write_table(table, file)
    with pytest.raises(InputError, match=r"bad\.parquet") as error:
        read_trajectories(file)
    assert said in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    (tmp_path / "text.csv").write_text("hello")
    for path, said in (
        (tmp_path / "none.json", "no such file"),
        (tmp_path, "not a file"),
        (tmp_path / "text.csv", "suffix '.csv'"),
        (tmp_path / "text.parquet", "not a readable Parquet file"),
    ):
        with pytest.raises(InputError, match=said):
            read_trajectories(path)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    write_trajectories(trajectories(), file)
    before = file.read_bytes()
    broken = trajectories()
    broken.questions[1].answers[0, 0] = 99  # no such choice
    with pytest.raises(IndexError):
        write_trajectories(broken, file)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept.json"]


def test_description_says_what_is_odd() -> None:
    text = describe(trajectories(model="M"))
    assert text["questions"] == "2"
    assert text["branches per question"] == "1 to 3, mean 2.0"
    assert text["questions whose gold answer no branch ever gives"] == "1"
    assert text["unparsable answers (ERR)"] == "1 (9.1 %)"
    assert text["branches probed beyond their tokens"] == "1 (25.0 %)"
    assert text["branches with more than Δ tokens after the last probe"] == "1 (25.0 %)"


def test_columns_of_a_question() -> None:
    q = Question.from_branches("?", "2", 500, BRANCHES)
    assert q.choices == ("1", "2", "ERR")
    np.testing.assert_array_equal(q.answers, [[0, 1, 1, -1], [2, -1, -1, -1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(q.intervals, [3, 1, 4])
