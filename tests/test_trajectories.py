import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import autotts_jax
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
        ("tokens", [[1100, 30], [1100]], "question 0, field tokens: 2 values for 3 branches"),
        ("tokens", [[1100, 30, 0], [1100]], "question 0, field tokens, branch 2: 0, outside 1 to 4194304"),
        ("tokens", [[1100, 30, 9], [2**31 - 1]], "question 1, field tokens, branch 0: 2147483647, outside"),
        ("intervals", [[3, 0, 4], [3]], "column intervals: 0 to 4"),
        ("intervals", [[], [3]], "column intervals: no branch"),
        ("answers", [[0] * 8, [0]], "question 1, column answers: 1 values for 3 intervals"),
        ("answers", [[9] * 8, [0] * 3], "field answers, branch 0: 9, an answer that choices does not have"),
        ("answers", [[0] * 8, [0, -1, 0]], "question 1, field answers, branch 0: -1, an answer that"),
        ("choices", [["1", "1", "2"], ["1", "2"]], "question 0, field choices: '1' is there twice"),
        ("delta", [500, 0], "question 1, field delta, branch 0: 0, outside 1 to 4194304"),
        ("delta", [-500, 500], "question 0, field delta, branch 0: -500, outside"),
        ("delta", [2**21, 500], "makes the branch's probes reach 6291456 tokens, beyond 4194304"),
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
    if value is not ...:
        with pytest.raises(InputError, match=r"damaged or edited|column"):
            read_trajectories(file)
    pq.write_table(table.replace_schema_metadata(), file)  # as another tool would
    with pytest.raises(InputError, match=r"bad\.parquet") as error:
        read_trajectories(file)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_of_other_tools(tmp_path: Path) -> None:
    """They name a list's items otherwise, may use large types, and write no digest."""
    write_trajectories(trajectories(), tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    plain = pa.table({name: [row[name] for row in rows] for name in ("question", "gold")})
    plain = plain.append_column("more", pa.array([1.5, None]))
    for name, kind in {"choices": pa.large_string(), "intervals": pa.int32(), "tokens": pa.int32()}.items():
        plain = plain.append_column(name, pa.array([row[name] for row in rows], pa.large_list(kind)))
    plain = plain.append_column("answers", pa.array([row["answers"] for row in rows], pa.list_(pa.int32())))
    plain = plain.append_column("delta", pa.array([row["delta"] for row in rows], pa.int32()))
    pq.write_table(plain, tmp_path / "b.parquet", store_schema=False)
    assert same(read_trajectories(tmp_path / "b.parquet"), trajectories())


def test_settings_that_json_cannot_say(tmp_path: Path) -> None:
    for wrong in ({"top_p": float("nan")}, {"stop": {1, 2}}):
        with pytest.raises(InputError, match="field sampling: "):
            write_trajectories(trajectories(sampling=wrong), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"recording settings: .*not a string of Unicode"):
        write_trajectories(trajectories(model="\ud800"), tmp_path / "a.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"choices": ("1", "1", "ERR")}, "field choices: '1' is there twice"),
        ({"choices": ("1", "2")}, "field answers, branch 1: 2, an answer that choices does not have"),
        ({"choices": ("1", 2, "ERR")}, "2 is not a string of Unicode"),
        ({"delta": 0.5}, "field delta: 0.5 is not a whole number"),
        ({"delta": 0}, "field delta, branch 0: 0, outside"),
        ({"tokens": np.array([1, 2])}, "field tokens: 2 values for 3 branches"),
        ({"tokens": np.array([1, 2, 2**40])}, "field tokens, branch 2: 1099511627776, outside"),
        ({"tokens": np.array([1, 2, 3], np.uint32)}, "field tokens: not an array of signed integers"),
        ({"intervals": np.array([3, 0, 4])}, "field intervals, branch 1: 0, outside 1 to 4095"),
        ({"intervals": np.array([3, 1, 5])}, "branch 2: 5, more than the 4 that answers has room for"),
        ({"intervals": np.array([2, 1, 4])}, "field answers, branch 0: 1, not −1 beyond the branch's end"),
        ({"intervals": np.array([], int)}, "field intervals: no branch"),
    ],
)
def test_questions_made_by_hand(changes: dict[str, Any], said: str) -> None:
    wrong = dataclasses.replace(trajectories().questions[0], **changes)
    with pytest.raises(InputError) as error:
        autotts_jax.pack(Trajectories([trajectories().questions[1], wrong], model="M"))
    assert str(error.value).startswith("M: question 1")
    assert said in str(error.value)
    with pytest.raises(InputError, match="no question"):
        autotts_jax.pack(Trajectories([]))


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
    with pytest.raises(InputError, match="question 1, field answers, branch 0: 99"):
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
