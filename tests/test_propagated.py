"""Answers that others agree on, for complaints that name none."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune import pipeline
from logtune.config import build
from logtune.edges.store import Store
from logtune.records import Adapter, Cluster, Evaluation, Feedback, Interaction, PreferencePair, Rule, Standing
from logtune.stages.propagated import LEAST_CLOSE, agreed
from logtune.testing import ScriptedChat, sample_log, tools

AXES = np.eye(4, dtype=np.float32)


def near(*closeness: float) -> np.ndarray:
    """Unit vectors that are so close to the first axis."""
    rows = [[c, np.sqrt(1 - c * c), 0, 0] for c in closeness]
    return np.array(rows, np.float32)


def test_the_two_nearest_users_decide() -> None:
    known, answers = near(0.9, 0.8, 0.7), ["late", "late", "refund"]
    assert agreed(AXES[:1], ["z"], known, answers, ["a", "b", "c"]) == [(0, 1)]
    assert agreed(AXES[:1], ["z"], known, ["late", "refund", "late"], ["a", "b", "c"]) == [()], "they disagree"
    assert agreed(AXES[:1], ["z"], known, answers, ["a", "a", "c"]) == [()], "one user has one word"
    assert agreed(AXES[:1], ["a"], known, answers, ["a", "b", "c"]) == [()], "nobody agrees with themselves"


def test_what_is_far_agrees_with_nothing() -> None:
    assert agreed(AXES[:1], ["z"], near(0.9, LEAST_CLOSE - 0.01), ["late", "late"], ["a", "b"]) == [()]
    assert agreed(AXES[:1], ["z"], near(0.9, LEAST_CLOSE + 0.01), ["late", "late"], ["a", "b"]) == [(0, 1)]
    assert agreed(AXES[:1], ["z"], AXES[:0], [], []) == [()]


@given(st.lists(st.tuples(st.floats(-1, 1, width=32), st.sampled_from("xy"), st.sampled_from("abc")), max_size=8))
def test_only_two_other_users_with_one_answer_are_named(rows: list[tuple[float, str, str]]) -> None:
    known = near(*(close for close, _, _ in rows)) if rows else AXES[:0]
    (found,) = agreed(AXES[:1], ["a"], known, [answer for _, answer, _ in rows], [user for *_, user in rows])
    assert len(found) in (0, 2)
    assert {rows[row][1] for row in found} in (set(), {"x"}, {"y"})
    assert {rows[row][2] for row in found} in (set(), {"b", "c"})


@pytest.fixture
def store(tmp_path: Path):
    """Forty users correct an answer, ten only say that it is wrong."""
    opened = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    for number in range(50):
        topic = ("my parcel is late", "refund of my order")[number % 2]
        log = sample_log(f"log-{number}", f"{topic} {number}", "general_question", f"u{number}", float(number))
        opened.add_logs([log])
        better = ("late_parcel", "refund_status")[number % 2] if number % 5 else None
        given = {"kind": "edit", "correction": better} if better else {"kind": "rating", "value": -1.0}
        opened.put_feedback([Feedback(id=f"fb-{number}", target=log.id, at=number + 60.0, **given)])  # type: ignore[arg-type]
    yield opened
    opened.close()


def run(store: Store, **pairs: bool) -> list[PreferencePair]:
    """The propagated pairs after a cycle."""
    config = build({
        "filter": {"off_topic": "off"}, "train": {"budget": 0.004}, "pairs": cast("dict[str, object]", dict(pairs)),
    })  # type: ignore[dict-item]  # fmt: skip
    pipeline.run_cycle(store, tools(ScriptedChat("general_question")), config)
    return [pair for pair in store.list(PreferencePair, limit=None) if pair.origin == "propagated"]


def test_complaints_train_with_what_others_agree_on_and_nobody_who_votes_is_behind_it(store: Store) -> None:
    made = run(store, propagate=True)
    assert len(made) >= 5
    for pair in made:
        asked = store.load(Interaction, [pair.interaction_id])[0]
        assert pair.chosen == ("late_parcel" if "parcel" in asked.query else "refund_status")
        behind = {name for rule in store.load(Rule, pair.rule_ids) for name in rule.interaction_ids}
        assert len(behind) == 2
        assert set(pair.rule_ids) <= set(store.parents(pair.id)), "undone with those whose word it is"
    members = {name for group in store.list(Cluster, limit=None) for name in group.interaction_ids}
    assert {pair.interaction_id for pair in made} <= members
    trained = {name for adapter in store.list(Adapter, limit=None) for name in adapter.pair_ids}
    assert trained & {pair.id for pair in made}
    voted = {name for row in store.list(Evaluation, limit=None) for name in row.interaction_ids}
    assert not voted & {pair.interaction_id for pair in made}
    learned = [pair for pair in made if pair.id in trained]
    behind = {name for pair in learned for rule in store.load(Rule, pair.rule_ids) for name in rule.interaction_ids}
    assert not voted & behind


def test_it_is_off_by_default(store: Store) -> None:
    assert run(store) == []


def test_another_cycle_makes_the_same_ones(store: Store) -> None:
    first = {pair.id for pair in run(store, propagate=True)}
    assert {pair.id for pair in run(store, propagate=True)} == first


def test_words_that_are_held_back_are_nobody_to_agree_with(store: Store) -> None:
    for number in range(100, 104):
        log = sample_log(f"log-{number}", "my parcel is late 5", "general_question", f"bad-{number}", float(number))
        store.add_logs([log])
        wrong = Feedback(id=f"fb-{number}", target=log.id, at=number + 60.0, kind="edit", correction="refund_status")
        store.put_feedback([wrong])
    made = run(store, propagate=True)
    held = {standing.lesson_id for standing in store.list(Standing, limit=None) if standing.state == "held"}
    behind = {name for pair in made for rule in store.load(Rule, pair.rule_ids) for name in rule.interaction_ids}
    assert behind
    assert not behind & held
