"""A cycle whose rules, answers and verdicts are a teacher's: what it asks, what it remembers, and when it stops."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from logtune import pipeline
from logtune.app.scheduler import Ended, Scheduler
from logtune.config import build
from logtune.edges.replies import Meter, MeteredChat, RememberedChat, ReplyMemory
from logtune.edges.store import Store
from logtune.errors import BudgetSpent, ModelError
from logtune.ports import ChatCall, ChatReply, Tools
from logtune.records import Evaluation, Failure, Feedback, Gap, Interaction, PreferencePair, Rule
from logtune.testing import (
    FakeExecutor,
    FixedClock,
    FixedLikelihood,
    MemoryAdapterServer,
    ScriptedChat,
    WordCoverage,
    WordEmbedder,
    sample_log,
)  # fmt: skip

CONFIG = build({"filter": {"off_topic": "off"}, "train": {"budget": 0.004}, "pairs": {"candidates": ["revised"]}})
GOOD = "The refund comes in 5 days."


def teach(call: ChatCall) -> str:
    """Distils one rule, rewrites to GOOD, and prefers what has a number in it."""
    last = call.messages[-1].content
    if call.purpose in ("distill", "predict"):
        return json.dumps({"rules": ["Say in how many days it comes."]})  # which it knew: the lesson is an expert's
    if call.purpose == "judge":
        first, second = last.split("\n\nA: ")[1].split("\n</")[0].split("\n\nB: ")
        better = int(bool(re.search(r"\d", first))) - int(bool(re.search(r"\d", second)))
        return json.dumps({"better": {1: "A", -1: "B", 0: "tie"}[better]})
    return GOOD


def disagree(call: ChatCall) -> str:
    """As `teach`, but of two answers it always prefers the shorter one."""
    if call.purpose != "judge" or "Rules:" in call.messages[-1].content:
        return teach(call)
    first, second = call.messages[-1].content.split("\n\nA: ")[1].split("\n</")[0].split("\n\nB: ")
    return json.dumps({"better": "A" if len(first) < len(second) else "B"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Complaints that say how, of 120 users."""
    opened = Store(f"sqlite:///{tmp_path / 'store.db'}")
    opened.add_logs(
        [sample_log(f"l{i}", f"where is my refund number {i}", "Soon.", f"user-{i}", 1e9 + i) for i in range(120)]
    )
    told = "too vague, please say in how many days"
    opened.put_feedback(
        [Feedback(id=f"f{i}", target=f"l{i}", at=2e9, kind="comment", comment=told, value=-1.0) for i in range(120)]
    )
    return opened


def tools(store: Store, teacher: ScriptedChat, meter: Meter | None = None) -> Tools:
    student = ScriptedChat(lambda call: GOOD if call.model else "Soon.")
    counted = meter or Meter()
    return Tools(
        embedder=WordEmbedder(), coverage=WordCoverage(), student=student, likelihood=FixedLikelihood(),
        teacher=RememberedChat(MeteredChat(teacher, counted), "m", ReplyMemory(store), counted),
        adapters=MemoryAdapterServer(), executor=FakeExecutor(), clock=FixedClock(step=0.1), base_parameters=1_000_000,
        base_fingerprint="tiny@0", adapters_dir="adapters", lora_sizes={"all-linear": 1000},
        spent=lambda: counted.spent,
    )  # fmt: skip


def test_rules_and_answers_of_a_teacher_are_trained_on_and_judged_by_it(store: Store) -> None:
    receipt = pipeline.run_cycle(store, tools(store, ScriptedChat(teach)), CONFIG)
    assert {rule.text for rule in store.list(Rule) if rule.merged_from} == {"Say in how many days it comes."}
    pairs = store.list(PreferencePair, limit=1000)
    assert {(pair.chosen, pair.origin) for pair in pairs} == {(GOOD, "revised")}
    (evaluation,) = (found for found in store.list(Evaluation) if found.candidate == "expert")
    assert evaluation.outcome == "passed", evaluation.reason
    assert evaluation.wins == evaluation.cases >= 8
    assert receipt.deployed
    assert receipt.origins == {"revised": len(pairs)}
    assert f"{len(pairs)} pairs ({len(pairs)} revised)" in receipt.summary
    assert receipt.spent["distill"]["calls"] == 120
    assert receipt.spent["judge"]["calls"] >= 240


