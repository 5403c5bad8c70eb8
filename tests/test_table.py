"""The routing table alone: what is deployed decides, arms hold their shares, units stick."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from gateway_kit import adapter_for, cluster_of

from logtune.app.exchange import begin
from logtune.app.table import Arm, Arms, Choice, Loaded, RoutingTable, Trial, plain
from logtune.ids import identified
from logtune.records import Adapter, CandidateKind, Cluster, Deployment, Step
from logtune.stages.cluster import Routed
from logtune.statistics import unit_of

LATE = "where is my late parcel"
ANN = "user:ann"
CLUSTER = cluster_of("late", LATE)
ADAPTER = adapter_for(CLUSTER)
HERE = Routed(CLUSTER, 1.0)


def deployment(candidate: CandidateKind, adapter: Adapter | None = ADAPTER) -> Deployment:
    return identified(Deployment(
        id="", cluster_id=CLUSTER.id, cluster_name="late", candidate=candidate, adapter_id=adapter and adapter.id,
        verdict_id=None, previous_id=None, action="deploy", reason="", at=1.0,
    ))  # fmt: skip


def table(arms: Arms, problem: str = "", cluster: Cluster = CLUSTER) -> RoutingTable:
    loaded = {ADAPTER.id: Loaded(name=ADAPTER.path, problem=problem)}
    return RoutingTable(clusters=(cluster,), arms={cluster.id: arms}, adapters=loaded)


@pytest.mark.parametrize("kind", ["expert", "critic"])
def test_a_candidate_with_an_adapter_is_named_with_it(kind: CandidateKind) -> None:
    assert table(plain(deployment(kind))).choose(HERE, ANN) == Choice(
        kind=kind, adapter=ADAPTER.id, model=ADAPTER.path, cluster="late", arm="candidate", similarity=1.0,
        reason="deployed for late",
    )  # fmt: skip


@pytest.mark.parametrize(("arms", "kind", "arm", "reason"), [
    (plain(deployment("base", None)), "base", "base", "the base model is deployed for late"),
    (plain(deployment("expert", None)), "base", "base", "the base model is deployed for late"),
    (plain(deployment("critic_prompt", None)), "critic_prompt", "candidate", "deployed for late"),
    (plain(deployment("rules", None), ("Be brief.",)), "rules", "candidate", "deployed for late"),
    (plain(deployment("rules", None)), "base", "candidate", "the rules that are deployed are not active any more"),
])  # fmt: skip
def test_a_candidate_without_an_adapter_goes_to_the_base_model(
    arms: Arms, kind: CandidateKind, arm: str, reason: str
) -> None:
    choice = table(arms).choose(HERE, ANN)
    assert (choice.kind, choice.adapter, choice.model) == (kind, None, "")
    assert (choice.arm, choice.reason) == (arm, reason)
    assert choice.rules == arms.arms[0].rules


def test_an_adapter_with_a_problem_does_not_serve() -> None:
    fallen = table(plain(deployment("expert")), "broken")
    assert fallen.choose(HERE, ANN) == Choice(cluster="late", arm="candidate", similarity=1.0, reason="broken")
    assert (fallen.live(), fallen.problems()) == ((), {ADAPTER.id: "broken"})
    assert table(plain(deployment("expert"))).live() == (ADAPTER.path,)


def test_an_adapter_that_the_store_does_not_have_does_not_serve() -> None:
    arms = plain(deployment("expert"))
    choice = RoutingTable(clusters=(CLUSTER,), arms={CLUSTER.id: arms}).choose(HERE, ANN)
    assert choice.reason == f"adapter {ADAPTER.id} is not in the store"


def test_out_of_distribution() -> None:
    made = table(plain(deployment("expert")))
    assert made.choose(Routed(None, 0.2), ANN) == Choice(similarity=0.2, reason="out of distribution")
    alien = made.nearest(np.ones(3, np.float32))
    assert made.choose(alien, ANN) == Choice(reason="no deployed cluster was made with this embedder")


def test_a_model_may_be_asked_for() -> None:
    made = table(plain(deployment("expert")))
    assert made.asked_for(ADAPTER.id) == made.asked_for(ADAPTER.path)
    assert made.asked_for(ADAPTER.path).adapter == ADAPTER.id
    assert made.asked_for("other").model == "other"


def test_what_served_before_stands_in_also_where_it_is_of_another_kind() -> None:
    rules = Arm(name="candidate", kind="rules", rules=("Be brief.",))
    arms = plain(deployment("expert"))
    made = RoutingTable(clusters=(CLUSTER,), arms={CLUSTER.id: arms}, standby={("late", "candidate"): rules})
    waiting = made.with_adapters({ADAPTER.id: Loaded(name=ADAPTER.path, problem="not yet")})
    choice = waiting.choose(HERE, ANN)
    assert (choice.kind, choice.rules, choice.reason) == ("rules", ("Be brief.",), "not yet; rules serves on")
    ready = waiting.with_adapters({ADAPTER.id: Loaded(name=ADAPTER.path)})
    assert (ready.choose(HERE, ANN).adapter, ready.standby) == (ADAPTER.id, {})


def step(share: float, since: float = 0.0, number: int = 0) -> Step:
    return Step(
        id=f"step-{number}", experiment_id="exp-1", number=number, action="ramp", share=share, since=since,
        verdict_id=None, by="loop", reason="", at=0.0,
    )  # fmt: skip


def arms_of(share: float, experiment: str = "exp-1") -> Arms:
    base = Arm(name="base", kind="base", share=1 - share)
    ours = Arm(name="candidate", kind="expert", share=share, adapter=ADAPTER.id)
    return Arms(arms=(base, ours), trial=Trial(experiment=experiment, steps=(step(share),)))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["user", "session", "request"])
def test_arms_hold_their_shares_of_the_units(share: float, kind: str) -> None:
    units, made = 4000, table(arms_of(share))
    drawn = Counter(made.choose(HERE, f"{kind}:{number}").arm for number in range(units))
    error = 4 * (share * (1 - share) / units) ** 0.5  # four standard errors of a share
    assert abs(drawn["candidate"] / units - share) <= error


@pytest.mark.parametrize(
    ("user", "session", "by"), [("ann", "s1", "user"), (None, "s1", "session"), (None, None, "request")]
)
def test_a_unit_sticks_and_is_told(user: str | None, session: str | None, by: str) -> None:
    choice = table(arms_of(0.5)).choose(HERE, unit_of(user, session, "r1"))
    assert choice.reason.endswith(f"for late, arm {choice.arm} by {by}")
    for number in range(50):  # other requests, and for a user other sessions, change nothing
        again = unit_of(user, f"s{number}" if user else session, "r1" if by == "request" else f"r{number}")
        assert table(arms_of(0.5)).choose(HERE, again).arm == choice.arm


@pytest.mark.parametrize(("body", "headers", "unit"), [
    ({"user": "ann"}, {"x-session-id": "s1"}, "user:ann"), ({}, {"x-session-id": "s1"}, "session:s1"),
    ({}, {}, "request:"),
])  # fmt: skip
def test_the_unit_of_a_request(body: dict[str, str], headers: dict[str, str], unit: str) -> None:
    exchange = begin(json.dumps({"model": "base", **body}).encode(), headers)
    assert exchange.unit() == unit + (exchange.id if unit == "request:" else "")


def in_candidate(arms: Arms, at: float = 1.0) -> set[str]:
    return {user for user in (f"user:{number}" for number in range(500)) if arms.of(user, at)[0].name == "candidate"}


def test_a_ramp_moves_nobody_back_and_another_test_draws_anew() -> None:
    small, large = in_candidate(arms_of(0.2)), in_candidate(arms_of(0.6))
    assert small < large
    assert in_candidate(arms_of(0.2, "exp-2")) != small


def test_a_step_comes_into_force_at_its_time_for_all_who_know_it() -> None:
    trial = Trial(experiment="exp-1", steps=(step(0.05, since=10.0), step(0.2, since=20.0, number=1)))
    arms = replace(arms_of(0.2), trial=trial)
    assert in_candidate(arms, at=5.0) == set()  # it has not begun, and nothing is drawn
    assert arms.of("user:1", 5.0)[1] is None
    assert in_candidate(arms, at=15.0) == in_candidate(arms_of(0.05))
    assert in_candidate(arms, at=25.0) == in_candidate(arms_of(0.2))
    assert in_candidate(replace(arms, trial=trial.ended()), at=25.0) == set()


def test_a_draw_says_how_likely_its_arm_was() -> None:
    made = table(arms_of(0.2))
    for number in range(200):
        choice = made.choose(HERE, f"user:{number}")
        assert choice.draw is not None
        ours = choice.draw.lot < 0.2
        assert (choice.arm, choice.draw.propensity) == (("candidate", 0.2) if ours else ("base", 0.8))
        assert (choice.draw.experiment, choice.draw.unit) == ("exp-1", "user")
