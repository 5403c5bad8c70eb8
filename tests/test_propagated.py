"""Answers that others agree on, for complaints that name none."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune import pipeline, sides
from logtune.config import build
from logtune.edges.store import Store
from logtune.records import Adapter, Cluster, Evaluation, Feedback, Interaction, PreferencePair, Rule, Standing
from logtune.stages import propagated
from logtune.stages.held_out import Split
from logtune.stages.propagated import LEAST_SURE, Named
from logtune.testing import ScriptedChat, sample_log, tools

LATE, REFUND = np.eye(3, dtype=np.float32)[:2]
MANY = 12  # users of each answer; enough to measure what is sure


def around(middle: np.ndarray, count: int, spread: float = 0.2, seed: int = 0) -> np.ndarray:
    """Unit vectors near one."""
    found = middle + spread * np.random.default_rng(seed).normal(size=(count, len(middle)))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def named(count: int = MANY, owners: Sequence[str] = (), wrong: int = 0) -> Named:
    """So many requests about something late, the first `wrong` of them called refund; and as many refunds."""
    vectors = np.vstack([around(LATE, count), around(REFUND, count, seed=1)])
    answers = ["late"] * count + ["refund"] * count
    answers[:wrong] = ["refund"] * wrong
    return Named(vectors, answers, owners or [f"u{row}" for row in range(2 * count)])


def test_what_lies_in_the_middle_of_an_answer_is_meant() -> None:
    assert named().meant(LATE, "z", "nonsense") == tuple(range(MANY))
    assert named().meant(REFUND, "z", "nonsense") == tuple(range(MANY, 2 * MANY))


def test_what_lies_between_two_answers_or_far_from_both_is_not_sure() -> None:
    between = np.asarray((LATE + REFUND) / np.sqrt(2), np.float32)
    assert named().meant(between, "z", "") == ()
    assert named().meant(np.eye(3, dtype=np.float32)[2], "z", "") == ()


def test_a_refused_answer_is_not_meant() -> None:
    assert named().meant(LATE, "z", "late") == ()


def test_nobody_is_behind_their_own_answer() -> None:
    assert named().meant(LATE, "u3", "") == tuple(row for row in range(MANY) if row != 3)
    one = ["a"] * MANY + [f"u{row}" for row in range(MANY)]
    assert named(owners=one).meant(LATE, "z", "") == (), "one user is not two"
    two = ["a", "b"] * (MANY // 2) + [f"u{row}" for row in range(MANY)]
    assert named(owners=two).meant(LATE, "a", "") == (), "and without their own words there is one"


def test_where_users_contradict_each_other_nothing_is_sure() -> None:
    assert named(wrong=1).meant(LATE, "z", "") != (), "1 of 24 is within what is allowed"
    assert named(wrong=MANY // 2).meant(LATE, "z", "") == ()


def test_a_refused_answer_adds_nothing_to_the_lead_of_the_other() -> None:
    axes = np.eye(256, dtype=np.float32)
    vectors = np.vstack([around(axes[0], MANY, 0.02), around(axes[1], MANY, 0.02, seed=1)])
    known = Named(vectors, ["late"] * MANY + ["refund"] * MANY, [f"u{row}" for row in range(2 * MANY)])
    assert known.meant(axes[1], "z", "late") != ()
    assert {known.meant(strange, "z", "late") for strange in around(0 * axes[2], 50, 1.0, seed=5)} == {()}


def test_with_one_answer_nothing_is_measured() -> None:
    one = Named(around(LATE, MANY), ["late"] * MANY, [f"u{row}" for row in range(MANY)])
    assert one.meant(LATE, "z", "") == ()


def test_few_tell_nothing_of_how_sure_is_sure() -> None:
    assert named(LEAST_SURE // 2 - 1).meant(LATE, "z", "") == ()
    assert named(LEAST_SURE // 2).meant(LATE, "z", "") != ()
    assert Named(np.zeros((0, 3), np.float32), [], []).meant(LATE, "z", "") == ()


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("xyz"), st.sampled_from("abcdef")), max_size=40),
    st.integers(0, 9), st.sampled_from("abcdef"), st.sampled_from(["x", "y", ""]),
)  # fmt: skip
def test_only_other_users_with_one_answer_that_was_not_refused_are_named(
    rows: list[tuple[int, str, str]], asked: int, user: str, refused: str
) -> None:
    pool = around(LATE, 10, spread=0.8)
    known = Named(pool[[place for place, *_ in rows]], [answer for _, answer, _ in rows], [who for *_, who in rows])
    found = known.meant(pool[asked], user, refused)
    assert len({rows[row][1] for row in found}) <= 1
    assert refused not in {rows[row][1] for row in found}
    assert not found or len({rows[row][2] for row in found} - {user}) >= 2
    assert user not in {rows[row][2] for row in found}


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
        assert len(behind) > 2
        assert set(pair.rule_ids) <= set(store.parents(pair.id)), "undone with those whose word it is"
    members = {name for group in store.list(Cluster, limit=None) for name in group.interaction_ids}
    assert {pair.interaction_id for pair in made} <= members
    trained = {name for adapter in store.list(Adapter, limit=None) for name in adapter.pair_ids}
    assert trained & {pair.id for pair in made}
    voted = {name for row in store.list(Evaluation, limit=None) for name in row.interaction_ids}
    assert not voted & {pair.interaction_id for pair in made}
    behind = {name for pair in made for rule in store.load(Rule, pair.rule_ids) for name in rule.interaction_ids}
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


def test_a_pair_that_needs_a_voters_word_does_not_train(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200, 205):
        log = sample_log(f"log-{number}", f"cancel my plan {number}", "general_question", f"p{number}", float(number))
        store.add_logs([log])
        given = {"kind": "edit", "correction": "cancel_plan"} if number < 202 else {"kind": "rating", "value": -1.0}
        store.put_feedback([Feedback(id=f"fb-{number}", target=log.id, at=number + 60.0, **given)])  # type: ignore[arg-type]

    def without(*names: str) -> Callable[[object, Sequence[Interaction]], Split]:
        """Sides on which these users vote and all others teach."""
        return lambda _, items: Split(
            train=tuple(i for i in items if i.user not in names), selection=(),
            confirmation=tuple(i for i in items if i.user in names),
        )  # fmt: skip

    monkeypatch.setattr(sides, "first_sides", without())
    monkeypatch.setattr(sides, "sides_of", without("p200"))  # as pairs are chosen; the gate has its own, as always
    monkeypatch.setattr(propagated, "LEAST_SURE", 1)
    made = run(store, propagate=True)
    trained = {name for adapter in store.list(Adapter, limit=None) for name in adapter.pair_ids}
    assert "cancel_plan" in {pair.chosen for pair in made}, "made before it was known who votes"
    assert {pair.chosen for pair in made if pair.id in trained} == {"late_parcel", "refund_status"}
