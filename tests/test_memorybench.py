"""MemoryBench's records as it encodes them, and its results: shapes made here, published numbers where they lie."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.app.reproduce import logs_of, tasks
from logtune.app.reproduce_summary import read_constants
from logtune.edges import memorybench as bench
from logtune.errors import InputError
from logtune.records import Message
from logtune.stages.normalised import Constants, constants_of, summarise

DATA = Path(__file__).parents[2] / "shared/data/memorybench_reference"
DIALOG = [
    {"role": "user", "content": "How long does a refund take?"},
    {"role": "assistant", "content": "It depends."},
    {"role": "user", "content": "too vague, please say in how many days"},
    {"role": "assistant", "content": "5 days."},
]
FEEDBACK = [
    {"implicit_actions": ["dislike"], "round": 1, "satisfaction_score": 3, "terminated": False},
    {"implicit_actions": ["like", "copy"], "round": 2, "satisfaction_score": 9, "terminated": True},
]


def record(number: int = 7, **more: object) -> dict[str, object]:
    """A row as it lies on disk: columns with structures are strings."""
    return {
        "test_idx": number, "input_prompt": "How long does a refund take?", "dataset_name": "NFCats", "lang": "en",
        "info": json.dumps({"golden_answer": "5 days."}), "dialog": json.dumps(DIALOG),
        "implicit_feedback": json.dumps(FEEDBACK), **more,
    }  # fmt: skip


# reading


@pytest.mark.parametrize("encode", [json.dumps, repr, lambda value: value])
def test_columns_are_decoded_however_they_are_encoded(encode: object) -> None:
    assert callable(encode)
    row = bench.row_of(record(dialog=encode(DIALOG), implicit_feedback=encode(FEEDBACK)), "NFCats/train")
    assert (row.dataset, row.test_idx, row.lang) == ("NFCats", 7, "en")
    assert row.prompt == (Message(role="user", content="How long does a refund take?"),)
    assert [turn.role for turn in row.dialog] == ["user", "assistant", "user", "assistant"]
    assert row.actions == (("dislike",), ("like", "copy"))
    assert row.info == {"golden_answer": "5 days."}


def test_a_prompt_that_looks_like_json_stays_text() -> None:
    assert bench.row_of(record(input_prompt="[1, 2]"), "x").prompt[0].content == "[1, 2]"


def test_chat_messages_and_other_baselines_dialogs() -> None:
    chat = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    item = record(input_chat_messages=chat, dialog_mem0=json.dumps(DIALOG[:2]))
    del item["input_prompt"], item["dialog"], item["implicit_feedback"]
    row = bench.row_of(item, "x", dialog="mem0")
    assert [turn.role for turn in row.prompt] == ["system", "user"]
    assert len(row.dialog) == 2
    assert row.actions == ()
    assert bench.row_of(item, "x").dialog == ()


@pytest.mark.parametrize(
    "broken", [{"test_idx": None}, {"input_prompt": None}, {"dialog": "[1]"}, {"implicit_feedback": "[[]]"}]
)
def test_a_record_that_lacks_something_is_named(broken: dict[str, object]) -> None:
    with pytest.raises(InputError, match="NFCats/train, record 3"):
        bench.row_of(record(**broken), "NFCats/train", 3)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_what_was_encoded_comes_back(value: object) -> None:
    if not isinstance(value, str):
        assert bench.decoded(json.dumps(value)) == value
        assert bench.decoded(repr(value)) == value
    assert bench.decoded(value) is not None or value is None or value in ("null", "None")


def write_set(folder: Path, name: str, train: int = 2, test: int = 1) -> Path:
    place = folder / "dataset" / name
    place.mkdir(parents=True)
    for split, count, first in (("train", train, 0), ("test", test, 100)):
        rows = [record(first + n, dataset_name=name) for n in range(count)]
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


def test_a_folder_of_sets_as_json_lines(tmp_path: Path) -> None:
    write_set(tmp_path, "NFCats")
    write_set(tmp_path, "Locomo-3")
    write_set(tmp_path, "mine")
    sets = bench.read(tmp_path)
    assert [(item.name, len(item.train), len(item.test)) for item in sets] == [
        ("Locomo-3", 2, 1), ("NFCats", 2, 1), ("mine", 2, 1),
    ]  # fmt: skip
    by_task, left_out = tasks(sets)
    assert {task: [item.name for item in found] for task, found in by_task.items()} == {
        "Short-Short": ["NFCats"], "other": ["mine"],
    }  # fmt: skip
    assert "corpus" in left_out["Locomo-3"]


def test_a_folder_as_datasets_saves_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra train")
    for split, count in (("train", 2), ("test", 1)):
        rows = [record(n) for n in range(count)]
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "dataset" / "NFCats" / split))
    (found,) = bench.read(tmp_path)
    assert (found.name, len(found.train), len(found.test)) == ("NFCats", 2, 1)
    assert found.train[1].actions == (("dislike",), ("like", "copy"))


def test_a_folder_without_sets_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data set lies below"):
        bench.read(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        bench.read(tmp_path / "none")
    place = write_set(tmp_path, "NFCats")
    (place / "test.jsonl").write_text("{no json\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"test\.jsonl:1"):
        bench.read(tmp_path)


def test_a_dialog_becomes_logs_with_what_the_user_did(tmp_path: Path) -> None:
    logs, feedback = logs_of(bench.row_of(record(), "x"), 0)
    assert [len(log.request["messages"]) for log in logs] == [1, 3]  # type: ignore[arg-type]
    assert {log.session for log in logs} == {"NFCats-7"}
    assert [(item.target, item.kind, item.value, item.comment) for item in feedback] == [
        ("NFCats-7-1", "comment", -1.0, "too vague, please say in how many days"), ("NFCats-7-2", "rating", 1.0, None),
        ("NFCats-7-2", "copy", None, None),
    ]  # fmt: skip
    assert logs[0].at < logs[1].at


# results


def test_answers_are_written_in_memorybenchs_format(tmp_path: Path) -> None:
    row = bench.row_of(record(), "x")
    path = bench.write_answers(tmp_path / "a", [(row, "It takes 5 days. 五天")])
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"test_idx": 7, "dataset": "NFCats", "response": "It takes 5 days. 五天"}
    ]
    assert bench.read_answers(tmp_path / "a") == {("NFCats", 7): "It takes 5 days. 五天"}
    assert bench.read_answers(tmp_path / "b") == {}


def test_scores_of_its_own_evaluation_are_read(tmp_path: Path) -> None:
    assert bench.read_details(tmp_path) is None
    rows = [
        {"dataset": "Locomo-1", "test_idx": 2, "metrics": {"f1": 0.5}},
        {"dataset": "Locomo-0", "test_idx": 1, "metrics": {"f1": 1}},
        {"dataset": "NFCats", "test_idx": 3, "metrics": {"score": 4, "reason": "good"}},
        {"dataset": "odd", "test_idx": 3, "metrics": {"only": 2.5}},
    ]
    (tmp_path / bench.DETAILS).write_text(json.dumps(rows), encoding="utf-8")
    assert bench.read_details(tmp_path) == {"Locomo": [1.0, 0.5], "NFCats": [4.0], "odd": [2.5]}
    rows[0]["metrics"] = {"reasoning_meteor": 0.1, "judge_meteor": 0.2}
    (tmp_path / bench.DETAILS).write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError, match="reasoning_meteor, judge_meteor"):
        bench.read_details(tmp_path)


def test_the_summary_by_hand() -> None:
    # a: (3 - 1) / (5 - 1) = 0.5 of 2 answers, z = (3 - 2) / 2 = 0.5; b: 0.75 of 6 answers, z = (0.75 - 0.5) / 0.1 = 2.5
    constants = {
        "a": Constants(low=1, high=5, mean=2, deviation=2), "b": Constants(low=0, high=1, mean=0.5, deviation=0.1),
    }  # fmt: skip
    found = summarise({"a": 3, "b": 0.75, "c": 9}, {"a": 2, "b": 6, "c": 1}, constants)
    assert found.average == pytest.approx((0.5 + 0.75) / 2)
    assert found.weighted_average == pytest.approx((0.5 * 2 + 0.75 * 6) / 8)
    assert found.z_score == pytest.approx((0.5 * 2 + 2.5 * 6) / 8)


def test_a_set_on_which_all_score_alike_says_nothing() -> None:
    constants = constants_of([{"a": [2.0, 2.0]}, {"a": [2.0]}])
    found = summarise({"a": 2.0}, {"a": 3}, constants)
    assert (found.average, found.weighted_average, found.z_score) == (0.0, 0.0, 0.0)
    nothing = summarise({}, {}, {})
    assert (nothing.average, nothing.weighted_average, nothing.z_score) == (None, None, None)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there: the published scores")
def test_published_summaries_come_out_of_published_means() -> None:
    """Eight summaries of the paper (two methods, four tasks): average, weighted average and z-score, to 12 digits."""
    shapes = json.loads((DATA / "uno_result_shapes.json").read_text(encoding="utf-8"))
    counts = {(item["task"], item["method"]): item["datasets"] for item in shapes}
    rows: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    with (DATA / "uno_published_scores.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["task"], row["method"]].append(row)
    assert len(rows) == 8
    for (task, method), published in rows.items():
        constants = read_constants(DATA / "final_evaluate_summary_wo_details.json", task)
        means = {row["dataset"]: float(row["mean_metric"]) for row in published}
        found = summarise(means, counts[task, method], constants)
        assert found.average == pytest.approx(float(published[0]["task_minmax_average"]), abs=1e-12)
        assert found.weighted_average == pytest.approx(float(published[0]["task_weighted_average"]), abs=1e-12)
        assert found.z_score == pytest.approx(float(published[0]["task_z_score"]), abs=1e-12)
        assert {bench.TASKS[name] for name in means} == {task}


def test_constants_that_lack_a_task_are_told(tmp_path: Path) -> None:
    path = tmp_path / "constants.json"
    path.write_text('{"task": {}}', encoding="utf-8")
    with pytest.raises(InputError, match="holds no constants of the task Long-Long"):
        read_constants(path, "Long-Long")