def test_a_second_cycle_asks_nothing(store: Store) -> None:
    teacher = ScriptedChat(teach)
    pipeline.run_cycle(store, tools(store, teacher), CONFIG)
    asked = len(teacher.calls)
    again = pipeline.run_cycle(store, tools(store, teacher), CONFIG)
    assert len(teacher.calls) == asked
    assert sum(spent["calls"] for spent in again.spent.values()) == 0


def test_settings_that_make_everything_anew_still_ask_nothing_twice(store: Store) -> None:
    teacher = ScriptedChat(teach)
    pipeline.run_cycle(store, tools(store, teacher), CONFIG)
    asked = [call.purpose for call in teacher.calls].count("distill")
    other = CONFIG.model_copy(update={"distill": CONFIG.distill.model_copy(update={"max_words": 39})})
    pipeline.run_cycle(store, tools(store, teacher), other)
    assert [call.purpose for call in teacher.calls].count("distill") == asked


def test_a_cycle_stops_at_its_budget_and_goes_on_from_there(store: Store) -> None:
    teacher = ScriptedChat(teach)
    with pytest.raises(BudgetSpent):
        pipeline.run_cycle(store, tools(store, teacher, Meter(max_calls=150)), CONFIG)
    assert len(teacher.calls) == 150
    receipt = pipeline.run_cycle(store, tools(store, teacher), CONFIG)
    assert receipt.deployed
    whole = ScriptedChat(teach)
    fresh = Store("sqlite://")
    fresh.add_logs(list(store.logs()))
    fresh.put_feedback(list(store.feedback()))
    pipeline.run_cycle(fresh, tools(fresh, whole), CONFIG)
    assert len(teacher.calls) == len(whole.calls)


PRICES = {"prompt_price": 1e6, "completion_price": 1e6}  # a token costs one


def cost_30d(store: Store) -> float:
    """What the schedule's budget gate sees, a day after."""
    at = FixedClock().now() + 86_400
    return Scheduler(store, CONFIG, never, print, lambda: at).facts().cost_30d


def never(_: threading.Event) -> Ended:
    raise AssertionError("a look starts nothing")


def test_what_a_cycle_spent_before_it_was_stopped_is_on_its_bill(store: Store) -> None:
    teacher, meters = (
        ScriptedChat(teach),
        [Meter(max_calls=150, **PRICES), Meter(max_calls=60, **PRICES), Meter(**PRICES)],
    )
    for meter in meters[:2]:
        with pytest.raises(BudgetSpent):
            pipeline.run_cycle(store, tools(store, teacher, meter), CONFIG)
        assert cost_30d(store) == sum(item.total.cost for item in meters) > 0
    receipt = pipeline.run_cycle(store, tools(store, teacher, meters[2]), CONFIG)
    assert sum(spent["calls"] for spent in receipt.spent.values()) == len(teacher.calls) > 210
    assert cost_30d(store) == sum(item.total.cost for item in meters)


def test_what_a_cycle_spent_stays_on_its_bill_when_settings_have_changed(store: Store) -> None:
    meters = [Meter(max_calls=150, **PRICES), Meter(**PRICES)]
    with pytest.raises(BudgetSpent):
        pipeline.run_cycle(store, tools(store, ScriptedChat(teach), meters[0]), CONFIG)
    other = CONFIG.model_copy(update={"distill": CONFIG.distill.model_copy(update={"max_words": 39})})
    pipeline.run_cycle(store, tools(store, ScriptedChat(teach), meters[1]), other)
    assert cost_30d(store) == sum(item.total.cost for item in meters)


def test_what_a_killed_cycle_spent_is_on_its_bill_up_to_what_it_committed(store: Store) -> None:
    """A kill runs no `finally`: what is told to the store before that is all that stays."""
    meter, seen = Meter(**PRICES), list[float]()

    def killed(call: ChatCall) -> str:
        if call.purpose == "judge" and not seen:
            seen.append(cost_30d(store))
        return teach(call)

    pipeline.run_cycle(store, tools(store, ScriptedChat(killed), meter), CONFIG)
    spent = meter.spent
    assert seen[0] >= spent["distill"].cost > 0


def test_a_cycle_with_the_meter_of_the_one_before_is_billed_for_its_own_calls(store: Store) -> None:
    made = tools(store, ScriptedChat(teach))
    pipeline.run_cycle(store, made, CONFIG)
    again = pipeline.run_cycle(store, made, CONFIG)
    assert sum(spent["calls"] for spent in again.spent.values()) == 0


