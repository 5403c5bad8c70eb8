"""The harness of the comparison with fake systems: weeks, resume, memory, figures by hand, and the page."""

import importlib
import json
import random
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import compare_data
import pytest

from logtune import testing
from logtune.errors import ModelError
from logtune.ports import ChatCall
from logtune.records import Message

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
OTHER = {"stream": "other", "system": "logtune", "week": 2, "adapter_share": 0.001}


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    parts = ("engine", "figures", "page", "run", "streams", "types")
    return {name: importlib.import_module(f"compare_{name}") for name in parts}


class Killed(Exception):
    """Stands for kill -9 in the middle of a week."""


@dataclass
class Parrot:
    """Knows a request by heart once its user has corrected it; what it knows is one file in its folder."""

    setting: Any
    types: ModuleType
    diary: list[str]
    killed_in: int = 0
    name: str = "parrot"
    told: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        file = self.setting.folder / "knows.json"
        self.known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}

    async def answer(self, requests: Sequence[Any], *, record: bool) -> list[Any]:
        self.diary.append(f"{'ask' if record else 'test'} {len(requests)}")
        return [
            self.types.Reply(
                text=self.known.get(r.text, "no idea"), prompt_tokens=10, completion_tokens=2, latency_ms=1.0
            )
            for r in requests
        ]

    async def tell(self, request: Any, reply: Any, reaction: Any) -> None:
        if reaction and reaction.correction:
            self.told.append(self.types.Logged(request=request, answer=reply.text, reaction=reaction))

    async def learn(self, week: int) -> Any:
        self.diary.append(f"learn {week}")
        self.known |= {logged.request.text: logged.reaction.correction for logged in self.told}
        (self.setting.folder / "knows.json").write_text(json.dumps(self.known))
        if week == self.killed_in:
            raise Killed
        return self.types.Learnt(
            seconds=1.0, note=f"{len(self.known)} known", human_actions=0, adapter_share=0.001 * week
        )

    async def prepare(self, prompts: Sequence[Any]) -> list[Any]:
        return [self.types.Prepared(messages=prompt) for prompt in prompts]

    async def close(self) -> None:
        self.diary.append("close")


@dataclass
class Scene:
    """A small stream and everything around it."""

    modules: dict[str, ModuleType]
    out: Path
    stream: Any
    bench: Any
    diary: list[str]

    def run(self, weeks: int, killed_in: int = 0, system: str = "parrot") -> Any:
        def make(setting: Any) -> Parrot:
            return Parrot(setting, self.modules["types"], self.diary, killed_in)

        return self.modules["run"].Run(
            stream=self.stream, system=system, make=make, seed=0, weeks=weeks, out=self.out
        )  # fmt: skip

    async def go(self, weeks: int, killed_in: int = 0) -> None:
        await self.modules["run"].run(self.run(weeks, killed_in), self.bench)

    def result(self, week: int) -> Any:
        return json.loads(self.run(4).result(week).read_text())


@pytest.fixture
def scene(modules: dict[str, ModuleType], tmp_path: Path) -> Scene:
    compare_data.banking(tmp_path / "data")
    stream = modules["streams"].banking(tmp_path / "data")
    memory = modules["engine"].Memory(tmp_path / "out" / "answers.db")
    engine = modules["engine"].LocalEngine(testing.tools(testing.ScriptedChat("ok")), memory)
    questions = [{"id": "q1", "question": "2 + 2?", "choices": ["four", "a lot more than that"], "answer": 0}]
    bench = modules["run"].Bench(
        engine=engine, questions=questions, teacher=None, settings={}, about={"model": "fake"}, say=lambda line: None
    )
    return Scene(modules, tmp_path / "out", stream, bench, [])


async def test_a_week_is_asked_learned_and_tested_on_all_topics_so_far(scene: Scene) -> None:
    await scene.go(2)
    first, second = scene.result(1), scene.result(2)
    assert scene.diary[:3] == ["ask 13", "learn 1", "test 30"]
    assert len(first["scores"]) == 30
    assert len(second["scores"]) == 60
    assert set(first["scores"]) < set(second["scores"])
    assert first["traffic"]["requests"] == 13
    assert first["traffic"]["noise"] == 1
    assert sum(first["traffic"]["reactions"].values()) == 13
    assert set(first["retention"]) == set(second["retention"]) == {"q1"}, "what it still knows, each week"


async def test_what_exists_is_not_run_again(scene: Scene) -> None:
    await scene.go(1)
    before = scene.run(1).result(1).read_text()
    scene.diary.clear()
    await scene.go(1)
    assert scene.diary == []
    await scene.go(2)
    assert [line for line in scene.diary if line.startswith("learn")] == ["learn 2"]
    assert scene.run(1).result(1).read_text() == before


