"""Cycle after cycle through fakes: only what is new is done, lessons stay, clusters split and merge without a loss."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from two_topics import right, student

from logtune import pipeline
from logtune.config import Config, build
from logtune.edges.store import Store
from logtune.ports import ChatCall
from logtune.receipts import CycleReceipt
from logtune.records import (
    Adapter,
    Cluster,
    Evaluation,
    Feedback,
    Interaction,
    Json,
    LogRecord,
    PreferencePair,
    Standing,
)
from logtune.testing import FakeExecutor, ScriptedChat, sample_logs, tools

SETTINGS: dict[str, Json] = {"filter": {"off_topic": "off"}, "ladder": {"rungs": ["expert"]}}
TWO = build(
    {**SETTINGS, "train": {"budget": 0.004, "go_on": 0.5}}
)  # of a million parameters, at 1,000 a rank: two of rank 2
ONE = build({**SETTINGS, "train": {"budget": 0.002}})
JOINED = build({**SETTINGS, "train": {"budget": 0.004}, "cluster": {"min_size": 1000}})
Sample = tuple[list[LogRecord], list[Feedback]]


def part(sample: Sample, wanted: Callable[[int], bool]) -> Sample:
    logs = [log for number, log in enumerate(sample[0]) if wanted(number)]
    known = {log.id for log in logs}
    return logs, [item for item in sample[1] if item.target in known]


SAMPLE = sample_logs(users=480, per_user=1)  # topics in turn
FIRST = part(SAMPLE, lambda n: n < 400)
PARCELS = part(SAMPLE, lambda n: n >= 400 and n % 2 == 0)  # 40 more, of one topic


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'store.db'}")


def cycle(
    store: Store, sample: Sample, model: ScriptedChat, config: Config = TWO, executor: FakeExecutor | None = None
) -> CycleReceipt:  # fmt: skip
    store.add_logs(sample[0])
    store.put_feedback(sample[1])
    return pipeline.run_cycle(store, tools(model, executor), config)


def clusters(store: Store) -> dict[str, Cluster]:
    return {row.name: row for row in store.list(Cluster, cycle_id=store.cycles(1)[0].id)}


def judged(store: Store) -> dict[str, list[Evaluation]]:
    """By cluster name, those of the newest cycle."""
    names = {row.id: name for name, row in clusters(store).items()}
    found: dict[str, list[Evaluation]] = {}
    for row in store.list(Evaluation, cycle_id=store.cycles(1)[0].id):
        if row.cluster_id in names:
            found.setdefault(names[row.cluster_id], []).append(row)
    return found


# only what is new


def test_a_cycle_with_a_tenth_more_logs_does_only_what_is_new(store: Store) -> None:
    executor, model = FakeExecutor(), student()
    cycle(store, FIRST, model, executor=executor)
    before, jobs, calls = clusters(store), len(executor.jobs), len(model.calls)
    assert len(before) == 2
    receipt = cycle(store, PARCELS, model, executor=executor)
    done = {name: (row["done"], row["unchanged"]) for name, row in receipt.stages.items()}
    old, new = (sum(item.kind == "edit" for item in sample[1]) for sample in (FIRST, PARCELS))
    assert done["interactions"] == (40, 400)
    assert done["signals"] == (40, 400)
    assert done["filter"] == (1, 0)  # what is noise depends on all there is
    assert done["distill"][0] <= len(PARCELS[1]) + 1  # and one unit that merges all rules
    assert done["pairs"] == (new, old)  # of those who gave the right answer
    assert done["cluster"] == (1, 0)
    assert done["trust"] == (2, 1)  # all users beside each other, and the cap of the cluster that grew
    assert done["gap"] == (new + 1, old + 1)  # whether the base model knows it; and each cluster's
    assert done["train"] == (1, 1)
    assert done["evaluate"][0] == 1
    after = clusters(store)
    changed = {name for name in before if before[name] != after[name]}
    assert len(changed) == 1
    assert set(after) == set(before)
    assert len(executor.jobs) == jobs + 1
    assert len(model.calls) - calls < calls / 2


def test_a_cycle_with_nothing_new_does_nothing(store: Store) -> None:
    cycle(store, FIRST, student())
    cycle(store, ([], []), student())  # it knows now what the clusters were before
    receipt = cycle(store, ([], []), student())
    assert {name: row["done"] for name, row in receipt.stages.items() if row["done"]} == {}


# what the base model knows


def test_what_the_base_model_says_by_itself_is_not_trained(store: Store) -> None:
    """It gives one topic by itself; the logs came from another model, which did not."""

    def say(call: ChatCall) -> str:
        if call.model or "refund" in call.messages[-1].content:
            return right(call)
        return "general_question"

    executor = FakeExecutor()
    cycle(store, FIRST, ScriptedChat(say), executor=executor)
    held = {row.lesson_id for row in store.list(Standing, limit=1000) if row.reason == "known_already"}
    known = {pair.id for pair in store.list(PreferencePair, limit=1000) if pair.chosen == "refund_status"}
    assert held == known
    assert len(held) > 100
    assert not held & {name for row in store.list(Adapter, limit=100) for name in row.pair_ids}
    assert {pair.chosen for job in executor.jobs for pair in job.pairs} == {"late_parcel"}


def test_a_mistake_of_an_adapter_is_a_lesson_whatever_the_base_model_knows(store: Store) -> None:
    logs, feedback = FIRST
    cycle(store, ([replace(log, adapter="ada-old") for log in logs], feedback), ScriptedChat(right))
    assert not [row for row in store.list(Standing, limit=1000) if row.reason == "known_already"]


# no forgetting


def forgetful(taught: set[str], old: set[str]) -> Callable[[ChatCall], str]:
    """The next adapter knows all new requests, and gives a third answer, that nobody complained about, to the old."""

    def say(call: ChatCall) -> str:
        if call.model in old:
            return right(call) if call.messages[-1].content in taught else "general_question"
        return "something_else" if call.messages[-1].content in taught else right(call)

    return say


def test_a_candidate_that_wins_and_forgets_does_not_serve(store: Store) -> None:
    cycle(store, FIRST, student())
    serving = {name: row.adapter_id for name, row in store.deployments().items()}
    old = {row.path for row in store.list(Adapter, limit=100)}
    trained = {name for row in store.list(Adapter, limit=100) for name in row.pair_ids}
    taught = {pair.prompt[-1].content for pair in store.load(PreferencePair, sorted(trained))}
    fresh = part(SAMPLE, lambda n: n >= 400)
    cycle(store, fresh, student(forgetful(taught, old)))
    rows = [row for found in judged(store).values() for row in found]
    forgot = [cast("dict[str, Json]", row.guards["lessons"]) for row in rows if "lessons" in row.guards]
    assert {name: row.adapter_id for name, row in store.deployments().items()} == serving
    assert forgot
    assert all(guard["passed"] is False and cast("float", guard["value"]) > 0.9 for guard in forgot)  # some users erred
    assert all("earlier lessons forgotten" in str(guard["reason"]) for guard in forgot)


def test_lessons_of_logs_that_are_no_longer_read_are_trained_again(store: Store) -> None:
    day = 86_400.0
    late = [replace(log, at=log.at + 400 * day) for log in SAMPLE[0]]
    later = part((late, SAMPLE[1]), lambda n: n >= 240), part(SAMPLE, lambda n: n < 240)
    cycle(store, later[1], student())
    lessons = {name for row in store.list(Adapter, limit=100) for name in row.pair_ids}
    executor = FakeExecutor()
    short = build({**SETTINGS, "train": {"budget": 0.004}, "cycle": {"window_days": 200}})
    store.add_logs(later[0][0])
    store.put_feedback(later[0][1])
    made = replace(tools(student(), executor), clock=tools(student()).clock)
    made.clock.time = late[-1].at + day  # type: ignore[attr-defined]
    pipeline.run_cycle(store, made, short)
    trained = {pair.id for job in executor.jobs for pair in job.pairs}
    assert len(trained & lessons) >= 40
    assert trained - lessons


# go on, or begin anew


def test_the_next_adapter_goes_on_with_what_is_new_and_as_much_of_the_old(store: Store) -> None:
    executor = FakeExecutor()
    cycle(store, FIRST, student(), executor=executor)
    serving = {row.adapter_id: name for name, row in store.deployments().items()}
    old = {row.id: row for row in store.list(Adapter, limit=100)}
    cycle(store, PARCELS, student(), executor=executor)
    job = executor.jobs[-1]
    assert serving[job.start_id] == job.name
    known = set(old[job.start_id].pair_ids)
    new = [pair for pair in job.pairs if pair.id not in known]
    assert len(job.pairs) == 2 * len(new) > 20
    assert job.times == 1
    assert job.learned == old[job.start_id].pair_ids
    (found,) = {row.pair_ids for row in store.list(Adapter, limit=100) if row.id not in old}
    assert set(found) == known | {pair.id for pair in new}  # lineage reaches all that is in its weights


@pytest.mark.parametrize("settings", [{"go_on": 0.0}, {"go_on": 0.05}, {"go_on_times": 0}, {"max_rank": 1}])
def test_else_it_begins_anew_with_all(store: Store, settings: dict[str, Json]) -> None:
    executor = FakeExecutor()
    cycle(store, FIRST, student(), executor=executor)
    before = len(executor.jobs[0].pairs) + len(executor.jobs[1].pairs)
    config = build({**SETTINGS, "train": {"budget": 0.004, "go_on": 0.5, **settings}})
    executor.jobs.clear()
    cycle(store, PARCELS, student(), config, executor)
    assert all(not job.start for job in executor.jobs)
    assert sum(len(job.pairs) for job in executor.jobs) > before


def test_nothing_goes_on_from_what_has_learned_something_that_is_believed_no_more(store: Store) -> None:
    executor = FakeExecutor()
    cycle(store, FIRST, student(), executor=executor)
    name = next(job.pairs[0].id for job in executor.jobs if "late" in job.pairs[0].chosen)
    (taught,) = store.load(PreferencePair, [name])
    (item,) = store.load(Interaction, [taught.interaction_id])
    edit = next(each for each in FIRST[1] if each.target == item.log_id)
    taken_back = replace(edit, revoked=True, correction=None, at=edit.at + 9)
    executor.jobs.clear()
    cycle(store, (PARCELS[0], [*PARCELS[1], taken_back]), student(), executor=executor)
    assert executor.jobs
    assert all(not job.start and taught.id not in {pair.id for pair in job.pairs} for job in executor.jobs)


# clusters that split and merge


def test_what_splits_off_has_to_beat_what_serves_it_now(store: Store) -> None:
    """One adapter serves both topics; when two are affordable the new cluster's baseline is that adapter."""
    cycle(store, FIRST, student(), ONE)
    (row,) = store.deployments().values()
    cycle(store, part(SAMPLE, lambda n: n >= 400), student(), TWO)
    assert len(clusters(store)) == 2
    found = judged(store)
    assert {e.baseline for rows in found.values() for e in rows if e.cases} == {row.adapter_id}
    assert not [e for rows in found.values() for e in rows if e.outcome == "passed"]  # it does as well
    assert {each.adapter_id for each in store.deployments().values()} == {row.adapter_id}


