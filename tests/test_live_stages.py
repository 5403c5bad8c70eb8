"""The pure parts of a live test: lots, outcomes of users, guards, rulings, waits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.config_experiment import ExperimentSettings
from logtune.records import Draw, Feedback, LogRecord, Step
from logtune.stages import live
from logtune.stages.live_guards import guard
from logtune.stages.lots import chance_at, compared, lot, next_share, step_at, worth
from logtune.stages.outcomes import Asked, Unit, units
from logtune.stages.shadow import shadowed
from logtune.stages.split import Split, looked, mismatch, mismatched, no_looks

HOUR = 3600.0


def step(number: int, share: float, since: float) -> Step:
    return Step(
        id=f"step-{number}", experiment_id="exp-1", number=number, action="ramp", share=share, since=since,
        verdict_id=None, by="loop", reason="", at=0.0,
    )  # fmt: skip


# lots


def test_a_known_lot_stays_what_it_is():
    """A changed hash would move every user to another arm in the middle of a test."""
    assert lot("exp-1", "user:ann") == pytest.approx(0.909254, abs=1e-6)
    assert lot("exp-2", "user:ann") != lot("exp-1", "user:ann")


def test_lots_are_spread_evenly():
    drawn = np.array([lot("exp-1", f"user:{number}") for number in range(4000)])
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    assert abs(counts - 400).max() < 5 * np.sqrt(400)


@given(st.floats(0, 1), st.sampled_from([0.05, 0.2, 0.5]))
def test_who_is_compared_is_moved_by_no_later_step(drawn, first):
    """Whoever is compared from their first share on has the same arm at every later share of the ramp."""
    is_compared = bool(compared(np.array(drawn), np.array(first), 0.5))
    arms = {drawn < share for share in (0.05, 0.2, 0.5) if share >= first}
    assert is_compared == (len(arms) == 1)


def test_chances_are_those_among_the_compared():
    drawn = np.array([lot("exp-1", f"user:{number}") for number in range(20_000)])
    for share in (0.05, 0.2, 0.5):
        kept = drawn[compared(drawn, np.full(drawn.shape, share), 0.5)]
        assert (kept < share).mean() == pytest.approx(float(chance_at(np.array(share), 0.5)), abs=0.015)


def test_steps_and_shares():
    steps = [step(0, 0.05, 10.0), step(1, 0.2, 20.0)]
    assert [found and found.share for found in (step_at(steps, at) for at in (5.0, 10.0, 19.9, 20.0))] == [
        None, 0.05, 0.05, 0.2,
    ]  # fmt: skip
    known, leads = np.array([0, 19, 20, 79, 80]), np.ones(5, dtype=bool)
    assert next_share(ExperimentSettings(), known, leads, 10).tolist() == [0.05, 0.05, 0.2, 0.2, 0.5]


@given(st.integers(0, 3000), st.booleans(), st.integers(0, 100_000))
def test_traffic_limits_who_has_the_candidate_before_anything_is_known(known, leads, active):
    rules = ExperimentSettings()

    def share(known, leads, active):
        return float(next_share(rules, np.array([known]), np.array([leads]), active)[0])

    found, most = share(known, leads, active), max(rules.max_waiting, known if leads else 0)
    assert 0 < found <= share(known, leads, 0)
    assert found * active <= most * (1 + 1e-4) + 1
    assert found <= share(known + 50, leads, active)
    assert found <= share(known, True, active)


def test_shares_between_the_steps_are_far_apart():
    """Traffic differs from look to look; each step of a share is a step of the test, to be followed by all gateways."""
    rules, known, leads = ExperimentSettings(), np.array([500]), np.array([False])
    shares = {float(next_share(rules, known, leads, active)[0]) for active in range(120, 12_000)}
    assert len(shares) < 25


def test_a_ramp_is_well_formed():
    with pytest.raises(ValueError, match="must rise"):
        ExperimentSettings(ramp=(0.2, 0.05), ramp_users=(10,))
    with pytest.raises(ValueError, match="one number less"):
        ExperimentSettings(ramp=(0.1, 0.5), ramp_users=())


# outcomes


def request(number: int, at: float, said: str = "where is my parcel", answer: str | None = "It comes tomorrow.",
            history: tuple[tuple[str, str], ...] = (), **fields) -> LogRecord:  # fmt: skip
    messages = [{"role": role, "content": text} for role, text in history] + [{"role": "user", "content": said}]
    response = None if answer is None else {"choices": [{"message": {"role": "assistant", "content": answer}}]}
    drawn = Draw(experiment="exp-1", unit="user", lot=0.01, propensity=0.5)
    return LogRecord(**{
        "id": f"log-{number}", "request": {"messages": messages}, "response": response, "at": at, "arm": "candidate",
        "user": "ann", "draw": drawn, **fields,
    })  # fmt: skip


def value(logs, feedback=(), metric="satisfied") -> float | None:
    (unit,) = units(logs, feedback, "exp-1", 0.0, metric, HOUR)
    return unit.value


def test_a_dissatisfied_reaction_counts_against_its_answer():
    asked = request(1, 10.0)
    history = (("user", "where is my parcel"), ("assistant", "It comes tomorrow."))
    complaint = request(2, 20.0, "No, that is wrong, you did not answer my question", history=history)
    assert value([asked]) == 1.0
    assert value([asked, complaint]) == 0.5  # the complaint is a request too, and nobody complains of its answer
    late = request(2, 10.0 + HOUR + 1, "No, that is wrong, you did not answer my question", history=history)
    assert value([asked, late]) == 1.0
    assert value([asked, request(2, 20.0, "and my refund?", answer=None, error="down")]) == 0.5


def test_the_same_question_again_is_a_reask():
    asked = request(1, 10.0)
    again = request(2, 20.0, history=(("user", "where is my parcel"), ("assistant", "It comes tomorrow.")))
    assert value([asked, again], metric="reask") == 0.5


def test_thumbs_and_edits():
    asked = request(1, 10.0)
    up, down = (Feedback(id=f"f{v}", target="log-1", at=11.0, value=v, user="ann") for v in (1.0, -1.0))
    assert value([asked], metric="thumbs") is None
    assert value([asked], [up], "thumbs") == 1.0
    assert value([asked], [down], "thumbs") == 0.0
    edit = Feedback(id="e", target="log-1", at=11.0, kind="edit", correction="It comes on Monday.", user="ann")
    assert value([asked], metric="edit") is None
    kept = value([asked], [edit], "edit")
    assert kept is not None
    assert 0.5 < kept < 1.0


def test_a_unit_knows_its_first_share_and_all_arms_it_saw():
    first = request(1, 10.0, arm="base", draw=Draw(experiment="exp-1", unit="user", lot=0.1, propensity=0.95))
    moved = request(2, 20.0, arm="candidate", draw=Draw(experiment="exp-1", unit="user", lot=0.1, propensity=0.2))
    other = request(3, 5.0, draw=Draw(experiment="exp-0", unit="user", lot=0.3, propensity=0.2), user="bob")
    (unit,) = units([first, moved, other], [], "exp-1", 0.0, "satisfied", HOUR)
    assert (unit.share, unit.arms, unit.candidate) == (0.05, {"base", "candidate"}, False)


def test_who_came_first_after_a_gateway_had_ended_the_test_is_no_unit_of_it():
    drawn = request(1, 10.0)
    late = request(2, 20.0, user="bob", arm="base", draw=Draw(experiment="exp-1", unit="user", lot=0.2, propensity=1.0))
    found = units([drawn, late], [], "exp-1", 0.0, "satisfied", HOUR)
    assert [unit.lot for unit in found] == [0.01]
    live.state(
        found, ExperimentSettings(), 2 * HOUR, 0.5, 1.0
    )  # nobody's chance is 0, which no bet can be made against


# guards and rulings


def made(number: int, ours: bool, **fields) -> Unit:
    asked = Asked(**{
        "arm": "candidate" if ours else "base", "at": float(number), "failed": False, "latency_ms": 100.0, "length": 50,
        "refused": False, "complained": False, "good": 1.0, **fields,
    })  # fmt: skip
    drawn = 0.25 if ours else 0.75
    arms = frozenset({asked.arm})
    return Unit(
        lot=drawn + number / 1e6, share=0.5, first_at=float(number), last_at=float(number), arms=arms, asked=(asked,),
        early=(asked,),
    )  # fmt: skip


BREACHES = [
    ("errors", {"failed": True}), ("slow", {"latency_ms": 900.0}), ("odd_length", {"length": 900}),
    ("odd_length", {"length": 0}), ("refusals", {"refused": True}), ("complaints", {"complained": True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "bad"), BREACHES)
def test_a_breach_breaks_its_guard_and_no_other(name, bad):
    well = [made(number, number % 2 == 0) for number in range(60)]
    ill = [made(number, number % 2 == 0, **(bad if number % 2 == 0 else {})) for number in range(60, 200)]
    rules = ExperimentSettings()
    for guard_name in ("errors", "slow", "odd_length", "refusals", "complaints"):
        assert not guard(guard_name, well, rules, 0.5, 0.001, 1.5).broken
        assert guard(guard_name, well + ill, rules, 0.5, 0.001, 1.5).broken == (guard_name == name)


def test_what_is_bad_on_both_sides_breaks_nothing():
    for name, bad in BREACHES:
        found = [made(number, number % 2 == 0, **(bad if number % 3 == 0 else {})) for number in range(200)]
        assert not guard(name, found, ExperimentSettings(), 0.5, 0.001, 1.5).broken


def test_safety_comes_first_and_the_ramp_last():
    rules = ExperimentSettings(window_hours=0.001)
    well = [made(number, number % 2 == 0) for number in range(100)]
    now = live.state(well, rules, 1000.0, 0.5, 1.5)
    assert live.ruling(now, rules, days=1.0, share=0.05) == ("extend", "ramp")
    assert live.ruling(now, rules, days=1.0, share=0.5) == ("extend", "open")
    assert live.ruling(now, rules, days=0.00001, share=0.05) == ("extend", "open")  # no window is over
    assert live.ruling(now, rules.model_copy(update={"max_users": 100}), days=1.0, share=0.05) == ("stop", "undecided")
    assert live.ruling(now, rules, days=99.0, share=0.05) == ("stop", "undecided")
    ill = [made(number, number % 2 == 0, failed=number % 2 == 0, good=0.0) for number in range(100)]
    broken = live.state(ill, rules, 1000.0, 0.5, 1.5)
    assert live.ruling(broken, rules, days=99.0, share=0.05) == ("rollback", "guard")
    assert live.watch_ruling(broken, rules, days=99.0) == ("rollback", "guard")
    assert live.watch_ruling(now, rules, days=6.9) == ("extend", "open")
    assert live.watch_ruling(now, rules, days=7.0) == ("promote", "watched")


def test_errors_add_up_to_what_was_asked():
    spent = live.errors(0.95)
    assert spent.promote + spent.rollback + len(live.GUARDS) * spent.guard == pytest.approx(0.05)


@pytest.mark.parametrize(("outcomes", "days"), [
    ([], 0), (["end"], 0), (["rollback"], 7), (["end", "stop", "rollback"], 14), (["stop"] * 9, 112),
    (["stop", "end"], 0),
])  # fmt: skip
def test_waits_double_with_each_loss_in_a_row(outcomes, days):
    assert live.backoff_days(outcomes, ExperimentSettings()) == days


# the shadow


def shadow_logs(pairs: int, seed: int, base: float, ours: float, **more) -> list[LogRecord]:
    """Requests that fail with these chances, and the candidate's unseen answers to the same."""
    drawn, logs = np.random.default_rng(seed), []
    for number in range(pairs):
        for side, chance in (("base", base), ("shadow", ours)):
            failed = drawn.random() < chance
            logs.append(request(
                number, float(number), arm=side, answer=None if failed else "It comes tomorrow.",
                error="down" if failed else None, **(
                    {"id": f"hidden-{number}", "source": "shadow", "traces": (f"log-{number}",), "user": None,
                     "latency_ms": 100.0, **more}
                    if side == "shadow" else {"latency_ms": 100.0}
                ),
            ))  # fmt: skip
    return logs


