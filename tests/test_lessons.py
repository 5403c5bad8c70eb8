"""The stages from logs to pairs, as units of a cycle."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from logtune import pipeline
from logtune.config import build
from logtune.edges.store import Store
from logtune.ports import ChatCall
from logtune.records import Feedback, Message, PreferencePair
from logtune.testing import FakeExecutor, ScriptedChat, sample_log, tools

WANTED, NEAR, BASE = "pending_transfer", "transfer_timing", "Transfers take a while."
CONFIG = build({"filter": {"off_topic": "off"}, "train": {"budget": 0.004}})


def taught(home: Path, adapter: str | None, base_says: str = BASE) -> tuple[Sequence[PreferencePair], set[str]]:
    """Pairs of 40 users who corrected NEAR, said by `adapter` or the base model, and the worse answers that trained."""
    store = Store(f"sqlite:///{home / 'logtune.db'}")
    logs = [sample_log(f"l{i}", f"where is my transfer {i}", NEAR, f"user-{i}", 1e9 + i) for i in range(40)]
    store.add_logs([replace(log, adapter=adapter) for log in logs])
    store.put_feedback(
        [Feedback(id=f"f{i}", target=f"l{i}", at=2e9, kind="edit", correction=WANTED) for i in range(40)]
    )

    def say(call: ChatCall) -> str:
        return WANTED if call.model else base_says

    executor = FakeExecutor()
    pipeline.run_cycle(store, tools(ScriptedChat(say), executor), CONFIG)
    return store.list(PreferencePair, limit=100), {pair.rejected for job in executor.jobs for pair in job.pairs}


def test_training_pushes_away_from_the_base_models_answer_where_an_adapter_had_answered(tmp_path: Path) -> None:
    pairs, worse = taught(tmp_path, "ada-gone")
    assert len(pairs) == 40
    assert {pair.rejected for pair in pairs} == {NEAR}  # what its user saw
    assert {pair.contrast for pair in pairs} == {BASE}
    assert worse == {BASE}


def test_what_the_base_model_said_itself_is_the_worse_answer(tmp_path: Path) -> None:
    pairs, worse = taught(tmp_path, None)
    assert {pair.contrast for pair in pairs} == {""}
    assert worse == {NEAR}


@pytest.mark.parametrize("right", [WANTED, f" {WANTED}\n"])
def test_a_base_model_that_is_right_is_no_contrast(tmp_path: Path, right: str) -> None:
    pairs, _ = taught(tmp_path, "ada-gone", base_says=right)
    assert {pair.contrast for pair in pairs} == {""}


def test_the_question_to_the_base_model_is_the_users_own(tmp_path: Path) -> None:
    asked: list[Sequence[Message]] = []

    def say(call: ChatCall) -> str:
        asked.append(call.messages)
        return BASE

    store = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    store.add_logs([replace(sample_log("l1", "where is my transfer", NEAR, "user-1", 1e9), adapter="ada-gone")])
    store.put_feedback([Feedback(id="f1", target="l1", at=2e9, kind="edit", correction=WANTED)])
    pipeline.run_cycle(store, tools(ScriptedChat(say)), CONFIG)
    assert [message.content for message in asked[0] if message.role == "user"] == ["where is my transfer"]


@pytest.mark.parametrize(
    ("written", "named"),
    [("SELECT name FROM singers WHERE age > 20 AND country = 'France' ORDER BY age", False), (WANTED, True)],
)
def test_a_few_words_are_an_answer_only_where_users_write_short_ones(tmp_path: Path, written: str, named: bool) -> None:
    store = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    store.add_logs([sample_log(f"l{i}", f"singers over {i}", NEAR, f"user-{i}", 1e9 + i) for i in range(20)])
    edits = [Feedback(id=f"f{i}", target=f"l{i}", at=2e9, kind="edit", correction=written) for i in range(4)]
    told = "it should be pending transfer"
    store.put_feedback(
        [*edits, *(Feedback(id=f"f{i}", target=f"l{i}", at=2e9, kind="comment", comment=told) for i in range(4, 20))]
    )
    pipeline.run_cycle(store, tools(ScriptedChat(BASE), FakeExecutor()), CONFIG)
    pairs = store.list(PreferencePair, limit=100)
    assert sum(pair.origin == "edit" for pair in pairs) == 4
    assert sum(pair.origin == "stated" for pair in pairs) == (16 if named else 0)
