"""A topic that nobody complains about any more keeps what serves it, unless its lessons hold no more or nobody asks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from two_topics import student, topic

from logtune import pipeline
from logtune.config import Config, build
from logtune.edges.ledger import RuleLedger
from logtune.edges.store import Store
from logtune.ids import new_id
from logtune.records import Cluster, Deployment, Interaction, Json, LogRecord, Rule, RuleAction, RuleEntry
from logtune.testing import FakeExecutor, FixedClock, sample_log, sample_logs, tools

DAY = 86_400.0
SETTINGS: dict[str, Json] = {
    "filter": {"off_topic": "off"}, "ladder": {"rungs": ["expert"]}, "train": {"budget": 0.004},
    "cycle": {"window_days": 28},
}  # fmt: skip
CONFIG = build(SETTINGS)
LOGS, FEEDBACK = sample_logs(users=400, per_user=1)  # an hour between two, so 17 days
LATER = 40 * DAY


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.add_logs(LOGS)
    store.put_feedback(FEEDBACK)
    cycle(store, LOGS[-1].at + DAY)
    return store


def cycle(store: Store, now: float, config: Config = CONFIG) -> None:
    made = replace(tools(student(), FakeExecutor()), clock=FixedClock(now, 0.1))
    pipeline.run_cycle(store, made, config)


def weeks_later(store: Store, content: Callable[[int, LogRecord], bool]) -> None:
    """The same requests 40 days on: those of `content` answered rightly and in silence, the others wrong as before."""
    for number, log in enumerate(LOGS):
        again = f"again-{number}"
        if content(number, log):
            query = log.request["messages"][-1]["content"]  # type: ignore[index, call-overload]
            store.add_logs([sample_log(again, query, topic(query), f"late-{number}", log.at + LATER)])
        elif not refunds(number, log):
            store.add_logs([replace(log, id=again, session=again, user=f"late-{number}", at=log.at + LATER)])
            said = [item for item in FEEDBACK if item.target == log.id]
            store.put_feedback([replace(i, id=f"fb-{again}", target=again, at=i.at + LATER) for i in said])
    cycle(store, LOGS[-1].at + LATER + DAY)


def refunds(number: int, log: LogRecord) -> bool:
    return "refund" in str(log.request)


def of_refunds(store: Store) -> Deployment:
    (name,) = {row.name for row in store.list(Cluster, limit=100) if "refund" in row.label}
    return store.deployments()[name]


def test_a_topic_that_is_served_well_and_in_silence_keeps_its_adapter(store: Store) -> None:
    before = of_refunds(store)
    assert before.candidate == "expert"
    weeks_later(store, refunds)
    now = {row.label for row in store.list(Cluster, cycle_id=store.cycles(1)[0].id)}
    assert not [label for label in now if "refund" in label]
    assert of_refunds(store) == before


def test_a_topic_that_nobody_asks_about_any_more_retires(store: Store) -> None:
    weeks_later(store, lambda number, log: False)
    now = of_refunds(store)
    assert (now.action, now.candidate) == ("retire", "base")
    assert "no request came to it" in now.reason


def test_a_topic_whose_rule_was_vetoed_since_retires(store: Store) -> None:
    (cluster,) = store.load(Cluster, [of_refunds(store).cluster_id])
    members = set(cluster.interaction_ids)
    for rule in store.list(Rule, limit=1000, cycle_id=store.cycles(1)[0].id):
        if rule.merged_from and members & set(rule.interaction_ids):
            RuleLedger(store).add(_veto(rule))
    weeks_later(store, refunds)
    now = of_refunds(store)
    assert now.action == "retire"
    assert "vetoed, taken back or erased" in now.reason


def test_a_topic_whose_words_were_taken_back_since_retires(store: Store) -> None:
    (cluster,) = store.load(Cluster, [of_refunds(store).cluster_id])
    logs = {item.log_id for item in store.load(Interaction, cluster.interaction_ids)}
    taken = [replace(item, revoked=True, correction=None, at=item.at + 9) for item in FEEDBACK if item.target in logs]
    store.put_feedback(taken)
    weeks_later(store, refunds)
    assert of_refunds(store).action == "retire"


def _veto(rule: Rule) -> RuleEntry:
    action: RuleAction = "veto"
    return RuleEntry(
        id=new_id(), action=action, rule_id=rule.id, rule_text=rule.text, parts=rule.merged_from, who="ann",
        at=LOGS[-1].at + 2 * DAY,
    )  # fmt: skip