def test_a_shadow_at_its_margin_is_rarely_stopped_however_often_one_looks():
    rules, runs = ExperimentSettings(), 200
    at_margin = [
        shadowed(shadow_logs(200, seed, 0.2, 0.2 + rules.max_error_rate), "exp-1", rules, 1).guards["errors"]
        for seed in range(runs)
    ]
    assert sum(guard.broken for guard in at_margin) <= 2  # the capital is the largest of all moments
    assert max(guard.capital for guard in at_margin) > 1


def test_a_shadow_that_fails_is_stopped_soon_and_what_comes_later_takes_nothing_back():
    rules, logs = ExperimentSettings(), shadow_logs(60, 1, 0.0, 0.9)
    guards = [shadowed(logs[: 2 * count], "exp-1", rules, 1).guards["errors"] for count in range(61)]
    assert not guards[8].broken
    assert guards[30].broken
    assert [guard.capital for guard in guards[1:]] == sorted(guard.capital for guard in guards[1:])
    slow = shadowed(shadow_logs(120, 2, 0.0, 0.0, latency_ms=900.0), "exp-1", rules, 1)
    assert [name for name, guard in slow.guards.items() if guard.broken] == ["slow"]
    assert slow.ruling(rules, 1.0) == ("stop", "guard")


# the split


