"""Trust in a whole cycle, with fakes: who teaches the model, and who does not."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from logtune import pipeline
from logtune.config import build
from logtune.edges.store import Store
from logtune.prompts import render
from logtune.records import (
    Adapter,
    Decision,
    Evaluation,
    Feedback,
    Interaction,
    Json,
    LogRecord,
    PreferencePair,
    Rule,
    Signal,
    Standing,
)
from logtune.stages.answer import critic_prompt, revise_prompt
from logtune.stages.prompted import told
from logtune.testing import FakeExecutor, ScriptedChat, sample_log, tools
from logtune.trusting import NOBODY

BASE: dict[str, Json] = {"filter": {"off_topic": "off"}, "train": {"budget": 0.004}}
DAY = 86_400.0
REFUND = ("when do I get my refund for order {n}", "the refund of order {n} is not on my card yet",
          "refund for order {n} still missing", "how long does the refund of order {n} take")  # fmt: skip
THINGS = ("umbrella", "trousers", "espresso machine", "bicycle lamp", "garden chair", "headphones", "raincoat",
          "kettle", "doormat", "screwdriver")  # fmt: skip
PLACES = ("Hamburg", "the Lisbon shop", "your warehouse", "last Christmas", "my neighbour", "Kraków")
LATE = ("my parcel {n} is late", "where is my parcel {n}", "parcel {n} was due on monday", "the parcel {n} is so late")

ODD = ("what is naval engineering", "how do birds fly", "who wrote hamlet")


class Logs:
    """Requests with edits, put into a store."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(f"sqlite:///{folder / 'store.db'}")
        self.count = 0

    def add(self, user: str | None, texts: Sequence[str], answer: str, at: float, session: str | None = None) -> None:
        """One request of a user, whom the answer did not satisfy: their edit."""
        self.count += 1
        number, name = self.count, f"log-{self.count}"
        query = texts[number % len(texts)].format(n=1000 + 7 * number)
        log = sample_log(name, query, "general_question", user, at)
        self.store.add_logs([log if session is None else _in_session(log, session)])
        self.store.put_feedback([Feedback(id=f"fb-{name}", target=name, at=at + 60, kind="edit", correction=answer)])

    def trained(self, **settings: Json) -> dict[str, set[str]]:
        """Answer -> users whose pairs of it the experts of this cycle know."""
        config = build({**BASE, "trust": dict(settings)})
        pipeline.run_cycle(self.store, tools(ScriptedChat("general_question")), config)
        users = {i.query: i.user or i.session or "" for i in self.store.list(Interaction, limit=10_000)}
        made = self.store.list(Adapter, limit=10_000, cycle_id=self.store.cycles(1)[0].id)
        known = {name for adapter in made for name in adapter.pair_ids if adapter.kind == "expert"}
        found: dict[str, set[str]] = {}
        for pair in self.store.load(PreferencePair, sorted(known)):
            found.setdefault(pair.chosen, set()).add(users[pair.prompt[-1].content])
        return found

    def standings(self) -> dict[str, Standing]:
        """Lesson id -> standing, of the newest cycle."""
        return {s.lesson_id: s for s in self.store.list(Standing, limit=10_000, cycle_id=self.store.cycles(1)[0].id)}


def _in_session(log: LogRecord, session: str) -> LogRecord:
    return replace(log, session=session)


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    made = Logs(tmp_path)
    for number in range(40):
        made.add(f"ann-{number}", REFUND, "refund_status", 1e9 + DAY * number / 4)
        made.add(f"bob-{number}", LATE, "late_parcel", 1e9 + DAY * number / 4)
    return made


def brigade(logs: Logs) -> None:
    """Five accounts that ask for refunds for a week and always edit the answer to a wrong one."""
    for number in range(30):
        logs.add(f"puppet-{number % 5}", REFUND, "late_parcel", 1e9 + DAY * number / 4)


def test_a_brigade_teaches_nothing_and_everybody_else_does(logs: Logs) -> None:
    before = logs.trained()
    brigade(logs)
    found = logs.trained()
    assert not [user for users in found.values() for user in users if user.startswith("puppet")]
    assert found == before
    reasons = {item.reason for item in logs.standings().values() if item.state == "held"}
    assert reasons == {"brigade"}


def test_with_trust_off_the_brigade_teaches(logs: Logs) -> None:
    brigade(logs)
    found = logs.trained(enabled=False)
    assert [user for user in found["late_parcel"] if user.startswith("puppet")]
    assert logs.standings() == {}


def test_the_brigade_has_no_vote_at_the_gate_either(logs: Logs) -> None:
    brigade(logs)
    logs.trained()
    users = {i.id: i.user or "" for i in logs.store.list(Interaction, limit=10_000)}
    voters = {users[name] for found in logs.store.list(Evaluation) for name in found.interaction_ids}
    assert voters
    assert not [user for user in voters if user.startswith("puppet")]


def test_a_fact_that_has_changed_is_learnt(logs: Logs) -> None:
    for number in range(40):
        logs.add(f"cy-{number}", REFUND, "refund_desk_2", 1e9 + DAY * (11 + number / 4))
        logs.add(f"dan-{number}", LATE, "late_parcel", 1e9 + DAY * (11 + number / 4))
    found = logs.trained()
    assert found["refund_desk_2"]
    assert "refund_status" not in found
    assert found["late_parcel"]
    assert {s.reason for s in logs.standings().values() if s.state == "held"} == {"outdated", "nobody"}


