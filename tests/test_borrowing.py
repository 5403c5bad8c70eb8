"""Complaints without a right answer in a whole cycle, with fakes: what they teach, and what rests on whom."""

from pathlib import Path

import pytest

from logtune import pipeline
from logtune.config import build
from logtune.edges.store import Store
from logtune.records import Evaluation, Feedback, Interaction, Json, PreferencePair
from logtune.sides import SPLIT_SALT
from logtune.stages.held_out import split
from logtune.testing import FakeExecutor, ScriptedChat, sample_log, tools

REFUND = "the refund of my order {n} is not on my card yet"
LATE = "my parcel {n} is late and was due on monday"
GIVEN = "general_question"


class Service:
    """A store of requests with what their users said."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(f"sqlite:///{folder / 'store.db'}")
        self.count = 0

    def ask(self, user: str, text: str, edit: str | None = None, answered: str = GIVEN) -> None:
        """One request, with an edit or a mere thumb down."""
        self.count += 1
        name, at = f"log-{self.count}", 1e9 + 3600.0 * self.count
        self.store.add_logs([sample_log(name, text.format(n=100 + self.count), answered, user, at)])
        kind = "rating" if edit is None else "edit"
        self.store.put_feedback(
            [Feedback(id=f"fb-{name}", target=name, at=at + 60, kind=kind, correction=edit,
                      value=-1.0 if edit is None else None)]
        )  # fmt: skip

    def cycle(self, **settings: Json) -> list[PreferencePair]:
        """The borrowed pairs that the experts of a cycle were given."""
        config = build({"filter": {"off_topic": "off"}, "train": {"budget": 0.004}, "pairs": settings})
        executor = FakeExecutor()
        pipeline.run_cycle(self.store, tools(ScriptedChat(GIVEN), executor), config)
        trained = {pair.id for job in executor.jobs for pair in job.pairs}
        return [p for p in self.store.list(PreferencePair, limit=1000) if p.origin == "borrowed" and p.id in trained]

    def sides(self) -> dict[str, set[str]]:
        """Side -> interaction ids, by the default shares."""
        found = split(self.store.list(Interaction, limit=1000), build({}).evaluate, SPLIT_SALT)
        return {name: {i.id for i in getattr(found, name)} for name in ("train", "selection", "confirmation")}


@pytest.fixture
def service(tmp_path: Path) -> Service:
    made = Service(tmp_path)
    for number in range(60):
        made.ask(f"ann-{number}", REFUND, "refund_status")
        made.ask(f"bob-{number}", LATE, "late_parcel")
    for number in range(20):
        made.ask(f"eve-{number}", REFUND)
    return made


def test_a_mere_complaint_teaches_what_others_named_for_the_same(service: Service) -> None:
    found = service.cycle()
    assert {pair.chosen for pair in found} == {"refund_status"}
    assert {pair.rejected for pair in found} == {GIVEN}
    users = {i.id: i.user or "" for i in service.store.list(Interaction, limit=1000)}
    assert {users[pair.interaction_id][:3] for pair in found} == {"eve"}
    assert len(found) > 8


def test_the_voters_neither_lend_nor_borrow(service: Service) -> None:
    found = service.cycle()
    used = {name for pair in found for name in (pair.interaction_id, *pair.like_ids)}
    voted = {name for each in service.store.list(Evaluation) for name in each.interaction_ids}
    assert found
    assert not used & voted


def test_a_borrowed_answer_rests_on_those_who_named_it(service: Service) -> None:
    for pair in service.cycle():
        assert len(pair.like_ids) >= 2
        assert {*pair.like_ids, pair.interaction_id} <= set(service.store.parents(pair.id))


def test_it_can_be_turned_off(service: Service) -> None:
    assert service.cycle(borrow=False) == []


def test_a_second_cycle_makes_nothing_again(service: Service) -> None:
    service.cycle()
    before = service.store.list(PreferencePair, limit=1000)
    assert service.cycle() == []
    assert service.store.list(PreferencePair, limit=1000) == before


def test_a_complaint_about_what_others_call_right_borrows_nothing(tmp_path: Path) -> None:
    service = Service(tmp_path)
    for number in range(60):
        service.ask(f"ann-{number}", REFUND, "refund_status")
        service.ask(f"bob-{number}", LATE, "late_parcel")
        service.ask(f"eve-{number}", REFUND, answered="refund_status")
    assert service.cycle() == []


def test_a_complaint_about_something_else_borrows_nothing(service: Service) -> None:
    for number in range(10):
        service.ask(f"joe-{number}", "why does the app show chinese letters {n}")
    found = service.cycle()
    users = {i.id: i.user or "" for i in service.store.list(Interaction, limit=1000)}
    assert {users[pair.interaction_id][:3] for pair in found} == {"eve"}