async def test_what_was_measured_with_other_settings_is_not_taken_for_a_result(scene: Scene) -> None:
    await scene.go(1)
    scene.bench = replace(scene.bench, settings={"train.seed": "1"})
    with pytest.raises(
        SystemExit, match=r'week-1\.json was measured with settings \{\}, and now it is .*"train\.seed"'
    ):
        await scene.go(1)
    scene.bench = replace(scene.bench, settings={}, about={"model": "another"})
    with pytest.raises(SystemExit, match='model "fake"'):
        await scene.go(1)


async def test_what_other_code_measured_is_kept_and_said(scene: Scene) -> None:
    await scene.go(1)
    said: list[str] = []
    scene.bench = replace(scene.bench, about={"model": "fake", "code": "later"}, say=said.append)
    await scene.go(1)
    assert [line for line in said if "measured with other code" in line]


async def test_a_killed_week_begins_again_from_the_folder_of_the_week_before(scene: Scene, tmp_path: Path) -> None:
    await scene.go(1)
    kept = (scene.run(2).kept(1) / "knows.json").read_text()
    with pytest.raises(Killed):
        await scene.go(2, killed_in=2)
    assert not scene.run(2).result(2).exists()
    assert (scene.run(2).kept(1) / "knows.json").read_text() == kept
    await scene.go(2)
    straight = Scene(scene.modules, tmp_path / "straight", scene.stream, scene.bench, [])
    await straight.go(2)
    assert scene.result(2)["learnt"]["note"] == straight.result(2)["learnt"]["note"]
    assert scene.result(2)["scores"] == straight.result(2)["scores"]


async def test_a_lost_folder_is_said_and_not_made_up(scene: Scene) -> None:
    await scene.go(1)
    (scene.run(2).kept(1) / "knows.json").unlink()
    scene.run(2).kept(1).rmdir()
    with pytest.raises(SystemExit, match="begin with week 1"):
        await scene.go(2)


async def test_a_draft_of_a_result_is_none(scene: Scene) -> None:
    await scene.go(1)
    file = scene.run(1).result(1)
    file.rename(file.with_suffix(".part"))
    assert scene.modules["figures"].read(scene.out) == {}
    await scene.go(1)
    assert file.exists()


