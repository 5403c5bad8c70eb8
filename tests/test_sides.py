"""Who votes at the gate: a user has one side for ever, or trains once they have voted and enough new ones are there."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from test_ladder import BAD, GOOD, QUERY, RULE, SETTINGS, add, student, tools

from logtune import pipeline
from logtune.config import Config, build
from logtune.edges.store import Store
from logtune.ids import identified
from logtune.ports import ChatCall
from logtune.records import Evaluation, Feedback, Interaction, Json, PreferencePair
from logtune.served import voted
from logtune.sides import SPLIT_SALT, TRAINS, right_already
from logtune.stages.evaluate import Case
from logtune.stages.held_out import split
from logtune.statistics import unit_of
from logtune.testing import FakeExecutor, ScriptedChat, sample_log

LEARNING: dict[str, Json] = {**SETTINGS, "evaluate": {"test_then_train": True}}
CONFIG, LEARNS = build(SETTINGS), build(LEARNING)
USUAL = CONFIG.evaluate.confirmation_share + CONFIG.evaluate.selection_share  # few choose nothing, and confirm


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Complaints of 80 users; rules that answer them were proven."""
    opened = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    add(opened, range(80))
    cycle(opened)
    assert opened.deployments()
    return opened


def cycle(store: Store, config: Config = CONFIG, able: Sequence[str] = ("rules",)) -> tuple[set[str], set[str]]:
    """Users that a cycle has trained on, and those that confirmed."""
    known, executor = {found.id for found in store.list(Evaluation, limit=1000)}, FakeExecutor()
    pipeline.run_cycle(store, tools(store, student(*able), executor), config)
    voted = [found for found in store.list(Evaluation, limit=1000) if found.id not in known]
    taught = {pair.id for job in executor.jobs for pair in job.pairs}
    pairs = store.load(PreferencePair, sorted(taught))
    return users(store, {p.interaction_id for p in pairs}), users(store, {n for e in voted for n in e.interaction_ids})


def users(store: Store, ids: set[str]) -> set[str]:
    return {str(item.user) for item in store.load(Interaction, sorted(ids))}


def named(numbers: range) -> set[str]:
    return {f"user-{number}" for number in numbers}


def voted_by(store: Store) -> dict[str, Json]:
    return cast("dict[str, Json]", store.cycles(1)[0].receipt["voted"])


def since(store: Store) -> Json:
    return voted_by(store)["since"]


def confirming(store: Store) -> float:
    """The share of the newest users."""
    epochs = cast("list[tuple[float, tuple[float, float]]]", voted_by(store)["epochs"])
    return epochs[-1][1][1]


def test_who_voted_on_what_was_proven_trains_in_the_next_cycle(store: Store) -> None:
    add(store, range(200, 280))
    trained, voted = cycle(store, LEARNS, able=("rules", "expert"))
    assert trained >= named(range(80))
    assert voted
    assert voted < named(range(200, 280))
    assert not trained & voted


def test_of_few_new_users_more_confirm_before_those_who_have_voted_vote_again(store: Store) -> None:
    add(store, range(200, 228))
    trained, voted = cycle(store, LEARNS, able=("rules", "expert"))
    assert len(voted) >= 8  # enough for a good chance
    assert voted < named(range(200, 228))
    assert trained >= named(range(80))
    assert confirming(store) > USUAL


def test_where_some_like_what_they_are_answered_more_confirm_since_they_can_only_tie(store: Store) -> None:
    add(store, range(200, 230))
    met = [sample_log(f"l{i}", f"{QUERY} {i}", GOOD, f"user-{i}", 1e9 + i) for i in range(230, 260)]
    store.add_logs([replace(log, adapter="ada-that-served") for log in met])
    store.put_feedback([Feedback(id=f"f{i}", target=f"l{i}", at=2e9, kind="rating", value=1) for i in range(230, 260)])
    trained, voted = cycle(store, able=("rules", "expert"))
    assert voted < named(range(200, 260))
    assert voted & named(range(230, 260))
    assert not trained & voted
    assert confirming(store) > 0.25  # which would do if nobody liked it


def test_of_votes_that_can_only_tie() -> None:
    def case(user: str, *, praised: bool, reference: str = GOOD) -> Case:
        return Case(
            interaction_id=f"{user}-{praised}", user=user, prompt=(), reference=reference, baseline_answer="",
            candidate_answer="", praised=praised,
        )  # fmt: skip

    assert right_already(()) == 0
    assert right_already([case("a", praised=True), case("b", praised=False)]) == 0.5
    assert right_already([case("a", praised=True), case("a", praised=False)]) == 0
    assert right_already([case("a", praised=True, reference="")]) == 0  # the judge compares these


