"""What was rolled back stays away, cycle after cycle, until somebody new has voted for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from two_topics import student

from logtune import pipeline
from logtune.app.commands.loop import undo
from logtune.config import Config, build
from logtune.edges.experiments import Experiments
from logtune.edges.store import Store
from logtune.experiments import by_hand
from logtune.receipts import CycleReceipt
from logtune.records import Adapter, Deployment, Evaluation, Experiment, Interaction, Json, PreferencePair
from logtune.testing import FakeExecutor, sample_logs, tools

SETTINGS: dict[str, Json] = {"filter": {"off_topic": "off"}, "ladder": {"rungs": ["expert"]}}
GATE = build({**SETTINGS, "train": {"budget": 0.004}})
LIVE = build({**SETTINGS, "train": {"budget": 0.004}, "experiment": {"mode": "ab", "begin_unprovable": True}})
SAMPLE = sample_logs(users=480, per_user=1)
FIRST = 400  # of its logs
LATER = SAMPLE[0][-1].at + 9e6  # seconds since 1970, after all of it


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'store.db'}")


@pytest.fixture
def cycle(store: Store) -> Callable[..., CycleReceipt]:
    """Runs a cycle over the first logs, or over all of them."""
    executor = FakeExecutor()

    def run(config: Config = GATE, logs: int = FIRST) -> CycleReceipt:
        known = {log.id for log in SAMPLE[0][:logs]}
        store.add_logs(SAMPLE[0][:logs])
        store.put_feedback([item for item in SAMPLE[1] if item.target in known])
        return pipeline.run_cycle(store, tools(student(), executor), config)

    return run


def first(store: Store) -> Deployment:
    """What serves the first of the clusters."""
    return next(row for _, row in sorted(store.deployments().items()))


def test_a_cycle_with_nothing_new_leaves_a_rollback_by_hand_as_it_is(store: Store, cycle) -> None:
    cycle()
    gone = first(store)
    assert gone.candidate == "expert"
    undo(store, gone.cluster_name, LATER)
    receipt = cycle()
    now = store.deployments()[gone.cluster_name]
    assert now.candidate == "base"
    assert now.action == "keep"
    assert "rolled back by hand" in now.reason
    assert "nobody new has voted" in now.reason
    assert now.reason in receipt.summary
    others = [row for name, row in store.deployments().items() if name != gone.cluster_name]
    assert [row.candidate for row in others] == ["expert"]


def test_it_is_said_in_every_cycle_and_written_down_once(store: Store, cycle) -> None:
    cycle()
    name = first(store).cluster_name
    undo(store, name, LATER)
    cycle()
    kept = store.deployments()[name]
    receipt = cycle()
    assert store.deployments()[name] == kept
    assert receipt.stages["deploy"]["done"] == 0
    assert kept.reason in receipt.summary


def test_what_new_users_voted_for_serves_again(store: Store, cycle) -> None:
    cycle()
    gone = first(store)
    undo(store, gone.cluster_name, LATER)
    cycle()
    cycle(logs=len(SAMPLE[0]))
    now = store.deployments()[gone.cluster_name]
    assert (now.candidate, now.action) == ("expert", "deploy")
    proof = {row.adapter_id: set(row.interaction_ids) for row in store.list(Evaluation, limit=100)}
    assert proof[now.adapter_id] - proof[gone.adapter_id]


# live tests


def begun(store: Store) -> Experiment:
    """The test of the first of the clusters."""
    return next(test for _, (test, _) in sorted(Experiments(store).running().items()))


def test_what_a_live_test_rolled_back_in_its_watch_is_neither_tested_nor_deployed_again(store: Store, cycle) -> None:
    cycle(LIVE)
    test = begun(store)
    by_hand(store, test.id, "promote", "let it serve", LIVE, LATER)
    by_hand(store, test.id, "rollback", "complaints on the phone", LIVE, LATER + 60)
    told = cycle(LIVE).summary
    assert test.cluster_name not in Experiments(store).running()
    assert f"{test.cluster_name}: skipped" in told
    assert "complaints on the phone" in told
    cycle()
    assert store.deployments()[test.cluster_name].candidate == "base"


def test_what_a_live_test_stopped_is_not_deployed_on_the_word_of_its_gate(store: Store, cycle) -> None:
    cycle(LIVE)
    test = begun(store)
    by_hand(store, test.id, "stop", "complaints on the phone", LIVE, LATER)
    cycle()
    now = store.deployments()[test.cluster_name]
    assert now.candidate == "base"
    assert "stopped by a live test" in now.reason


def test_what_lost_something_it_had_learned_is_another_candidate(store: Store, cycle) -> None:
    """One lesson is taken back; nobody new has voted, and nobody needs to."""
    cycle()
    gone = first(store)
    undo(store, gone.cluster_name, LATER)
    (adapter,) = store.load(Adapter, [gone.adapter_id or ""])
    (pair,) = store.load(PreferencePair, adapter.pair_ids[:1])
    (item,) = store.load(Interaction, [pair.interaction_id])
    edit = next(each for each in SAMPLE[1] if each.target == item.log_id)
    store.put_feedback([replace(edit, revoked=True, correction=None, at=edit.at + 9)])
    pipeline.run_cycle(store, tools(student(), FakeExecutor()), GATE)
    assert store.deployments()[gone.cluster_name].candidate == "expert"