def test_a_judge_that_contradicts_the_users_judges_nothing(store: Store) -> None:
    store.add_logs(
        [sample_log(f"e{i}", f"my parcel {i} is late", "Sorry.", f"editor-{i}", 1.5e9 + i) for i in range(12)]
    )
    edit = "The parcel comes on the date in your tracking link."
    store.put_feedback([Feedback(id=f"e{i}", target=f"e{i}", at=2e9, kind="edit", correction=edit) for i in range(12)])
    pipeline.run_cycle(store, tools(store, ScriptedChat(disagree)), CONFIG)
    told = [evaluation.reason for evaluation in store.list(Evaluation)]
    assert any("chance alone" in reason or "0% of 12" in reason for reason in told), told
    assert not [e for e in store.list(Evaluation) if e.outcome == "passed" and e.guards.get("judge")]


def test_an_item_whose_call_fails_is_kept_with_its_reason(store: Store) -> None:
    def sometimes(call: ChatCall) -> str:
        broken = call.purpose == "distill" and "refund number 7\n" in call.messages[0].content
        return "I would rather not." if broken else teach(call)

    pipeline.run_cycle(store, tools(store, ScriptedChat(sometimes)), CONFIG)
    (failure,) = store.list(Failure)
    assert failure.stage == "distill"
    assert "no valid rules JSON" in failure.reason
    assert failure.record_id.startswith("int-")


def corrected(store: Store, count: int = 12) -> None:
    """Corrections of so many users, which a judge is tried on."""
    store.add_logs(
        [sample_log(f"e{i}", f"my parcel {i} is late", "Sorry.", f"editor-{i}", 1.5e9 + i) for i in range(count)]
    )
    edit = "The parcel comes on the 5th, as your tracking link says."
    store.put_feedback(
        [Feedback(id=f"e{i}", target=f"e{i}", at=2e9, kind="edit", correction=edit) for i in range(count)]
    )


def test_a_prediction_that_fails_costs_one_log_and_not_its_cluster(store: Store) -> None:
    def sometimes(call: ChatCall) -> str | ModelError:
        broken = call.purpose == "predict" and "refund number 7\n" in call.messages[0].content
        return ModelError("the server gave no answer in 4 tries") if broken else teach(call)

    receipt = pipeline.run_cycle(store, tools(store, ScriptedChat(sometimes)), CONFIG)
    (failure,) = store.list(Failure)
    item = next(item for item in store.list(Interaction, limit=1000) if item.query == "where is my refund number 7")
    assert (failure.stage, failure.record_id, failure.error) == ("gap", item.id, "ModelError")
    assert failure.reason == "the server gave no answer in 4 tries"
    (measured,) = store.list(Gap)
    assert measured.novelty == 0.0  # not the 1.0 of a log of which nothing is known
    assert receipt.deployed
    again = pipeline.run_cycle(store, tools(store, ScriptedChat(sometimes)), CONFIG)
    assert again.stages["gap"]["done"] == 0


def test_a_gap_of_which_too_little_is_known_is_not_measured(store: Store) -> None:
    def never(call: ChatCall) -> str | ModelError:
        return ModelError("no answer") if call.purpose == "predict" else teach(call)

    receipt = pipeline.run_cycle(store, tools(store, ScriptedChat(never)), CONFIG)
    assert receipt.stages["gap"]["failed"] == 1
    assert store.list(Gap) == []
    assert pipeline.run_cycle(store, tools(store, ScriptedChat(teach)), CONFIG).deployed  # it was tried again


def test_a_verdict_that_fails_costs_one_case_and_not_the_evaluation(store: Store) -> None:
    failed: list[str] = []

    def sometimes(call: ChatCall) -> str | ModelError:
        asked = call.messages[-1].content
        at_the_gate = call.purpose == "judge" and "\n\nB: Soon." in asked and bool(trained.jobs)
        if at_the_gate and (not failed or failed[0] == asked):
            failed.append(asked)
            return ModelError("the server gave no answer in 4 tries")
        return teach(call)

    chat = ScriptedChat(sometimes)
    made = tools(store, chat)
    assert isinstance(made.executor, FakeExecutor)
    trained = made.executor
    receipt = pipeline.run_cycle(store, made, CONFIG)
    assert receipt.deployed
    (failure,) = store.list(Failure)
    assert (failure.stage, failure.reason) == ("evaluate", "the server gave no answer in 4 tries")
    told = [e for e in store.list(Evaluation) if "no verdict on 1 of" in e.reason]
    assert told
    for evaluation in told:
        assert failure.record_id in evaluation.interaction_ids
        assert evaluation.reason.endswith("cases (first: the server gave no answer in 4 tries)")
        assert evaluation.cases == len(evaluation.interaction_ids) - 1


