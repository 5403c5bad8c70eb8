"""What a candidate that would pass may gain in live traffic, and what it would take to show it there.

cycle, cluster, cases -> Outlook as JSON        kept in the evaluation, under `outlook`

Which requests will come to the cluster is not known before it serves: its share of what taught something is taken for
its share of all users, and the deployment's share of content users for the cluster's.
"""

from collections.abc import Sequence
from dataclasses import asdict

from logtune.records import DAY_S, Cluster, Interaction, Json
from logtune.runner import Cycle
from logtune.stages import offpolicy
from logtune.stages.evaluate import Case
from logtune.stages.grading import grade
from logtune.statistics import unit_of
from logtune.views import signals_of, teaching

RIGHT = 0.9  # grade from which an answer is taken for the one that the user wanted
MAX_DAYS = 56.0  # a live test that takes longer proves nothing in time


def outlook(cycle: Cycle, cluster: Cluster, cases: Sequence[Case]) -> Json:
    """Gain, users and days with the reason in a sentence; None where no user who corrected an answer is held out."""
    users = {_unit(item) for item in cycle.board.all(Interaction)}
    unhappy = _dissatisfied(cycle)
    gain = offpolicy.expected(
        offpolicy.Strata(
            corrected=_answers([case for case in cases if case.reference and not case.liked]),
            praised=_answers([case for case in cases if case.liked]),
            dissatisfied=len(unhappy), users=len(users),
        )
    )  # fmt: skip
    if gain is None:
        return None
    traffic = offpolicy.Traffic(users_per_day=_users_per_day(cycle, cluster), content=1 - len(unhappy) / len(users))
    return asdict(offpolicy.outlook(gain, traffic, MAX_DAYS))


def _answers(cases: Sequence[Case]) -> list[tuple[bool, bool]]:
    """Whether candidate and baseline are right, for the first case of each voter."""
    first: dict[str, Case] = {}
    for case in cases:
        first.setdefault(unit_of(case.user, None, case.interaction_id), case)
    return [(_right(case, case.candidate_answer), _right(case, case.baseline_answer)) for case in first.values()]


def _right(case: Case, answer: str) -> bool:
    return grade(answer, case.reference or "") >= RIGHT


def _dissatisfied(cycle: Cycle) -> set[str]:
    """Users who were not content with some answer."""
    signals = signals_of(cycle)
    items = cycle.board.all(Interaction)
    return {_unit(item) for item in items if any(signal.polarity < 0 for signal in signals.get(item.id, ()))}


def _users_per_day(cycle: Cycle, cluster: Cluster) -> float:
    items, taught = cycle.board.all(Interaction), teaching(cycle)
    times = [item.at for item in items]
    days = max(1.0, (max(times) - min(times)) / DAY_S)
    mine = {_unit(cycle.board.get(Interaction, name)) for name in cluster.interaction_ids}
    share = len(mine) / max(1, len({_unit(item) for item in taught}))
    return round(len({_unit(item) for item in items}) / days * min(1.0, share), 3)


def _unit(item: Interaction) -> str:
    return unit_of(item.user, item.session, item.id)