def test_a_part_that_gets_better_leaves_the_other_part_what_it_had(store: Store) -> None:
    """The first adapter knows refunds alone. The next one of the parcels is better; refunds go on as they were."""
    old: set[str] = set()

    def say(call: ChatCall) -> str:
        known = "refund" in call.messages[-1].content or (bool(old) and call.model not in old)
        return right(call) if known else "general_question"

    cycle(store, FIRST, student(say), ONE)
    (first,) = store.deployments().values()
    old |= {row.path for row in store.list(Adapter, limit=100)}
    cycle(store, part(SAMPLE, lambda n: n >= 400), student(say), TWO)
    over = [row.guards["over_base"] for rows in judged(store).values() for row in rows if row.outcome == "passed"]
    current, groups = store.deployments(), clusters(store)
    assert [cast("dict[str, Json]", each)["gain"] for each in over] == [1.0]  # all votes, of the base model
    assert len(groups) == 2
    words = {name: " ".join(group.label.split()) for name, group in groups.items()}
    refunds = next(name for name, label in words.items() if "refund" in label)
    parcels = next(name for name in words if name != refunds)
    assert current[refunds].adapter_id == first.adapter_id
    assert current[parcels].adapter_id not in (None, first.adapter_id)


def test_two_that_merge_serve_on_until_the_whole_is_better(store: Store) -> None:
    cycle(store, FIRST, student(), TWO)
    before = {name: row.adapter_id for name, row in store.deployments().items()}
    assert len(before) == 2
    cycle(store, part(SAMPLE, lambda n: n >= 400), student(), JOINED)
    assert len(clusters(store)) == 1
    assert {name: row.adapter_id for name, row in store.deployments().items()} == before
    (found,) = judged(store).values()
    (row,) = (row for row in found if row.cases)
    assert set(cast("dict[str, Json]", row.guards["served_by"])) == set(before.values())
    cycle(store, PARCELS, student(), TWO)
    assert set(clusters(store)) == set(before)  # and when they part again each is what it was


# the budget


def test_a_budget_that_was_lowered_is_kept_from_the_next_cycle_on(store: Store) -> None:
    cycle(store, FIRST, student())
    assert len([row for row in store.deployments().values() if row.adapter_id]) == 2
    lowered = build({**SETTINGS, "train": {"budget": 0.003}})
    cycle(store, ([], []), student(), lowered)
    gone = [row for row in store.deployments().values() if row.action == "retire"]
    live = store.load(Adapter, [row.adapter_id for row in store.deployments().values() if row.adapter_id])
    assert sum(row.parameters for row in live) <= 3000
    assert len(gone) == 1
    assert "the budget is 0.300%" in gone[0].reason
