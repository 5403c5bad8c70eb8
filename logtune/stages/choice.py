"""Evaluation* of one cluster -> Verdict*: of the candidates that passed the gate one goes on, and a sentence says why.

Cheaper is what takes fewer calls an answer, then what needs no adapter, then fewer tokens. A costlier candidate serves
only when its win rate against the same baseline is higher by `worth`, and its lower bound higher too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from logtune.ids import identified
from logtune.records import CandidateKind, Evaluation, Json, Verdict
from logtune.stages.experiment import RUNNER_UP, decide

NAMES: Mapping[CandidateKind, str] = {
    "base": "the base model", "rules": "rules in the prompt", "critic_prompt": "the base model as its own critic",
    "critic": "a critic adapter", "expert": "an expert adapter",
}  # fmt: skip
CALLS: Mapping[CandidateKind, int] = {"base": 1, "rules": 1, "expert": 1, "critic_prompt": 3, "critic": 3}


def verdicts(evaluations: Sequence[Evaluation], *, worth: float, live_test: bool, config_hash: str) -> list[Verdict]:
    """A verdict an evaluation, in their order; `worth`: 0..1 of the win rate. At most one promotes."""
    best = best_of(evaluations, worth)
    found = [decide(item, live_test=live_test, config_hash=config_hash) for item in evaluations]
    if best is None or len(evaluations) < 2:
        return found
    return [_said(verdict, item, best, evaluations, worth) for verdict, item in zip(found, evaluations, strict=True)]


def best_of(evaluations: Sequence[Evaluation], worth: float) -> Evaluation | None:
    """The one that should serve; None: none has passed."""
    passed = sorted((item for item in evaluations if item.outcome == "passed"), key=_expense)
    best = passed[0] if passed else None
    for item in passed[1:]:
        if best is not None and _gain(item, best) >= worth - 1e-9 and (item.lower or 0) > (best.lower or 0):
            best = item
    return best


def _gain(item: Evaluation, other: Evaluation) -> float:
    return (item.win_rate or 0) - (other.win_rate or 0)


def _expense(item: Evaluation) -> tuple[float, bool, float]:
    cost = _cost(item)
    calls = cost.get("calls")
    known = CALLS[item.candidate] if calls is None else _number(calls)
    return known, item.adapter_id is not None, _tokens(item)


def _tokens(item: Evaluation) -> float:
    return sum(_number(_cost(item).get(name)) for name in ("prompt_tokens", "completion_tokens"))


def _cost(item: Evaluation) -> Mapping[str, Json]:
    cost = item.guards.get("cost")
    return cost if isinstance(cost, dict) else {}


def _number(value: Json) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _said(
    verdict: Verdict, item: Evaluation, best: Evaluation, evaluations: Sequence[Evaluation], worth: float
) -> Verdict:
    """The verdict with the choice in its reason; what passed and was not chosen stops."""
    if item.outcome != "passed":
        return verdict
    if item is best:
        others = "; ".join(_beside(other, best, worth) for other in evaluations if other is not best)
        return identified(replace(verdict, id="", reason=f"{_figures(best)}; {others}; {verdict.reason}"))
    reason = f"passed, but {NAMES[best.candidate]} is chosen: {_figures(best)}; {_beside(item, best, worth)}"
    return identified(replace(verdict, id="", decision="stop", reason=reason, code=RUNNER_UP))


def _figures(item: Evaluation) -> str:
    """Quality and cost of a candidate."""
    cost = _cost(item)
    won, calls = f"{NAMES[item.candidate]} won {_percent(item.win_rate)}", _number(cost.get("calls"))
    if not calls:
        return won
    return f"{won} at {calls:.3g} {'call' if calls == 1 else 'calls'} and {_tokens(item):.0f} tokens an answer"


def _beside(other: Evaluation, best: Evaluation, worth: float) -> str:
    if other.outcome != "passed":
        outcome = {"failed": "failed", "not_enough_data": "proved nothing"}[other.outcome]
        return f"{NAMES[other.candidate]} {outcome}"
    if _expense(other) < _expense(best):
        return f"{_figures(other)}, less by {100 * -_gain(other, best):.0f} points"
    return f"{_figures(other)}, which is not {100 * worth:.0f} points better and costs more"


def _percent(share: float | None) -> str:
    return "nothing" if share is None else f"{100 * share:.0f}%"