def test_a_trial_of_the_judge_that_fails_is_skipped(store: Store) -> None:
    corrected(store)

    def sometimes(call: ChatCall) -> str | ModelError:
        broken = call.purpose == "judge" and "my parcel 3 is late" in call.messages[-1].content
        return ModelError("refused") if broken and "Rules:" not in call.messages[-1].content else teach(call)

    pipeline.run_cycle(store, tools(store, ScriptedChat(sometimes)), CONFIG)
    judged = [e for e in store.list(Evaluation) if e.guards.get("judge")]
    assert judged
    assert all("agrees with people on 11 of 11 pairs" in str(e.guards["judge"]) for e in judged)
    assert {(f.stage, f.reason) for f in store.list(Failure)} == {("evaluate", "refused")}


def agreed(store: Store) -> list[str]:
    """What is known of the judge, by evaluation that had one."""
    return [str(e.guards["judge"]) for e in store.list(Evaluation) if e.guards.get("judge")]


def test_one_loud_user_does_not_decide_whether_the_judge_may_judge(store: Store) -> None:
    store.add_logs([sample_log(f"x{i}", f"my letter {i} is gone", "Sorry.", "loud", 1.1e9 + i) for i in range(40)])
    store.put_feedback(
        [Feedback(id=f"x{i}", target=f"x{i}", at=2e9, kind="edit", correction=f"Ha ha, {'ha ' * i}") for i in range(40)]
    )
    corrected(store)

    def no_nonsense(call: ChatCall) -> str:
        nonsense = call.purpose == "judge" and "Ha ha" in call.messages[-1].content
        first = "\n\nA: Ha ha" in call.messages[-1].content
        return json.dumps({"better": "B" if first else "A"}) if nonsense else teach(call)

    pipeline.run_cycle(store, tools(store, ScriptedChat(no_nonsense)), CONFIG)
    judged = agreed(store)
    assert judged
    assert all("agrees with people on 12 of " in told for told in judged), judged
    assert all(int(re.search(r"of (\d+) pairs", told)[1]) <= 24 for told in judged), judged  # type: ignore[index]


def test_how_sure_a_judge_was_is_kept_with_the_evaluation(store: Store) -> None:
    pipeline.run_cycle(store, tools(store, ScriptedChat(teach)), CONFIG)
    sure = [e.guards["verdicts"] for e in store.list(Evaluation) if "verdicts" in e.guards]
    assert sure
    for told in sure:
        assert isinstance(told, dict)
        assert told["asked"] == told["given"] > 0
        assert (told["disagreement"], told["flips"]) == (0.0, 0.0)


def test_a_spent_budget_is_no_failure_of_an_item(store: Store) -> None:
    def broke(call: ChatCall) -> ChatReply | str | Exception:
        return BudgetSpent("spent") if call.purpose == "predict" else teach(call)

    with pytest.raises(BudgetSpent):
        pipeline.run_cycle(store, tools(store, ScriptedChat(broke)), CONFIG)
    assert store.list(Failure) == []


def test_another_judge_judges_anew_and_one_that_may_take_longer_does_not(store: Store) -> None:
    made = replace(tools(store, ScriptedChat(teach)), student=ScriptedChat("Soon."))  # it learns nothing
    first = pipeline.run_cycle(store, made, CONFIG)
    assert first.stages["evaluate"]["done"] > 0
    for changed, anew in (({"timeout_s": 61.0}, False), ({"model": "another"}, True)):
        teacher = CONFIG.teacher.model_copy(update=changed)
        receipt = pipeline.run_cycle(store, made, CONFIG.model_copy(update={"teacher": teacher}))
        assert bool(receipt.stages["evaluate"]["done"]) == anew, changed


def test_a_case_may_be_judged_several_times_as_in_the_paper(store: Store) -> None:
    asked: dict[int, int] = {}
    for samples in (1, 3):
        teacher = ScriptedChat(teach)
        evaluate = CONFIG.evaluate.model_copy(update={"judge_samples": samples})
        fresh = Store("sqlite://")
        fresh.add_logs(list(store.logs()))
        fresh.put_feedback(list(store.feedback()))
        pipeline.run_cycle(fresh, tools(fresh, teacher), CONFIG.model_copy(update={"evaluate": evaluate}))
        asked[samples] = sum(call.purpose == "judge" and call.seed > 0 for call in teacher.calls)
        fresh.close()
    assert asked[1] == 0
    assert asked[3] > 0
    assert build({"preset": "uno"}).evaluate.judge_samples == 3