async def test_the_base_models_answers_are_remembered_and_an_adapters_are_not(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    calls: list[ChatCall] = []

    def answer(call: ChatCall) -> str:
        calls.append(call)
        return f"answer {len(calls)}"

    def engine() -> Any:
        memory = modules["engine"].Memory(tmp_path / "answers.db")
        return modules["engine"].LocalEngine(testing.tools(testing.ScriptedChat(answer)), memory)

    prompt = (Message(role="user", content="hello"),)
    base, tuned = (modules["types"].Prepared(messages=prompt, model=name) for name in ("", "adapter-1"))
    first = engine()
    said = await first.generate([base], max_tokens=8)
    assert await engine().generate([base], max_tokens=8) == said, "also by another process"
    assert len(calls) == 1
    await first.generate([base], max_tokens=9)
    await first.generate([tuned], max_tokens=8)
    await first.generate([tuned], max_tokens=8)
    assert len(calls) == 4
    with first.forgetful():
        await first.generate([base], max_tokens=8)
    await first.generate([base], max_tokens=8, fresh=True)
    assert len(calls) == 6


def test_the_likeliest_choice_counts(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    tools = testing.tools(testing.ScriptedChat("ok"))
    surprise = testing.FixedLikelihood(lambda answer: float(len(answer)))
    engine = modules["engine"].LocalEngine(
        replace(tools, likelihood=surprise),
        modules["engine"].Memory(tmp_path / "answers.db"),
    )
    rows = [
        {"id": "a", "question": "x", "choices": ["long one", "short"], "answer": 1},
        {"id": "b", "question": "y", "choices": ["an", "a", "the one"], "answer": 2},
    ]
    asked = [modules["types"].Prepared(messages=importlib.import_module("retention").asked(row)) for row in rows]
    assert modules["engine"].chosen(engine, rows, asked) == [1.0, 0.0]
    assert modules["engine"].chosen(engine, rows, asked) == [1.0, 0.0], "from memory"


# --- figures ---


def week(
    out: Path, system: str, number: int, right: Sequence[float], *, stream: str = "s", seed: int = 0, **more: Any
) -> None:
    """A result as the harness writes it; the first half of the requests is of week 1."""
    names = [f"r{n}" for n in range(len(right))]
    row = {
        "stream": stream, "system": system, "seed": seed, "week": number,
        "scores": dict(zip(names, right, strict=True)),
        "topic_weeks": dict.fromkeys(names, 1), "prompt_tokens": more.get("tokens", 50.0), "latency_ms": 5.0,
        "learnt": {
            "seconds": 9.0, "training_tokens": 0, "adapter_share": more.get("share", 0.0),
            "human_actions": more.get("actions", 0), "note": "",
        },
        "traffic": {"quality": 0.0}, "retention": more.get("retention"),
    }  # fmt: skip
    path = out / stream / system / f"seed-{seed}" / f"week-{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row))


def test_figures_by_hand(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    ones, zeros = [1.0] * 40, [0.0] * 40
    for number in (1, 2, 4):
        week(tmp_path, "base", number, zeros, retention={"q": 1.0, "p": 1.0})
    week(tmp_path, "logtune", 1, ones[:20], share=0.002)
    week(tmp_path, "logtune", 2, ones[:30] + zeros[:10], share=0.003, actions=1)
    week(tmp_path, "logtune", 4, ones[:36] + zeros[:4], share=0.004, retention={"q": 1.0, "p": 0.0})
    week(tmp_path, "logtune", 6, ones[:35] + zeros[:5])
    week(tmp_path, "few_shot", 4, ones[:32] + zeros[:8], tokens=200.0)
    week(tmp_path, "memory", 4, ones[:34] + zeros[:6], tokens=150.0)
    week(tmp_path, "bm25", 4, ones, tokens=40.0)  # better, but it reads less than we: no rival at equal tokens
    week(tmp_path, "logtune_unfiltered", 4, ones[:30] + zeros[:10])
    found = modules["figures"].figures(modules["figures"].read(tmp_path))
    assert found["gain_points_week2"] == pytest.approx(75)
    assert 55 < found["gain_lower_week2"]["s"] < 75
    assert "lead_points_week2" not in found
    assert found["lead_over_week4"] == {"s": "memory"}
    assert found["streams_ahead_week4"] == 0
    assert found["lead_points_week4"] == {"s": pytest.approx(5)}
    assert found["lead_lower_week4"]["s"] < 0
    assert found["prompt_token_ratio"] == pytest.approx(4)
    assert found["old_skill_points"] == pytest.approx(0)
    assert found["retention_points"] == pytest.approx(-50)
    assert found["stability_points"] == pytest.approx(-2.5)
    assert found["adapter_share"] == pytest.approx(0.004)
    assert found["human_actions"] == 1
    assert found["filter_gain_points"] == pytest.approx(15)
    assert found["filter_gain_lower"]["s"] > 0


def test_streams_are_averaged_for_the_gain_and_the_worst_counts_for_what_must_stay(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    for stream, right in (("s", 10), ("t", 4)):
        for number in (1, 2, 4):
            week(tmp_path, "base", number, [0.0] * 10, stream=stream)
            week(tmp_path, "logtune", number, [1.0] * right + [0.0] * (10 - right), stream=stream)
    week(tmp_path, "logtune", 4, [1.0] * 2 + [0.0] * 8, stream="t")
    found = modules["figures"].figures(modules["figures"].read(tmp_path))
    assert found["gain_points_week2"] == pytest.approx(70)
    assert found["old_skill_points"] == pytest.approx(-20)


def test_seeds_are_averaged_by_request(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    week(tmp_path, "base", 2, [0.0, 0.0, 0.0, 0.0])
    week(tmp_path, "logtune", 2, [1.0, 0.0, 1.0, 1.0], seed=0)
    week(tmp_path, "logtune", 2, [1.0, 1.0, 1.0, 0.0], seed=1)
    results = modules["figures"].read(tmp_path)
    assert results["s", "logtune", 2].seeds == (0, 1)
    assert dict(results["s", "logtune", 2].scores) == {"r0": 1.0, "r1": 0.5, "r2": 1.0, "r3": 0.5}
    assert modules["figures"].figures(results)["gain_points_week2"] == pytest.approx(75)


def test_what_was_not_measured_has_no_figure(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    week(tmp_path, "logtune", 1, [1.0])
    found = modules["figures"].figures(modules["figures"].read(tmp_path))
    assert set(found) == {"measured"}
    assert found["measured"][0]["quality"] == 1.0


def test_the_page_shows_plots_and_numbers(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    draw = random.Random(1)
    for number in (1, 2):
        for system in ("base", "logtune"):
            week(tmp_path, system, number, [float(draw.random() < 0.5) for _ in range(20)], stream="<stream>")
    results = modules["figures"].read(tmp_path)
    plots = modules["page"].write(tmp_path, results, modules["figures"].figures(results))
    assert len(plots) == 2
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots)
    page = (tmp_path / "index.html").read_text()
    assert "<stream>" not in page
    assert "&lt;stream&gt;" in page
    assert page.count("<tr>") >= 6


# --- the command ---


@pytest.fixture
def command(modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["compare.py", *options])
        importlib.import_module("compare").main()

    return run


def test_figures_of_what_there_is(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    week(tmp_path, "base", 2, [0.0] * 8)
    week(tmp_path, "logtune", 2, [1.0] * 8)
    command("--out", str(tmp_path), "--only-figures", "--json", str(tmp_path / "new" / "out.json"), "--plots")
    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["gain_points_week2"] == pytest.approx(100)
    assert json.loads(capsys.readouterr().out) == written
    assert (tmp_path / "index.html").exists()


def test_what_an_earlier_run_has_is_kept_where_it_is_asked_for(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    week(tmp_path / "now", "logtune", 2, [1.0] * 8)
    file = tmp_path / "out.json"
    for asked, kept in (((), None), (("--keep",), {"other": 5.0})):
        file.write_text(json.dumps({"gain_lower_week2": {"other": 5.0}, "measured": [OTHER]}))
        command("--out", str(tmp_path / "now"), "--only-figures", "--json", str(file), *asked)
        assert json.loads(file.read_text()).get("gain_lower_week2") == kept
    with pytest.raises(SystemExit):
        command("--out", str(tmp_path / "now"), "--only-figures", "--keep")
    assert "--keep needs --json" in capsys.readouterr().err


def test_a_system_that_fails_holds_up_no_other(
    command: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = importlib.import_module("compare")
    ran: list[str] = []

    async def run(what: Any, bench: Any) -> None:
        ran.append(what.system)
        if what.system == "base":
            raise ModelError("the teacher does not answer", "start it")

    monkeypatch.setattr(compare, "run", run)
    monkeypatch.setattr(compare.build, "tools", lambda *_: testing.tools(testing.ScriptedChat("ok")))
    compare_data.banking(tmp_path / "data")
    told = ("--streams", "weekly_stream_banking77", "--systems", "base", "few_shot", "--data", str(tmp_path / "data"))
    with pytest.raises(SystemExit, match="not finished: weekly_stream_banking77 base seed 0"):
        command(*told, "--out", str(tmp_path / "out"))
    assert ran == ["base", "few_shot"]
    assert "the teacher does not answer" in capsys.readouterr().err


def test_a_model_is_a_folder_or_a_server(modules: dict[str, ModuleType]) -> None:
    compare = importlib.import_module("compare")

    def settings(**given: Any) -> Any:
        return compare._settings(Namespace(**{"model": None, "teacher": None, "set": [], **given}))

    assert settings() == {}
    assert settings(model="/models/big") == {"model.base": "/models/big"}
    server = settings(model="http://host/v1", set=["model.base=/models/big"], teacher="http://t/v1")
    assert server["model.engine"] == "openai"
    assert server["model.url"] == "http://host/v1"
    assert server["model.base"] == "/models/big"
    assert server["teacher.url"] == "http://t/v1"


def test_house_style_without_a_teacher_says_what_it_lacks(
    modules: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = importlib.import_module("compare")
    data = compare_data.everything(tmp_path)
    assert compare._stream("house_style", Namespace(data=data, teacher=None)) is None
    assert "--teacher URL" in capsys.readouterr().err
    assert compare._stream("house_style", Namespace(data=data, teacher="http://t/v1")).name == "house_style"


def test_every_system_of_the_quick_run_exists(modules: dict[str, ModuleType]) -> None:
    assert {*importlib.import_module("compare").QUICK} <= {*importlib.import_module("compare_systems").SYSTEMS}


def test_rivals_are_systems(modules: dict[str, ModuleType]) -> None:
    figures, systems = modules["figures"], importlib.import_module("compare_systems").SYSTEMS
    assert {*figures.RETRIEVAL, *figures.MEMORY, figures.OURS, figures.BASE, figures.UNFILTERED} <= {*systems}


def test_data_that_is_not_there_is_said_by_name(command: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"stream\.jsonl is not there, and weekly_stream_banking77 needs it: --data DIR"
    ):
        command("--quick", "--out", str(tmp_path / "out"), "--data", str(tmp_path / "nowhere"))