def test_a_loud_user_trains_no_more_than_a_few_times_what_others_do(logs: Logs) -> None:
    for number, (thing, place) in enumerate(product(THINGS, PLACES)):  # in words of their own: copies are noise
        asked = f"when do I get my refund for the {thing} from {place}"
        logs.add("loud", (asked,), "refund_status", 1e9 + DAY * number / 6)
    executor = FakeExecutor()
    pipeline.run_cycle(logs.store, tools(ScriptedChat("general_question"), executor), build(BASE))
    users = {i.query: i.user for i in logs.store.list(Interaction, limit=10_000)}
    for job in executor.jobs:
        owners = [users[pair.prompt[-1].content] for pair in job.pairs]
        assert owners.count("loud") <= 3
    held = [item.reason for item in logs.standings().values() if item.state == "held"]
    loud = {item.id for item in logs.store.list(Interaction, limit=10_000) if item.user == "loud"}
    decisions = logs.store.list(Decision, limit=10_000)
    taught = sum(item.interaction_id in loud and item.teaches != "nothing" for item in decisions)
    assert taught > 40  # the filter has taken few for copies of each other
    assert len(held) >= taught - 3
    assert held.count("over_cap") > 40  # some others are told to contradict a neighbour


def test_many_sessions_without_a_user_are_one_person_where_users_have_names(logs: Logs) -> None:
    for number in range(30):
        logs.add(None, REFUND, "late_parcel", 1e9 + DAY * number / 4, session=f"tab-{number}")
    logs.trained()
    rules = [r for r in logs.store.list(Rule, limit=10_000) if r.merged_from and "refund_status" in r.text]
    assert logs.standings()[rules[0].id].users == 40
    held = {name for name, item in logs.standings().items() if item.state == "held"}
    anonymous = {i.id for i in logs.store.list(Interaction, limit=10_000) if i.user is None}
    assert anonymous <= held
    assert NOBODY.startswith("(")  # no user can be called so by accident of an id


def test_a_rule_of_one_user_enters_no_prompt_and_trains_where_that_is_asked_for(logs: Logs) -> None:
    logs.add("eve", REFUND, "only_eve_says_so", 1e9)
    logs.trained(min_users_trained=2)
    mine = next(r for r in logs.store.list(Rule, limit=10_000) if r.merged_from and "only_eve" in r.text)
    assert logs.standings()[mine.id].reason in ("too_few_users", "nobody")


# what logtune itself wrote


@pytest.mark.parametrize(
    "text",
    [
        told("where is it", ["Be brief.", "Name the topic."]),
        critic_prompt("where is it", "a draft")[-1].content,
        revise_prompt("where is it", "a draft", "1. Be brief.").content,
        render("distill", "en", query="q", answer="a", feedback="that is wrong"),
    ],
)
def test_text_of_ours_that_comes_back_is_never_mined(tmp_path: Path, text: str) -> None:
    """As a request through a second gateway, as an edit, as a comment, as the next turn, as an answer sent back."""
    store = Store(f"sqlite:///{tmp_path / 's.db'}")
    plain = sample_log("plain", "where is my late parcel", "general_question", "ann", 1e9)
    ours = sample_log("ours", text, "general_question", "bob", 1e9)
    store.add_logs([plain, ours, _next(plain, text, "turn"), _next(plain, "and now?", "sent", said=text)])
    store.put_feedback([
        Feedback(id="a", target="plain", at=2e9, kind="edit", correction=text),
        Feedback(id="b", target="plain", at=2e9, kind="comment", comment=f"no, that is wrong. {text}"),
        Feedback(id="c", target="ours", at=2e9, kind="edit", correction="late_parcel"),
    ])  # fmt: skip
    pipeline.run_cycle(store, tools(ScriptedChat("general_question")), build(BASE))
    assert store.count(Interaction) == 4
    assert store.list(Signal) == []
    assert store.list(Rule) == []


def _next(log: LogRecord, text: str, name: str, said: str = "general_question") -> LogRecord:
    messages: list[Json] = [
        *log.request["messages"],  # type: ignore[misc]
        {"role": "assistant", "content": said},
        {"role": "user", "content": text},
    ]
    later = sample_log(name, text, "general_question", log.user, log.at + 60)
    return replace(later, request={**log.request, "messages": messages}, session=log.session)


def add_odd_ones(logs: Logs) -> None:
    for number in range(60):
        logs.add(f"u{number}", (REFUND, LATE)[number % 2], ("refund_status", "late_parcel")[number % 2], float(number))
    for number, text in enumerate(ODD):
        logs.add(f"odd-{number}", [text], "refund_status", 100.0 + number)


def test_corrections_of_requests_that_are_like_no_topic_teach_nothing(logs: Logs) -> None:
    add_odd_ones(logs)
    assert not {f"odd-{number}" for number in range(len(ODD))} & logs.trained()["refund_status"]
    odd = {item.id for item in logs.store.list(Interaction, limit=None) if (item.user or "").startswith("odd-")}
    held = {name: standing.reason for name, standing in logs.standings().items() if standing.state == "held"}
    why = {held.get(name) for name in odd}
    assert "stranger" in why
    assert None not in why, "what is not a stranger is contradicted"
    voted = {name for row in logs.store.list(Evaluation, limit=None) for name in row.interaction_ids}
    assert not voted & odd, "nor do they vote"


def test_with_trust_off_they_do(logs: Logs) -> None:
    add_odd_ones(logs)
    assert {user for user in logs.trained(enabled=False)["refund_status"] if user.startswith("odd-")}
