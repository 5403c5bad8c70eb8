"""Another base model: what goes off, what stays, what is asked again; and nothing of the old one ever serves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gateway_kit import adapter_for, cluster_of, deployed

from logtune import rebasing
from logtune.app.commands.loop import undo
from logtune.config import Config
from logtune.config import build as settings
from logtune.edges.experiments import Experiments
from logtune.edges.ledger import RuleLedger
from logtune.edges.store import Store
from logtune.errors import InputError, RequestError
from logtune.ids import identified, new_id
from logtune.knowing import knows
from logtune.pipeline import run_cycle
from logtune.ports import ChatCall, Tools
from logtune.receipts import CycleReceipt
from logtune.records import Adapter, Cluster, Deployment, Message, PreferencePair, Rule, RuleEntry, Standing
from logtune.testing import FakeExecutor, FixedClock, ScriptedChat, sample_logs, tools

OLD, NEW = "tiny@0", "tiny@1"
LATER = 1_760_000_000.0


def topic(call: ChatCall) -> str:
    return "refund_status" if "refund" in call.messages[-1].content else "late_parcel"


def old_model(call: ChatCall) -> str:
    """Knows nothing without an adapter."""
    return topic(call) if call.model else "general_question"


def half_taught(call: ChatCall) -> str:
    """Knows one of the two topics without an adapter."""
    return topic(call) if call.model or topic(call) == "late_parcel" else "no idea"


def all_taught(call: ChatCall) -> str:
    return topic(call)


def model(script: object, base: str = NEW, at: float = LATER) -> Tools:
    made = tools(ScriptedChat(script), FakeExecutor())  # type: ignore[arg-type]
    return replace(made, base_fingerprint=base, clock=FixedClock(at, step=0.1))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    logs, feedback = sample_logs(users=120, per_user=1)
    made.add_logs(logs)
    made.put_feedback(feedback)
    yield made
    made.close()


def taught(store: Store, config: Config | None = None) -> CycleReceipt:
    """The store after a cycle on the old base model."""
    return run_cycle(store, model(old_model, OLD, 1_755_000_000.0), config or Config())


def names(store: Store, receipt: CycleReceipt) -> list[str]:
    return [cluster.name for cluster in store.load(Cluster, receipt.clusters)]


def serving(store: Store) -> dict[str, tuple[str, str | None]]:
    return {name: (row.candidate, row.adapter_id) for name, row in store.deployments().items()}


def test_lessons_that_the_new_base_knows_are_dropped_and_the_rest_is_trained_and_gated(store: Store) -> None:
    before = taught(store)
    ((name, (_, old_adapter)),) = serving(store).items()
    made = model(half_taught)
    after = run_cycle(store, made, Config())
    assert names(store, after) == names(store, before)
    pairs = {pair.id: pair for pair in store.list(PreferencePair, limit=999, cycle_id=after.cycle_id)}
    held = [row for row in store.list(Standing, limit=999, cycle_id=after.cycle_id) if row.reason == "known_already"]
    assert {pairs[row.lesson_id].chosen for row in held} == {"late_parcel"}
    (job,) = made.executor.jobs  # type: ignore[attr-defined]
    assert {pair.chosen for pair in job.pairs} == {"refund_status"}
    assert job.base_fingerprint == NEW
    assert after.held == {"known_already": len(held)}
    assert f"It knows {len(held)} of {len(pairs)} lessons." in after.summary
    assert f"The base model is {NEW}, before it was {OLD}. What served {name} is off" in after.summary
    assert serving(store)[name][1] != old_adapter


def test_a_base_that_knows_everything_serves_alone(store: Store) -> None:
    taught(store)
    made = model(all_taught)
    after = run_cycle(store, made, Config())
    assert made.executor.jobs == []  # type: ignore[attr-defined]
    assert {what for what, _ in serving(store).values()} == {"base"}
    assert after.held["known_already"] == len(store.list(PreferencePair, limit=999))


def test_a_base_that_knows_nothing_is_taught_as_the_old_one_was(store: Store) -> None:
    taught(store)
    run_cycle(store, model(old_model), Config())
    ((what, adapter),) = serving(store).values()
    assert what == "expert"
    assert store.load(Adapter, [adapter or ""])[0].base == NEW


def test_nothing_of_the_old_base_serves_from_the_first_moment_of_the_cycle(store: Store) -> None:
    """Also where the cycle is killed later: what it does first is to take off what was proven on the old one."""
    taught(store)

    class Killed(Exception):
        pass

    def killed(call: ChatCall) -> str:
        raise Killed

    with pytest.raises(Killed):
        run_cycle(store, model(killed), Config())
    (row,) = store.deployments().values()
    assert (row.candidate, row.action) == ("base", "retire")
    assert row.reason == f"trained on {OLD}; the base is {NEW}"
    resumed = run_cycle(store, model(old_model), Config())
    assert resumed.summary.startswith(f"The base model is {NEW}, before it was {OLD}.")
    assert {what for what, _ in serving(store).values()} == {"expert"}


def test_a_second_cycle_on_the_new_base_does_nothing_again(store: Store) -> None:
    taught(store)
    run_cycle(store, model(half_taught), Config())
    asked = model(half_taught, at=LATER + 1000)
    again = run_cycle(store, asked, Config())
    assert asked.student.calls == []  # type: ignore[attr-defined]
    assert not again.summary.startswith("The base model is")
    assert again.held["known_already"] > 0  # still dropped


def test_rules_that_served_without_an_adapter_are_off_too(store: Store) -> None:
    cluster = cluster_of("late", "where is my late parcel")
    deployed(store, cluster, None, 1.0)
    row = store.deployments()["late"]
    rules = replace(row, id="dep-rules", candidate="rules", at=2.0, previous_id=row.id)
    store.deploy(rules, "cyc-0")
    assert rebasing.stale(store, rebasing.Base(fingerprint=NEW, since=1.0)) == {}
    assert set(rebasing.stale(store, rebasing.Base(fingerprint=NEW, since=3.0))) == {"late"}
    (gone,) = rebasing.retire(store, rebasing.Base(fingerprint=NEW, since=3.0), "cyc-1", 4.0)
    assert gone.reason == f"proven before {NEW} was the base"
    assert rebasing.retire(store, rebasing.Base(fingerprint=NEW, since=3.0), "cyc-1", 5.0) == []


def test_a_rollback_never_brings_an_adapter_of_the_old_base_back(store: Store) -> None:
    taught(store)
    run_cycle(store, model(all_taught), Config())
    (name,) = store.deployments()
    with pytest.raises(InputError, match=f"trained on {OLD}; the base is {NEW}"):
        undo(store, name, LATER + 99)
    assert {what for what, _ in serving(store).values()} == {"base"}


def test_nor_rules_that_were_proven_on_it(store: Store) -> None:
    taught(store)
    (name,) = store.deployments()
    row = store.deployments()[name]
    rules = identified(replace(row, id="", candidate="rules", adapter_id=None, previous_id=row.id, at=row.at + 1))
    store.deploy(rules, "cyc-0")
    run_cycle(store, model(all_taught), Config())
    with pytest.raises(InputError, match=f"proven before {NEW} was the base"):
        undo(store, name, LATER + 99)
    assert {what for what, _ in serving(store).values()} == {"base"}


def test_live_tests_of_the_old_base_end(store: Store) -> None:
    config = settings({"experiment": {"mode": "ab"}})
    taught(store, config)
    (test, _) = next(iter(Experiments(store).running().values()))
    assert store.load(Adapter, [test.adapter_id or ""])[0].base == OLD
    run_cycle(store, model(all_taught), config)
    assert Experiments(store).running() == {}
    last = Experiments(store).led(test)[-1]
    assert (last.action, last.by, last.reason) == ("stop", "rebase", f"trained on {OLD}; the base is {NEW}")


def test_what_people_decided_about_rules_holds_on_the_new_base(store: Store) -> None:
    receipt = taught(store)
    rule = next(r for r in store.list(Rule, limit=999, cycle_id=receipt.cycle_id) if r.merged_from)
    RuleLedger(store).add(RuleEntry(
        id=new_id(), action="veto", rule_id=rule.id, rule_text=rule.text, parts=rule.merged_from, who="ann", at=LATER,
    ))  # fmt: skip
    after = run_cycle(store, model(old_model), Config())
    states = {r.text: r.state for r in store.list(Rule, limit=999, cycle_id=after.cycle_id) if r.merged_from}
    assert states[rule.text] == "vetoed"


def test_the_gap_is_measured_on_what_the_new_base_says(store: Store) -> None:
    seen: list[str] = []

    class Coverage:
        on_answers = False
        fingerprint = "seen"

        def covered(self, rule: str, known: list[str], example: object = None) -> float:
            seen.extend(known)
            return 0.0

    taught(store)
    run_cycle(store, replace(model(half_taught), coverage=Coverage()), Config())
    assert set(seen) == {"late_parcel", "no idea"}  # and not general_question, which the old one said


def test_cycles_of_an_older_version_say_nothing_of_their_base_and_their_adapters_do(store: Store) -> None:
    deployed(
        store,
        cluster_of("late", "where is my late parcel"),
        replace(adapter_for(cluster_of("late", "x")), base=OLD),
        1.0,
    )
    found = rebasing.last(store)
    assert found is not None
    assert (found.fingerprint, found.since) == (OLD, 0.0)
    assert rebasing.now_on(store, NEW, 5.0) == rebasing.Base(fingerprint=NEW, since=5.0, before=OLD)


def test_lessons_older_than_the_window_are_learned_again(store: Store) -> None:
    taught(store)
    narrow = settings({"cycle": {"window_days": 1.0}})
    made = model(old_model)
    run_cycle(store, made, narrow)
    assert made.executor.jobs  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "better", "known"),
    [
        ("Late_Parcel.", "late_parcel", True),
        ("late parcel", "late_parcel", True),
        ("refund_status", "late_parcel", False),
        ("It is late_parcel", "late_parcel", False),
        ("a long answer " * 20, "a long answer " * 20, False),
    ],
)
async def test_what_counts_as_known(answer: str, better: str, known: bool) -> None:
    pair = PreferencePair(
        id="pair-1", interaction_id="int-1", rule_ids=(), prompt=(Message(role="user", content="x"),),
        chosen=better, rejected="y", origin="edit", margin=None,
    )  # fmt: skip
    assert await knows(ScriptedChat(answer), [pair], 64) == {"pair-1": known}
    too_long = ScriptedChat(lambda call: RequestError("the prompt has 9,000 tokens"))
    assert await knows(too_long, [pair], 64) == {"pair-1": False}


def test_a_deployment_is_kept_in_the_history(store: Store) -> None:
    taught(store)
    run_cycle(store, model(all_taught), Config())
    newest, first = store.list(Deployment)
    assert (newest.action, newest.previous_id) == ("retire", first.id)
