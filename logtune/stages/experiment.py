"""From the gate to a decision. In -> out: Evaluation -> Verdict.

Without a live test a passed gate promotes. With one it begins the test (`stages.live`), which decides later.
"""

from typing import Literal

from logtune.ids import identified
from logtune.records import Evaluation, Json, Verdict

BASE, CANDIDATE = "base", "candidate"  # names of arms
GATE_PASSED = "gate_passed"
RUNNER_UP = "runner_up"  # it passed too, and serves where there is no room for the one chosen
CODES = frozenset({GATE_PASSED, "gate_failed", "gate_guard", "not_enough_data", RUNNER_UP})
Decision = Literal["promote", "extend", "stop", "rollback"]


def decide(evaluation: Evaluation, *, live_test: bool, config_hash: str) -> Verdict:
    """The verdict on a candidate. Effect and bounds are the share of votes won less the share lost, -1..1.

    Not passed: stop, or extend where only data are missing. Passed: promote, with `live_test` extend.
    """
    decision: Decision = "stop" if evaluation.outcome == "failed" else "extend"
    reason = evaluation.reason
    if evaluation.outcome == "passed":
        decision = "extend" if live_test else "promote"
        then = ", the live test decides" if live_test else " and no live test is asked for"
        reason = f"the gate was passed{then}: {reason}"
    return _verdict(evaluation, decision, reason, config_hash)


def _verdict(evaluation: Evaluation, decision: Decision, reason: str, config_hash: str) -> Verdict:
    found = (evaluation.win_rate, evaluation.lower, evaluation.upper)
    effect, low, high = (None if value is None else round(2 * value - 1, 6) for value in found)
    return identified(
        Verdict(
            id="",
            cluster_id=evaluation.cluster_id,
            evaluation_id=evaluation.id,
            adapter_id=evaluation.adapter_id,
            arms=arms(evaluation),
            effect=effect,
            lower=low,
            upper=high,
            decision=decision,
            reason=reason,
            code=_code(evaluation),
            receipt=_receipt(evaluation, config_hash),
        )
    )


def _code(evaluation: Evaluation) -> str:
    if evaluation.outcome != "failed":
        return GATE_PASSED if evaluation.outcome == "passed" else "not_enough_data"
    return "gate_failed" if all(guard["passed"] for guard in _guards(evaluation).values()) else "gate_guard"


def _receipt(evaluation: Evaluation, config_hash: str) -> dict[str, Json]:
    """What was compared, with all numbers."""
    return {
        "phase": "gate", "config_hash": config_hash, "baseline": evaluation.baseline,
        "interactions": len(evaluation.interaction_ids), "votes": evaluation.cases, "won": evaluation.wins,
        "tied": evaluation.ties, "lost": evaluation.cases - evaluation.wins - evaluation.ties,
        "win_rate": evaluation.win_rate, "interval": [evaluation.lower, evaluation.upper],
        "guards": dict(_guards(evaluation)), "answers": evaluation.guards.get("answers"),
    }  # fmt: skip


def _guards(evaluation: Evaluation) -> dict[str, dict[str, Json]]:
    """The guards among what an evaluation tells."""
    told = evaluation.guards.items()
    return {name: guard for name, guard in told if isinstance(guard, dict) and {"passed", "limit"} <= guard.keys()}


def arms(evaluation: Evaluation) -> dict[str, Json]:
    """Both arms by name, and what serves in each."""
    return {
        BASE: {"serves": evaluation.baseline},
        CANDIDATE: {"serves": evaluation.adapter_id or evaluation.candidate, "kind": evaluation.candidate},
    }
