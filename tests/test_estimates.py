"""What a live test would show before it begins, and that none begins which can show nothing."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_kit import BEGUN, CLUSTER, DAY, HOUR, LATE, begin, passed, settings, visit

from logtune import estimates, experiments
from logtune.app import cli
from logtune.app.live_tests import passed as newest_passed
from logtune.config_experiment import ExperimentSettings
from logtune.edges.experiments import Experiments
from logtune.edges.store import Store, UnitResult
from logtune.errors import InputError
from logtune.ids import identified
from logtune.records import Evaluation, Feedback, Json, LogRecord
from logtune.stages import offpolicy
from logtune.stages.experiment import CANDIDATE
from logtune.stages.outcomes import Asked, Unit
from logtune.stages.trials import standing

NOW = BEGUN + 10 * DAY


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    yield made
    made.close()


def told(gain: float, users: int | None = 400, days: float | None = 9.0) -> Json:
    """The outlook as a gate keeps it."""
    return {
        "gain": gain, "low": gain / 2, "high": 2 * gain, "users": users, "days": days, "least_gain": 0.05,
        "possible": days is not None and days < 56, "reason": "as the gate has it",
    }  # fmt: skip


def proven(store: Store, home: Path, outlook: Json) -> Evaluation:
    made = identified(replace(passed(store, home), guards={} if outlook is None else {"outlook": outlook}))
    unit = UnitResult(stage="t", key=made.id, outputs=(made,), cycle_id="c", config_hash="h", at=2.0)
    store.commit_units([unit])
    return made


def routed(store: Store, users_per_day: int, days: int, happy: float) -> None:
    """Traffic that the gateway sent to the cluster, each user once with a thumb."""
    logs = [
        LogRecord(
            id=f"log-{number}", request={"messages": [{"role": "user", "content": LATE}]}, cluster="late",
            response={"choices": [{"index": 0, "message": {"role": "assistant", "content": "Soon."}}]},
            at=NOW - days * DAY + DAY * number / users_per_day, user=f"u{number}",
        )
        for number in range(users_per_day * days)
    ]  # fmt: skip
    store.add_logs(logs)
    store.put_feedback([
        Feedback(id=f"f-{log.id}", target=log.id, at=log.at + 1, value=1.0 if n % 100 < 100 * happy else -1.0)
        for n, log in enumerate(logs)
    ])  # fmt: skip


def test_before_anything_was_routed_the_gates_outlook_holds(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    found = estimates.of(store, proven(store, tmp_path, told(0.1)), "late", config.experiment, NOW)
    assert found.outlook is not None
    assert (found.source, found.outlook.users, found.outlook.days, found.outlook.possible) == ("gate", 400, 9.0, True)
    assert found.users_per_day is None
    assert estimates.unprovable(found) == ""


def test_the_traffic_is_measured_where_there_is_some(store: Store, tmp_path: Path) -> None:
    routed(store, users_per_day=50, days=10, happy=0.6)
    config = settings(tmp_path)
    evaluation = proven(store, tmp_path, told(0.2))
    found = estimates.of(store, evaluation, "late", config.experiment, NOW)
    assert found.users_per_day == pytest.approx(50, rel=0.05)
    assert found.content == pytest.approx(0.6, abs=0.02)
    assert found.outlook is not None
    assert found.outlook.users is not None
    assert found.outlook.days == pytest.approx(found.outlook.users / 50, rel=0.05)
    assert found.outlook.possible
    smaller = estimates.of(store, proven(store, tmp_path, told(0.01)), "late", config.experiment, NOW)
    assert smaller.outlook is not None
    assert not smaller.outlook.possible
    assert "not enough traffic to ever prove this" in smaller.reason


def test_users_of_an_earlier_test_tell_the_gain(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path)
    test = begin(store, config)
    visit(store, test, range(1500), BEGUN + HOUR, lambda ours: 0.9 if ours else 0.5)
    evaluation = store.load(Evaluation, [test.evaluation_id])[0]
    found = estimates.of(store, evaluation, "late", config.experiment, BEGUN + 2 * DAY)
    assert [lift.method for lift in found.lifts] == ["ips", "snips", "dr"]
    assert found.source == "outcomes"
    at = standing(*Experiments(store).running()["late"], list(store.logs()), list(store.feedback()), BEGUN + 2 * DAY)
    assert found.units == sum(at.state.units.values())  # those whom the test compares
    robust = found.lifts[-1].estimate
    assert robust.low < 0.4 < robust.high
    assert found.outlook is not None
    assert found.outlook.gain == pytest.approx(robust.mean, abs=1e-6)  # kept with six digits


def test_units_that_compare_nothing_are_left_out(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, ramp=[0.5], ramp_users=[])
    test = begin(store, config)
    visit(store, test, range(30), BEGUN + HOUR, lambda ours: 0.5)
    rules, late = config.experiment, BEGUN + DAY
    found = estimates.units(list(store.logs()), list(store.feedback()), test.id, test.at, rules.metric, HOUR)
    unit = found[0]
    odd = [
        replace(unit, share=0.0),
        replace(unit, share=1.0),
        replace(unit, asked=()),
        replace(unit, arms=frozenset("ab")),
        replace(unit, lot=0.3, share=0.2),  # the ramp moves it, whether it comes back or not
        replace(unit, first_at=late - HOUR + 1),  # its window is open
    ]
    told = estimates.logged([*found, *odd], rules, late, 0.5)
    assert len(told) == 30
    assert sum(item.candidate for item in told) == sum(CANDIDATE in item.arms for item in found)


def ramped(seed: int, users: int = 600) -> list[Unit]:
    """Equal arms in a ramp; every second user comes back at its end, and these are happier."""
    drawn, found = np.random.default_rng(seed), []
    for number in range(users):
        lot, back = float(drawn.random()), bool(drawn.random() < 0.5)
        share = (0.05, 0.2, 0.5)[3 * number // users]
        seen = {lot < share, lot < 0.5} if back else {lot < share}
        asked = Asked(
            arm="", at=float(number), failed=False, latency_ms=None, length=1, refused=False, complained=False,
            good=float(drawn.random() < (0.9 if back else 0.4)),
        )  # fmt: skip
        arms = frozenset("candidate" if ours else "base" for ours in seen)
        found.append(Unit(
            lot=lot, share=share, first_at=float(number), last_at=float(number), arms=arms, asked=(asked,),
            early=(asked,),
        ))  # fmt: skip
    return found


def test_users_who_come_back_after_the_ramp_moved_them_bias_nothing() -> None:
    runs, covered, sums = 300, np.zeros(3), np.zeros(3)
    for seed in range(runs):
        lifts = offpolicy.lift(estimates.logged(ramped(seed), ExperimentSettings(), 1e9, 0.5))
        covered += [found.estimate.low <= 0 <= found.estimate.high for found in lifts]
        sums += [found.estimate.mean for found in lifts]
    assert (covered / runs >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)).all()
    assert np.abs(sums / runs).max() < 0.012


def test_what_comes_after_the_decision_is_not_of_the_test(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, ramp=[0.5], ramp_users=[])
    test = begin(store, config)
    visit(store, test, range(200), BEGUN + HOUR, lambda ours: 0.9 if ours else 0.5)
    evaluation = store.load(Evaluation, [test.evaluation_id])[0]
    experiments.by_hand(store, test.id, "promote", "the fair is tomorrow", config, BEGUN + 3 * HOUR)
    visit(store, test, range(300), BEGUN + 4 * HOUR, lambda ours: 0.1)
    found = estimates.of(store, evaluation, "late", config.experiment, BEGUN + 2 * DAY)
    assert found.units == 200
    assert found.lifts[-1].estimate.low < 0.4 < found.lifts[-1].estimate.high


def test_no_test_begins_that_can_never_show_anything(store: Store, tmp_path: Path) -> None:
    evaluation = proven(store, tmp_path, told(0.01, users=90_000, days=800.0))
    test, why = experiments.begin(store, evaluation, "late", settings(tmp_path), NOW)
    assert test is None
    assert why == 'as the gate has it; experiment.mode = "off" serves without one'
    test, why = experiments.begin(store, evaluation, "late", settings(tmp_path, begin_unprovable=True), NOW)
    assert test is not None, why


def test_what_nobody_can_tell_is_tested(store: Store, tmp_path: Path) -> None:
    evaluation = proven(store, tmp_path, None)
    found = estimates.of(store, evaluation, "late", settings(tmp_path).experiment, NOW)
    assert (found.outlook, found.source) == (None, "nothing")
    assert "nothing tells the gain" in found.reason
    test, why = experiments.begin(store, evaluation, "late", settings(tmp_path), NOW)
    assert test is not None, why


def test_a_time_limit_of_the_settings_holds(store: Store, tmp_path: Path) -> None:
    config = settings(tmp_path, max_days=5)
    found = estimates.of(store, proven(store, tmp_path, told(0.1)), "late", config.experiment, NOW)
    assert found.outlook is not None
    assert not found.outlook.possible
    assert found.outlook.reason == (
        "expected gain +10.0 points (+5.0 to +20.0): not enough to prove this within 5 days and 20,000 users "
        "(about 400 users, 9 days)"
    )
    assert estimates.unprovable(found).startswith(found.outlook.reason)


def test_more_time_than_the_gate_thought_of_makes_a_test_possible(store: Store, tmp_path: Path) -> None:
    slow = proven(store, tmp_path, told(0.1, users=400, days=80.0))
    found = estimates.of(store, slow, "late", settings(tmp_path, max_days=90).experiment, NOW)
    assert found.outlook is not None
    assert found.outlook.possible
    assert found.reason.endswith("a live test needs about 400 users, 80 days")


def test_the_command(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = proven(store, tmp_path, told(0.1))
    where = ["--set", f"store.url=sqlite:///{tmp_path / 'logtune.db'}"]
    assert cli.main(["experiments", "estimate", *where]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"late: expert ({evaluation.id})\n")
    assert "expected:  as the gate has it" in out
    assert cli.main(["experiments", "estimate", "late", "--json", *where]) == 0
    (found,) = json.loads(capsys.readouterr().out)["estimates"]
    assert (found["cluster"], found["outlook"]["gain"]) == ("late", 0.1)
    assert cli.main(["experiments", "estimate", "nobody", *where]) == 1
    assert "no candidate of 'nobody' has passed its gate" in capsys.readouterr().err
    with pytest.raises(InputError):
        newest_passed(store, "eval-0")
    assert newest_passed(store, evaluation.id)["late"].cluster_id == CLUSTER.id