def test_without_enough_new_users_the_same_ones_vote_again(store: Store) -> None:
    first = users(store, {name for found in store.list(Evaluation, limit=9) for name in found.interaction_ids})
    add(store, range(200, 205))
    trained, voted = cycle(store, LEARNS, able=("rules", "expert"))
    assert first <= voted
    assert not trained & voted
    assert since(store) == 0


def test_a_new_request_of_someone_who_has_voted_is_no_new_vote(store: Store) -> None:
    ask_again(store)
    add(store, range(500, 580))
    _, voted = cycle(store, LEARNS, able=("rules", "expert"))
    assert voted
    assert voted < named(range(500, 580))


def ask_again(store: Store) -> None:
    """Each of the first 80 users, once more."""
    again = [sample_log(f"again{i}", f"{QUERY} {100 + i}", BAD, f"user-{i}", 1e9 + 300 + i) for i in range(80)]
    store.add_logs(again)
    told = [
        Feedback(id=f"f-{log.id}", target=log.id, at=2e9, kind="comment", comment="say how many days", value=-1.0)
        for log in again
    ]
    store.put_feedback(told)


def test_who_trains_never_votes_again(store: Store) -> None:
    add(store, range(200, 280))
    cycle(store, LEARNS)
    passed = since(store)
    assert passed == 1e9 + 79
    cycle(store, build({**LEARNING, "train": {"seed": 3}}), able=("rules", "expert"))  # nobody new since
    assert since(store) == passed
    add(store, range(600, 602))
    trained, voted = cycle(store, build({**LEARNING, "train": {"seed": 4}}), able=("rules", "expert"))
    assert since(store) == passed
    assert not voted & named(range(80))
    assert trained >= named(range(80))


def test_a_log_from_the_future_takes_nobodys_vote(store: Store) -> None:
    late = sample_log("late", f"{QUERY} late", BAD, "user-late", 4e9)
    store.add_logs([late])
    store.put_feedback([Feedback(id="f-late", target="late", at=4e9, kind="comment", comment="say how many days")])
    add(store, range(200, 280))
    cycle(store, LEARNS)
    add(store, range(600, 680))
    trained, voted = cycle(store, build({**LEARNING, "train": {"seed": 5}}), able=("rules", "expert"))
    assert voted
    assert not trained & voted


def test_by_default_nobody_who_has_voted_trains_and_what_is_new_decides(store: Store) -> None:
    first = users(store, {name for found in store.list(Evaluation, limit=99) for name in found.interaction_ids})
    add(store, range(200, 280))
    trained, voted = cycle(store, able=("rules", "expert"))
    assert voted
    assert voted < named(range(200, 280))
    assert not trained & (first | voted)
    assert since(store) == 0
    newest = store.list(Evaluation, limit=1)[0]
    assert "votes since the last proof" in newest.reason


def test_a_candidate_that_loses_those_who_confirmed_what_serves_is_stopped(store: Store) -> None:
    add(store, range(200, 280))
    pipeline.run_cycle(store, tools(store, forgetful(), FakeExecutor()), CONFIG)
    (found,) = [e for e in store.list(Evaluation, limit=9) if e.candidate == "expert" and "voters" in e.guards]
    guard = cast("dict[str, Json]", found.guards["voters"])
    assert (found.outcome, guard["passed"], guard["value"]) == ("failed", False, 1.0)


def test_a_clusters_proof_is_that_of_what_serves_it(store: Store) -> None:
    ((name, row),) = store.deployments().items()
    (proof,) = [found for found in store.list(Evaluation, limit=9) if found.outcome == "passed"]
    newest = max(item.at for item in store.load(Interaction, sorted(proof.interaction_ids)))
    assert voted(store).proofs == {name: newest}
    add(store, range(200, 205))
    cycle(store, able=())  # nothing is proven
    assert voted(store).proofs == {name: newest}
    back = replace(row, id="", action="rollback", previous_id=row.id, candidate="base", adapter_id=None, at=row.at + 1)
    store.deploy(identified(back), store.cycles(1)[0].id)
    assert voted(store).proofs == {}


def forgetful() -> ScriptedChat:
    """An expert that knows what the newer users want, and no more what the first 80 wanted, as what serves does."""

    def say(call: ChatCall) -> str:
        asked = re.search(rf"{QUERY} (\d+)", call.messages[-1].content)
        newer = asked is not None and int(asked[1]) >= 200
        told = any(RULE in message.content for message in call.messages if message.role == "system")
        return GOOD if newer == bool(call.model) and (told or call.model) else BAD

    return ScriptedChat(say)


