"""What the gate's evidence decides about a candidate."""

import pytest

from logtune.ids import identified
from logtune.records import Evaluation
from logtune.stages.experiment import CODES, decide


def evaluation(outcome="passed", **fields) -> Evaluation:
    given_fields = {
        "id": "", "cluster_id": "clu-1", "candidate": "expert", "adapter_id": "ada-1", "baseline": "base",
        "interaction_ids": ("int-1",), "cases": 20, "wins": 15, "ties": 2, "win_rate": 0.8, "lower": 0.6, "upper": 0.92,
        "guards": {}, "outcome": outcome, "reason": "won 15 of 20",
    }  # fmt: skip
    return identified(Evaluation(**{**given_fields, **fields}))


def test_a_passed_gate_promotes():
    verdict = decide(evaluation(), live_test=False, config_hash="h")
    assert (verdict.decision, verdict.adapter_id, verdict.cluster_id) == ("promote", "ada-1", "clu-1")
    assert verdict.evaluation_id == evaluation().id
    assert (verdict.effect, verdict.lower, verdict.upper) == pytest.approx((0.6, 0.2, 0.84))
    assert verdict.arms == {"base": {"serves": "base"}, "candidate": {"serves": "ada-1", "kind": "expert"}}
    assert "won 15 of 20" in verdict.reason
    assert verdict == decide(evaluation(), live_test=False, config_hash="h")


@pytest.mark.parametrize("live_test", [False, True])
def test_what_did_not_pass_is_never_promoted(live_test):
    failed = decide(evaluation("failed"), live_test=live_test, config_hash="h")
    assert (failed.decision, failed.reason) == ("stop", "won 15 of 20")
    waiting = decide(
        evaluation("not_enough_data", win_rate=None, lower=None, upper=None), live_test=live_test, config_hash="h"
    )
    assert (waiting.decision, waiting.effect, waiting.lower) == ("extend", None, None)


GUARD = {"name": "length", "passed": True, "value": 1.1, "limit": 1.5, "reason": "as long as before"}


@pytest.mark.parametrize(
    ("outcome", "kept", "code"),
    [
        ("passed", True, "gate_passed"), ("failed", True, "gate_failed"), ("failed", False, "gate_guard"),
        ("not_enough_data", True, "not_enough_data"),
    ],
)  # fmt: skip
def test_every_verdict_has_a_code_and_a_receipt(outcome, kept, code):
    told = {"length": {**GUARD, "passed": kept}, "answers": {"scored": 22}, "cost": {"calls": 1.0}, "judge": "none"}
    verdict = decide(evaluation(outcome, guards=told), live_test=False, config_hash="h")
    assert verdict.code == code
    assert code in CODES
    assert verdict.receipt == {
        "phase": "gate", "config_hash": "h", "baseline": "base", "interactions": 1, "votes": 20, "won": 15, "tied": 2,
        "lost": 3, "win_rate": 0.8, "interval": [0.6, 0.92], "guards": {"length": {**GUARD, "passed": kept}},
        "answers": {"scored": 22},
    }  # fmt: skip


def test_a_candidate_without_an_adapter():
    verdict = decide(evaluation(candidate="rules", adapter_id=None), live_test=False, config_hash="h")
    assert verdict.arms["candidate"] == {"serves": "rules", "kind": "rules"}


def test_a_live_test_begins_by_extending():
    verdict = decide(evaluation(), live_test=True, config_hash="h")
    assert (verdict.decision, verdict.effect, verdict.lower, verdict.upper) == ("extend", 0.6, 0.2, 0.84)
    assert verdict.reason == "the gate was passed, the live test decides: won 15 of 20"
