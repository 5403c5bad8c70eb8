"""Live tests, led over a real store: ramp, promotion, watch, rollback, waits, and what is done by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gateway_kit import adapter_for, deployed
from live_kit import BEGUN, CLUSTER, DAY, HOUR, LATE, begin, changed, passed, settings, steps, visit

from logtune import estimates, experiments
from logtune.config import Config
from logtune.edges.experiments import Control, Experiments
from logtune.edges.store import Store
from logtune.errors import InputError
from logtune.records import Experiment, LogRecord, Step, Verdict
from logtune.stages.deploy import retired
from logtune.stages.trials import standing, step_of


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    yield opened
    opened.close()


def look(store: Store, config: Config, now: float) -> list[str]:
    return [step.action for _, step in experiments.look(store, config, now)]


def ramped(store: Store, config: Config, test: Experiment, likes, start: int = 0) -> float:
    """Users come until half of them get the candidate; the time then."""
    now = BEGUN + 60
    for number in range(40):
        if steps(store)[-1].share == 0.5:
            return now
        visit(store, test, range(start + 100 * number, start + 100 * number + 100), now, likes, seed=number)
        now += HOUR + 200
        look(store, config, now)
        now += 60
    raise AssertionError("the ramp did not end")


def test_a_better_candidate_climbs_is_promoted_watched_and_stays(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    test = begin(store, config)
    now = ramped(store, config, test, lambda ours: 0.5)  # as good: nothing is decided meanwhile
    visit(store, test, range(10_000, 10_400), now, lambda ours: 0.9 if ours else 0.5)
    assert look(store, config, now + 2 * HOUR) == ["promote"]
    assert [(step.action, step.share) for step in steps(store)] == [
        ("start", 0.05), ("ramp", 0.2), ("ramp", 0.5), ("promote", 0.95)
    ]  # fmt: skip
    live = store.deployments()["late"]
    assert (live.action, live.adapter_id, live.verdict_id) == ("deploy", test.adapter_id, steps(store)[-1].verdict_id)
    assert [step.code for step in steps(store)] == ["gate_passed", "ramp", "ramp", "better"]
    extended, again, verdict = (store.load(Verdict, [str(step.verdict_id)])[0] for step in steps(store)[1:])
    for item in (extended, again):
        assert (item.decision, item.code, item.experiment_id) == ("extend", "ramp", test.id)
        assert item.receipt["config_hash"] == config.config_hash
    assert (verdict.decision, verdict.code, verdict.experiment_id) == ("promote", "better", test.id)
    assert verdict.lower is not None
    assert verdict.lower > 0
    assert verdict.receipt["config_hash"] == config.config_hash
    assert verdict.receipt["mixed"] == 0
    assert {test.id, test.evaluation_id, test.cluster_id} <= set(store.parents(verdict.id))
    assert look(store, config, now + 3 * HOUR) == []  # watched, and nothing is due
    assert look(store, config, now + 2 * HOUR + 7.1 * DAY) == ["end"]
    assert Experiments(store).running() == {}
    assert store.deployments()["late"] == live


def test_a_worse_candidate_is_rolled_back_and_the_next_one_waits_ever_longer(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    test, now = begin(store, config), BEGUN + 60
    for number in range(40):  # it need not be tried on half of the users first
        visit(store, test, range(100 * number, 100 * number + 100), now, lambda ours: 0.3 if ours else 0.8, seed=number)
        now += 2 * HOUR
        if look(store, config, now) == ["rollback"]:
            break
    assert store.list(Verdict)[0].decision == "rollback"
    assert "late" not in store.deployments()
    evaluation = passed(store, tmp_path)
    assert "may begin in 7.0 days" in experiments.begin(store, evaluation, "late", config, now)[1]
    again, _ = experiments.begin(store, evaluation, "late", config, now + 7.1 * DAY)
    assert again is not None
    assert again.attempt == 2
    assert again.id != test.id
    now += 8 * DAY
    experiments.by_hand(store, "late", "stop", "not now", config, now)
    assert "may begin in 14.0 days" in experiments.begin(store, evaluation, "late", config, now)[1]


def test_a_promoted_candidate_that_turns_bad_is_rolled_back_to_what_served_before(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, hold_back=0.2)
    before = deployed(store, CLUSTER, None, 5.0)
    test = begin(store, config)
    assert test.baseline_id == before.id
    experiments.by_hand(store, test.id, "promote", "the fair is tomorrow", config, BEGUN + 60)
    assert store.deployments()["late"].adapter_id == test.adapter_id
    visit(store, test, range(600), BEGUN + 100, lambda ours: 0.3 if ours else 0.9)
    assert look(store, config, BEGUN + 3 * HOUR) == ["rollback"]
    back = store.deployments()["late"]
    assert (back.action, back.adapter_id, back.candidate) == ("rollback", None, "base")


@pytest.mark.parametrize("late", [False, True], ids=["before", "meanwhile"])
@pytest.mark.parametrize("who", ["guard", "ann"])
def test_a_rollback_in_the_watch_leaves_what_has_replaced_the_candidate(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, late: bool
) -> None:
    config = settings(tmp_path)
    deployed(store, CLUSTER, adapter_for(CLUSTER, rank=4), 5.0)
    test = begin(store, config)
    experiments.by_hand(store, test.id, "promote", "the fair is tomorrow", config, BEGUN + 60)

    original = Experiments.take

    def retire() -> None:
        store.deploy(retired(store.deployments()["late"], "the cluster is gone", BEGUN + 70), "c")

    def overtaken(tests: Experiments, *rest: Any) -> bool:
        monkeypatch.setattr(Experiments, "take", original)
        retire()
        return tests.take(*rest)

    def roll_back() -> Step | None:
        if who == "guard":
            return experiments.break_guard(store, test.id, "errors", {"capital": 1e9}, BEGUN + 80)
        return experiments.by_hand(store, test.id, "rollback", "complaints", config, BEGUN + 80)

    if not late:
        retire()
        step = roll_back()
    else:
        monkeypatch.setattr(Experiments, "take", overtaken)
        if who == "ann":
            with pytest.raises(InputError, match="another process"):
                roll_back()
        step = roll_back()
    assert step is not None
    assert step.action == "rollback"
    assert step.reason.endswith("nothing is put back: late is served by the base model now")
    assert store.list(Verdict)[0].reason == step.reason
    assert (store.deployments()["late"].action, store.deployments()["late"].candidate) == ("retire", "base")
    assert Experiments(store).running() == {}


def test_a_guard_ends_a_test_long_before_its_outcomes_are_known(store: Store, tmp_path: Path) -> None:
    config, now = settings(tmp_path, window_hours=48.0, ramp=[0.5], ramp_users=[]), BEGUN + HOUR
    test = begin(store, config)
    for log in visit(store, test, range(10_000, 10_200), now, lambda ours: 0.6):
        changed(store, log, at=log.at + 0.5, error="no answer" if log.arm == "candidate" else None)
    assert look(store, config, now + 300) == ["rollback"]
    verdict = store.list(Verdict)[0]
    assert verdict.code == "guard"
    assert "'errors' was broken" in verdict.reason
    assert verdict.receipt["units"] == {"base": 0, "candidate": 0}


def test_users_who_get_lost_on_the_way_stop_a_test(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, ramp=[0.5], ramp_users=[])
    test = begin(store, config)
    everybody = range(1500)  # enough that it is found however the lots fall
    likes = lambda ours: 0.6  # noqa: E731
    kept = [user for user in everybody if user % 3 or not drawn_candidate(store, test, user)]
    visit(store, test, kept, BEGUN + 60, likes)
    assert look(store, config, BEGUN + 2 * HOUR) == ["stop"]
    assert store.list(Verdict)[0].code == "mismatch"


def drawn_candidate(store: Store, test: Experiment, user: int) -> bool:
    from logtune.stages.lots import lot

    return lot(test.id, f"user:u{user}") < 0.5


def test_equal_arms_end_undecided_when_their_time_is_over(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, max_days=2.0)
    test = begin(store, config)
    visit(store, test, range(400), BEGUN + 60, lambda ours: 0.6)
    assert look(store, config, BEGUN + 1 * HOUR) == []  # no outcome is known yet
    assert look(store, config, BEGUN + 2 * HOUR) == ["ramp"]
    assert look(store, config, BEGUN + 2.1 * DAY) == ["stop"]
    assert "nothing is sure" in steps(store)[-1].reason


def test_users_whom_the_ramp_moves_are_left_out_by_their_lot(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, ramp_users=[3, 80])  # 5% of 200 users, as their lots fall
    test = begin(store, config)
    visit(store, test, range(200), BEGUN + 60, lambda ours: 0.6)
    look(store, config, BEGUN + 2 * HOUR)
    visit(store, test, range(200), BEGUN + 2 * HOUR + 100, lambda ours: 0.6)  # the same ones, some of them moved now
    logs = list(store.logs())
    arms = {user: {log.arm for log in logs if log.user == user} for user in {log.user for log in logs}}
    moved = {user for user, seen in arms.items() if len(seen) == 2}
    assert moved
    at = standing(*Experiments(store).running()["late"], logs, list(store.feedback()), BEGUN + DAY)
    assert at.state.mixed == 0
    counted = {unit.lot for unit in at.units if unit.lot < unit.share or unit.lot >= 0.5}
    assert not counted & {log.draw.lot for log in logs if log.user in moved and log.draw}
    assert at.state.moved == sum(0.05 <= unit.lot < 0.5 for unit in at.units)


def test_a_test_begins_with_the_share_that_its_clusters_traffic_allows(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, max_waiting=10, window_hours=24.0)
    asked = LogRecord(
        id="", request={"messages": [{"role": "user", "content": LATE}]}, response={}, at=0.0, cluster="late"
    )  # fmt: skip
    busy = [replace(asked, id=f"log-{n}", at=BEGUN - HOUR * n / 100, user=f"u{n}") for n in range(1000)]
    store.add_logs([*busy, *(replace(log, id=f"{log.id}-again", at=log.at + 1) for log in busy[:100])])
    begin(store, config)
    (first,) = steps(store)
    assert 0.008 <= first.share <= 0.01  # of a thousand users a day, so ten at most have it before one is known
    quiet = settings(tmp_path, max_waiting=60, window_hours=24.0)
    assert estimates.busiest(store, "late", quiet.experiment, BEGUN) == 1000
    assert estimates.busiest(store, "another", quiet.experiment, BEGUN) == 1000  # no more than all of them
    assert estimates.busiest(store, "late", quiet.experiment, BEGUN + 30 * DAY) == 0


def test_the_share_grows_with_known_outcomes_as_far_as_the_traffic_allows(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, max_waiting=20, ramp_users=[5, 10], metric="satisfied")
    test = begin(store, config)
    visit(store, test, range(300), BEGUN + 60, lambda ours: 0.6)
    assert look(store, config, BEGUN + 400) == []
    assert look(store, config, BEGUN + 1.5 * HOUR) == ["ramp"]
    assert 0.05 < steps(store)[-1].share <= 20 / 300


def test_feedback_after_a_users_window_changes_nothing(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, ramp=[0.5], ramp_users=[])
    test = begin(store, config)
    made = visit(store, test, range(50), BEGUN + 60, lambda ours: 0.6)

    def told() -> dict[str, float | None]:
        led = Experiments(store).running()["late"]
        return dict(standing(*led, list(store.logs()), list(store.feedback()), BEGUN + DAY).state.means)

    before = told()
    late = [log for log in made if log.arm == "base"]
    from logtune.records import Feedback

    store.put_feedback([
        Feedback(id=f"late-{log.id}", target=log.id, at=log.at + 2 * HOUR, value=-1.0, user=log.user) for log in late
    ])  # fmt: skip
    assert told() == before


def test_what_is_paused_changes_nothing_but_guards(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    test = begin(store, config)
    tests = Experiments(store)
    tests.pause(Control(name="", at=BEGUN, by="ann", reason="holidays"))
    visit(store, test, range(300), BEGUN + 60, lambda ours: 0.6)
    assert look(store, config, BEGUN + 2 * HOUR) == []
    assert tests.resume("")
    assert not tests.resume("")
    assert look(store, config, BEGUN + 2 * HOUR) == ["ramp"]


def test_a_paused_cluster_begins_no_test(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    Experiments(store).pause(Control(name="late", at=BEGUN, by="ann", reason="new texts"))
    found, reason = experiments.begin(store, passed(store, tmp_path), "late", config, BEGUN)
    assert (found, reason) == (None, "paused by ann: new texts")


def test_of_two_that_lead_a_test_the_second_one_finds_the_step_taken(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    test = begin(store, config)
    at = standing(test, steps(store), (), (), BEGUN)
    first, second = (
        experiments.end(store, at, "stop", "by_hand", reason, by="ann", now=BEGUN) for reason in ("one", "two")
    )
    assert first is not None
    assert second is None
    assert steps(store)[-1].reason == "one"


def test_a_broken_guard_ends_a_test_that_another_process_has_led_on_just_then(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = begin(store, settings(tmp_path))
    at, original = standing(test, steps(store), (), (), BEGUN), Experiments.take

    def overtaken(tests: Experiments, step: Step, *rest: Any) -> bool:
        monkeypatch.setattr(Experiments, "take", original)
        assert tests.take(step_of(at, "ramp", 0.2, BEGUN, by="loop", reason="", now=BEGUN))
        return tests.take(step, *rest)

    monkeypatch.setattr(Experiments, "take", overtaken)
    step = experiments.break_guard(store, test.id, "errors", {"capital": 1e9}, BEGUN + 1)
    assert [taken.action for taken in steps(store)] == ["start", "ramp", "rollback"]
    assert step == steps(store)[-1]
    assert Experiments(store).running() == {}
    assert experiments.break_guard(store, test.id, "errors", {}, BEGUN + 2) is None


def test_the_receipt_of_a_guard_that_a_gateway_saw_broken_counts_the_test_too(store: Store, tmp_path: Path) -> None:
    test = begin(store, settings(tmp_path, ramp=[0.5], ramp_users=[]))
    visit(store, test, range(80), BEGUN + 60, lambda ours: 0.6)
    step = experiments.break_guard(store, test.id, "errors", {"capital": 2e8, "users of the base": 40}, BEGUN + DAY)
    assert step is not None
    (verdict,) = store.list(Verdict)
    assert (step.code, step.verdict_id) == ("guard", verdict.id)
    receipt, units = verdict.receipt, verdict.receipt["units"]
    assert receipt["gateway"] == {"guard": "errors", "capital": 2e8, "users of the base": 40}
    assert (receipt["seen"], receipt["counted"]) == (80, True)
    assert isinstance(units, dict)
    assert sum(units.values()) == 80  # type: ignore[arg-type]
    assert verdict.arms["base"]["units"] == units["base"] > 0  # type: ignore[index, call-overload, operator]


def test_a_large_test_is_rolled_back_before_it_is_counted_and_its_receipt_says_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "MOST_COUNTED", 79)
    test = begin(store, settings(tmp_path, ramp=[0.5], ramp_users=[]))
    visit(store, test, range(80), BEGUN + 60, lambda ours: 0.6)
    assert experiments.break_guard(store, test.id, "errors", {"capital": 2e8}, BEGUN + DAY)
    (verdict,) = store.list(Verdict)
    assert (verdict.effect, verdict.lower, verdict.upper) == (None, None, None)
    assert verdict.arms["base"] == {"serves": "base"}
    assert verdict.receipt["gateway"] == {"guard": "errors", "capital": 2e8}
    assert verdict.receipt["counted"] is False
    assert not {"seen", "units", "guards"} & set(verdict.receipt)


def test_a_test_that_ends_since_its_cluster_is_rolled_back_is_counted(store: Store, tmp_path: Path) -> None:
    test = begin(store, settings(tmp_path, ramp=[0.5], ramp_users=[]))
    visit(store, test, range(80), BEGUN + 60, lambda ours: 0.6)
    assert experiments.stop_test(store, "late", BEGUN + DAY)
    assert store.list(Verdict)[0].receipt["seen"] == 80


def test_a_cluster_has_one_test_at_a_time(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    begin(store, config)
    found, reason = experiments.begin(store, passed(store, tmp_path), "late", config, BEGUN + 1)
    assert (found, reason) == (None, "a live test of this cluster is running already")


def test_a_change_of_what_serves_ends_a_test(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    begin(store, config)
    deployed(store, CLUSTER, None, BEGUN + 5)
    assert look(store, config, BEGUN + 10) == ["stop"]
    assert store.list(Verdict)[0].code == "moved"


def test_a_stop_by_hand_in_the_watch_puts_back_what_served_before(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    before = deployed(store, CLUSTER, adapter_for(CLUSTER, rank=4), 5.0)
    begin(store, config)
    experiments.by_hand(store, "late", "promote", "the fair is tomorrow", config, BEGUN + 60)
    assert store.deployments()["late"].adapter_id != before.adapter_id
    step = experiments.by_hand(store, "late", "stop", "the fair is over", config, BEGUN + 70)
    assert (step.action, step.share, step.reason) == ("rollback", 0.0, "the fair is over")
    assert store.deployments()["late"].adapter_id == before.adapter_id
    assert Experiments(store).running() == {}


def test_a_promotion_by_hand_in_the_watch_ends_it_and_the_candidate_stays(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    test = begin(store, config)
    for at in (BEGUN + 60, BEGUN + 70):
        step = experiments.by_hand(store, "late", "promote", "the fair is tomorrow", config, at)
    assert (step.action, step.share) == ("end", 1.0)
    assert store.deployments()["late"].adapter_id == test.adapter_id
    assert Experiments(store).running() == {}


def test_a_decision_by_hand_is_recorded_with_who_when_and_why(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    test = begin(store, config)
    step = experiments.by_hand(store, "late", "rollback", "complaints on the phone", config, BEGUN + 7)
    assert (step.reason, step.at, step.share) == ("complaints on the phone", BEGUN + 7, 0.0)
    assert step.by == experiments.whoami()
    with pytest.raises(InputError, match="is over: rollback"):
        experiments.by_hand(store, test.id[:12], "promote", "after all", config, BEGUN + 8)
    with pytest.raises(InputError, match="no experiment 'nowhere'"):
        experiments.find(store, "nowhere")
