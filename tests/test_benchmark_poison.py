"""The benchmark of poisoning, without a model: its traffic, its ablation, and what it counts."""

import asyncio
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from logtune import pipeline
from logtune.ports import TrainingJob, TrainingPair
from logtune.records import Adapter, Message
from logtune.testing import FakeExecutor, ScriptedChat

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TOPICS = ("lost_or_stolen_card", "card_arrival", "activate_my_card", "card_not_working")


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("poison")


@pytest.fixture
def traffic(poison: ModuleType) -> ModuleType:
    return importlib.import_module("poison_traffic")


def test_attackers_are_a_share_of_users_and_feedback_and_all_push_one_answer(
    poison: ModuleType, traffic: ModuleType, tmp_path: Path
) -> None:
    weekly = importlib.import_module("weekly")
    rows = [weekly.Row(f"r{n}", 1, f"message {n}", TOPICS[n % 4], None) for n in range(200)]
    answers = traffic.Answers(ScriptedChat("hello"), tmp_path / "answers.json")
    calm = asyncio.run(traffic.honest(rows, TOPICS, answers, 0))
    spare = {topic: [f"{topic} {n}" for n in range(99)] for topic in traffic.ATTACKED}
    attack = asyncio.run(traffic.attacked(calm, spare, answers, 0))
    users = {log.user for log in attack.logs}
    assert len(attack.attackers) == 10  # 5% of 210
    assert len(users) == 210
    pushed = [item for item in attack.feedback if item.user in attack.attackers]
    reasks = len(calm.logs) - len(rows)
    assert len(pushed) / (len(attack.feedback) + reasks) == pytest.approx(0.2, abs=0.01)
    assert all(traffic.PUSHED in (i.correction or i.comment or "").replace(" ", "_") for i in pushed)
    asked = [log for log in attack.logs if log.user in attack.attackers]
    queries = {json.dumps(log.request["messages"]) for log in asked}
    assert len(queries) == len(asked)  # nobody repeats a message
    answers.save()
    assert len(json.loads((tmp_path / "answers.json").read_text())) == len({*queries}) + len(calm.logs)


def test_the_ablation_replaces_the_filter_and_leaves_it_as_it_was(poison: ModuleType) -> None:
    whole = pipeline.STAGES
    with poison.stages(filtered=False):
        assert [s.name for s in pipeline.STAGES] == [s.name for s in whole]
        assert [s.version for s in pipeline.STAGES if s.name == "filter"] == ["off"]
    assert pipeline.STAGES is whole


class _Writes(FakeExecutor):
    """Makes the folders of its adapters too."""

    def train(self, job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
        made = super().train(job, progress)
        for adapter in made:
            (Path(job.out_dir) / adapter.path).mkdir(parents=True)
            (Path(job.out_dir) / adapter.path / "weights").write_text(adapter.sha256)
        return made


def test_the_very_same_lessons_are_trained_on_once(poison: ModuleType, tmp_path: Path) -> None:
    inner = _Writes()
    said = (Message(role="user", content="hi"),)
    pairs = tuple(TrainingPair(id=f"p{n}", prompt=said, chosen=str(n), rejected="x") for n in range(3))
    job = TrainingJob(
        cluster_id="clu-1", name="one", kind="expert", base_path="", base_fingerprint="b", pairs=pairs, seed=0, rank=2,
        out_dir=str(tmp_path / "a"), settings={"epochs": 2},
    )  # fmt: skip
    first = poison.Watched(inner, tmp_path).train(job, lambda line: None)
    renamed = tuple(replace(pair, id=f"q{pair.id}") for pair in pairs)
    other = replace(job, cluster_id="clu-2", name="two", pairs=renamed, out_dir=str(tmp_path / "b"))
    watched = poison.Watched(inner, tmp_path)
    second = watched.train(other, lambda line: None)
    assert len(inner.jobs) == 1
    assert watched.copied
    assert [a.sha256 for a in second] == [a.sha256 for a in first]
    assert [(a.cluster_id, a.pair_ids, a.epoch) for a in second] == [
        ("clu-2", ("qp0", "qp1", "qp2"), n) for n in (1, 2)
    ]
    assert all((tmp_path / "b" / a.path / "weights").read_text() == a.sha256 for a in second)
    changed = replace(other, pairs=renamed[:2], out_dir=str(tmp_path / "c"))
    assert poison.Watched(inner, tmp_path).train(changed, lambda line: None)[0].sha256 != first[0].sha256
    assert len(inner.jobs) == 2


def test_figures_are_differences_of_the_same_messages(poison: ModuleType) -> None:
    labels = ["card_arrival"] * 10 + ["other"] * 10
    good, bad = {"labels": labels, "answers": labels}, {"labels": labels, "answers": ["activate_my_card"] * 20}
    found = poison.figures({"clean": good, "attack": good, "attack_trust_off": bad})
    assert (found["poison_points"], found["poison_points_trust_off"]) == (0, -100)
    assert found["pushed_attack_trust_off"] == 1
    assert "filter_gain_points" not in found
    assert poison.figures({"clean": {"pairs": {}}}) == {}
