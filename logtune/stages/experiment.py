"""From the gate to a decision. In -> out: Evaluation -> Verdict.

Without a live test a passed gate promotes. With one it begins the test (`stages.live`), which decides later.
"""

from typing import Literal

from logtune.ids import identified
from logtune.records import Evaluation, Json, Verdict

BASE, CANDIDATE = "base", "candidate"  # names of arms
Decision = Literal["promote", "extend", "stop", "rollback"]


def decide(evaluation: Evaluation, *, live_test: bool) -> Verdict:
    """The verdict on a candidate. Effect and bounds are the share of votes won less the share lost, -1..1.

    Not passed: stop, or extend where only data are missing. Passed: promote, with `live_test` extend.
    """
    if evaluation.outcome != "passed":
        return _verdict(evaluation, "stop" if evaluation.outcome == "failed" else "extend", evaluation.reason)
    if live_test:
        return _verdict(evaluation, "extend", f"the gate was passed, the live test decides: {evaluation.reason}")
    return _verdict(evaluation, "promote", f"the gate was passed and no live test is asked for: {evaluation.reason}")


def _verdict(evaluation: Evaluation, decision: Decision, reason: str) -> Verdict:
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
        )
    )


def arms(evaluation: Evaluation) -> dict[str, Json]:
    """Both arms by name, and what serves in each."""
    return {
        BASE: {"serves": evaluation.baseline},
        CANDIDATE: {"serves": evaluation.adapter_id or evaluation.candidate, "kind": evaluation.candidate},
    }