def test_by_default_too_few_new_ones_vote_with_all_others(store: Store) -> None:
    first = users(store, {name for found in store.list(Evaluation, limit=9) for name in found.interaction_ids})
    add(store, range(200, 205))
    trained, voted = cycle(store, able=("rules", "expert"))
    assert first <= voted
    assert not trained & voted


def test_a_new_request_of_someone_who_has_voted_is_a_new_vote_by_default(store: Store) -> None:
    first = users(store, {name for found in store.list(Evaluation, limit=9) for name in found.interaction_ids})
    ask_again(store)
    trained, voted = cycle(store, able=("rules", "expert"))
    assert voted
    assert voted <= first
    assert not trained & voted
    assert "votes since the last proof" in store.list(Evaluation, limit=1)[0].reason


@pytest.mark.parametrize("config", [CONFIG, LEARNS])
def test_where_too_few_confirm_more_do_and_the_usual_share_of_those_who_come_later(
    tmp_path: Path, config: Config
) -> None:
    few = Store(f"sqlite:///{tmp_path / 'few.db'}")
    add(few, range(26))
    trained, voted = cycle(few, config, able=("rules", "expert"))
    assert 8 <= len(voted) <= 10
    assert not trained & voted
    assert CONFIG.evaluate.confirmation_share < confirming(few) <= CONFIG.evaluate.most_confirmation
    add(few, range(1000, 1100))
    later_config = build({**SETTINGS, "evaluate": {"test_then_train": config is LEARNS}, "train": {"seed": 1}})
    later_trained, later = cycle(few, later_config, able=("rules", "expert"))
    assert confirming(few) == USUAL
    assert later < named(range(1000, 1100))
    assert (voted if config is LEARNS else trained) <= later_trained
    assert not later_trained & later


def test_more_users_confirm_only_of_those_who_have_no_side_yet(store: Store) -> None:
    first = users(store, {name for found in store.list(Evaluation, limit=9) for name in found.interaction_ids})
    trained, voted = cycle(store, build({**SETTINGS, "evaluate": {"min_cases": 40}, "train": {"seed": 1}}))
    assert not trained
    assert voted == first
    ((until, shares),) = cast("list[tuple[float, list[float]]]", voted_by(store)["epochs"])
    assert (until, shares[:2]) == (1e9 + 79, [0.0, 0.25])


@pytest.mark.parametrize(("users", "choose"), [(160, 0.0), (240, 0.05)])
def test_few_would_choose_nothing_and_confirm_instead(tmp_path: Path, users: int, choose: float) -> None:
    shop = Store(f"sqlite:///{tmp_path / 'shop.db'}")
    add(shop, range(users))
    trained, voted = cycle(shop, able=("rules", "expert"))
    ((_, shares),) = cast("list[tuple[float, list[float]]]", voted_by(shop)["epochs"])
    assert shares[:2] == [choose, pytest.approx(0.25 - choose)]
    assert len(voted) == pytest.approx((0.25 - choose) * users, abs=6)
    assert not trained & voted


def test_who_confirmed_for_nothing_does_not_train_when_there_are_more_users(tmp_path: Path) -> None:
    few = Store(f"sqlite:///{tmp_path / 'few.db'}")
    add(few, range(20))
    _, voted = cycle(few, able=())
    assert voted
    assert not few.deployments()
    add(few, range(1000, 1100))
    trained, later = cycle(few, build({**SETTINGS, "train": {"seed": 1}}), able=("rules", "expert"))
    assert voted <= later
    assert not trained & later


def test_the_share_of_the_settings_may_be_held_to(tmp_path: Path) -> None:
    few = Store(f"sqlite:///{tmp_path / 'few.db'}")
    add(few, range(20))
    _, voted = cycle(few, build({**SETTINGS, "evaluate": {"most_confirmation": 0.2}}), able=("rules", "expert"))
    assert voted_by(few)["epochs"] == []  # nothing was tried, so nobody has a side yet
    assert len(voted) < 8


def test_of_users_who_have_voted_all_train() -> None:
    items = [
        Interaction(
            id=f"i{n}", log_id=f"l{n}", at=1.0, query="q", answer="a", user=f"u{n}", context=(), follow_ups=(),
            feedback_ids=(), session=None, adapter=None,
        )
        for n in range(100)
    ]  # fmt: skip
    taught = dict.fromkeys((unit_of(item.user, None, item.id) for item in items[:50]), TRAINS)
    sides = split(items, CONFIG.evaluate, SPLIT_SALT, taught)
    before = split(items, CONFIG.evaluate, SPLIT_SALT)
    assert {*items[:50]} <= {*sides.train}
    assert set(sides.confirmation) == {*before.confirmation} - {*items[:50]}