def test_the_last_look_at_the_split_comes_before_a_ramped_test_ends():
    """Users of the ramp's first steps tell little of the split; a small mismatch shows at the last look alone."""
    found = []
    for number in range(4200):
        share = 0.05 if number < 400 else 0.2 if number < 700 else 0.5
        lot = (number * 0.618034) % 1 if share < 0.5 else 0.25 if (number * 0.618034) % 1 < 0.535 else 0.75
        arm = "candidate" if lot < share else "base"
        found.append(replace(made(number, arm == "candidate"), lot=lot, share=share, arms=frozenset({arm})))
    rules = ExperimentSettings(max_users=3400, window_hours=1e-6)
    compared_ = [unit for unit in found if unit.lot < unit.share or unit.lot >= 0.5]
    assert not mismatch([unit for unit in compared_ if unit.first_at < 3400], 3400, 0.5)  # so many are not enough
    told = np.cumsum([worth(chance_at(np.array(unit.share), 0.5)) for unit in compared_])
    end = int((told >= 3400).argmax()) + 1
    at = live.state(compared_[:end], rules, 1e9, 0.5, 1.5)
    assert at.worth >= 3400
    assert live.ruling(at, rules, days=1.0, share=0.5) == ("stop", "mismatch")
    before = live.state(compared_[: end - 1], rules, 1e9, 0.5, 1.5)
    assert live.ruling(before, rules, days=1.0, share=0.5) == ("extend", "open")


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_a_broken_split_is_found_and_a_fair_one_is_not(seed):
    rng, shares = np.random.default_rng(seed), np.array([1 / 11, 0.5])
    for broken in (False, True):
        split, looks = Split(np.zeros((1, 2)), np.zeros((1, 2)), shares[None]), no_looks(1)
        found = False
        for number in range(60):
            place = int(number >= 20)
            ours = rng.binomial(50, shares[place] * (0.7 if broken else 1.0))
            one, other = split.candidate.copy(), split.base.copy()
            one[0, place] += ours
            other[0, place] += 50 - ours
            before, split = split, Split(one, other, shares[None])
            looks = looked(looks, before, split, 3000)
            found = found or bool(mismatched(split, looks, 3000)[0])
        assert found == broken
