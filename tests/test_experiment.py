"""What the gate's evidence decides about a candidate."""

import pytest

from logtune.ids import identified
from logtune.records import Evaluation
from logtune.stages.experiment import decide


def evaluation(outcome="passed", **fields) -> Evaluation:
    given_fields = {
        "id": "", "cluster_id": "clu-1", "candidate": "expert", "adapter_id": "ada-1", "baseline": "base",
        "interaction_ids": ("int-1",), "cases": 20, "wins": 15, "ties": 2, "win_rate": 0.8, "lower": 0.6, "upper": 0.92,
        "guards": {}, "outcome": outcome, "reason": "won 15 of 20",
    }  # fmt: skip
    return identified(Evaluation(**{**given_fields, **fields}))


def test_a_passed_gate_promotes():
    verdict = decide(evaluation(), live_test=False)
    assert (verdict.decision, verdict.adapter_id, verdict.cluster_id) == ("promote", "ada-1", "clu-1")
    assert verdict.evaluation_id == evaluation().id
    assert (verdict.effect, verdict.lower, verdict.upper) == pytest.approx((0.6, 0.2, 0.84))
    assert verdict.arms == {"base": {"serves": "base"}, "candidate": {"serves": "ada-1", "kind": "expert"}}
    assert "won 15 of 20" in verdict.reason
    assert verdict == decide(evaluation(), live_test=False)


@pytest.mark.parametrize("live_test", [False, True])
def test_what_did_not_pass_is_never_promoted(live_test):
    failed = decide(evaluation("failed"), live_test=live_test)
    assert (failed.decision, failed.reason) == ("stop", "won 15 of 20")
    waiting = decide(evaluation("not_enough_data", win_rate=None, lower=None, upper=None), live_test=live_test)
    assert (waiting.decision, waiting.effect, waiting.lower) == ("extend", None, None)


def test_a_candidate_without_an_adapter():
    verdict = decide(evaluation(candidate="rules", adapter_id=None), live_test=False)
    assert verdict.arms["candidate"] == {"serves": "rules", "kind": "rules"}


def test_a_live_test_begins_by_extending():
    verdict = decide(evaluation(), live_test=True)
    assert (verdict.decision, verdict.effect, verdict.lower, verdict.upper) == ("extend", 0.6, 0.2, 0.84)
    assert verdict.reason == "the gate was passed, the live test decides: won 15 of 20"
