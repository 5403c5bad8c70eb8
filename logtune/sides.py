"""The sides of the gate in a cycle: who teaches, who chooses, who confirms, and what the held-out ones are asked.

cycle, Interaction* -> Split, Case*        at its end -> Voted, for the cycles after it

A user keeps the side that the shares and the draw of their first cycle gave. What serves was proven on what was
confirmed till then; a candidate is proven on what is new since, and must not lose the rest (the guard `voters`).
`test_then_train` lets who had a vote when something was proven train from the next cycle on (each case is tested, then
learned: prequential, Dawid 1984).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from logtune.config import EvaluateSettings
from logtune.records import Adapter, Cluster, Decision, Evaluation, Interaction, PreferencePair
from logtune.runner import Cycle, Voted
from logtune.stages import evaluate
from logtune.stages import pairs as pairing
from logtune.stages.grading import normalise
from logtune.stages.held_out import Shares, Split, evenest, split
from logtune.statistics import unit_of
from logtune.views import prompt_of, rules_by_interaction, signals_of

STEP = 0.05  # by which the share of users who confirm grows
SPLIT_SALT = "logtune-gate"  # fixed: a user is on the same side of the gate in every cycle
GOOD_POWER = 0.8  # chance to prove a good candidate on what is new alone, from which on it alone decides
FEWEST_CHOOSERS = 10  # of fewer nearly all would have to agree to tell two checkpoints apart
TRAINS = Shares(0.0, 0.0)
Cases = tuple[evaluate.Case, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """Who may vote in a cycle."""

    since: float  # users first seen by then train
    settled: Mapping[str, Shares]  # users, else sessions, else interactions, of earlier cycles
    settings: EvaluateSettings  # with the shares of all others
    draw: int = 0  # of all others


def sides_of(cycle: Cycle, items: Sequence[Interaction]) -> Split:
    """The sides of interactions."""
    return _split(items, roll(cycle))


def first_sides(cycle: Cycle, items: Sequence[Interaction]) -> Split:
    """The sides before clusters tell whether more of the new users confirm."""
    wanted = _wanted(cycle, cases_of(cycle, cycle.board.all(Interaction)))
    return _split(items, _drawn(_known(cycle, _first_seen(cycle)), wanted))


def roll(cycle: Cycle) -> Roll:
    """Who may vote, settled once a cycle.

    Where so few confirm that no cluster can be decided, more of the new users do, up to `most_confirmation`; also where
    what is new since the last proof could then decide each cluster at GOOD_POWER. With `test_then_train` the earlier
    voters train, if that is so: a service whose users are always the same goes on with those it has.
    """
    if "roll" not in cycle.kept:
        cycle.kept["roll"] = _roll(cycle)
    found = cycle.kept["roll"]
    assert isinstance(found, Roll)
    return found


def _roll(cycle: Cycle) -> Roll:
    settings, voted, first = cycle.config.evaluate, cycle.voted, _first_seen(cycle)
    groups = [(g, [cycle.board.get(Interaction, name) for name in g.interaction_ids]) for g in cycle.board.all(Cluster)]
    cases = cases_of(cycle, cycle.board.all(Interaction))
    votes, wanted = {case.interaction_id: case for case in cases}, _wanted(cycle, cases)

    def decided(items: Sequence[Interaction], who: Roll, tests: int, least_power: float = 0.0) -> bool:
        asked = [votes[item.id] for item in _split(items, who).confirmation if item.id in votes]
        return _enough(asked, who.settings, tests, least_power)

    known = _drawn(_known(cycle, first), wanted)
    if voted.proven > voted.since:
        could = [(group, items) for group, items in groups if decided(items, known, len(groups))]
        least = known
        if settings.test_then_train:
            trained = replace(known, since=voted.proven, settled=_settled(voted, first, voted.proven))
            least = _drawn(trained, wanted)
        for wide in _wider(least, wanted) if could else ():
            if all(decided(_newer(cycle, *each), wide, len(groups), GOOD_POWER) for each in could):
                return wide
    return next((wide for wide in _wider(known, wanted) if any(decided(items, wide, 1) for _, items in groups)), known)


def _wanted(cycle: Cycle, cases: Iterable[evaluate.Case]) -> dict[str, str]:
    """User, else session, else interaction that may vote -> the right answer they want first, "": a judge decides."""
    found: dict[str, str] = {}
    for case in cases:
        item = cycle.board.get(Interaction, case.interaction_id)
        found.setdefault(unit_of(item.user, item.session, item.id), normalise(case.reference or ""))
    return found


def _drawn(who: Roll, wanted: Mapping[str, str]) -> Roll:
    """The same with the new users drawn so that every right answer has its share of votes."""
    new = {unit: answer for unit, answer in wanted.items() if unit not in who.settled}
    settings = choosing(who.settings, len(new))
    return replace(who, settings=settings, draw=evenest(new, settings, SPLIT_SALT))


def choosing(settings: EvaluateSettings, users: int) -> EvaluateSettings:
    """The shares where so few would choose the checkpoint that the last one serves anyway: they confirm it instead."""
    few = users * settings.selection_share < FEWEST_CHOOSERS
    both = round(settings.selection_share + settings.confirmation_share, 4)
    if not few or settings.rule == "rate":
        return settings
    return settings.model_copy(update={"selection_share": 0.0, "confirmation_share": both})


def _known(cycle: Cycle, first: Mapping[str, float]) -> Roll:
    voted = cycle.voted
    return Roll(since=voted.since, settled=_settled(voted, first, voted.since), settings=cycle.config.evaluate)


def _enough(cases: Sequence[evaluate.Case], settings: EvaluateSettings, tests: int, least_power: float) -> bool:
    """Whether the cases can decide something."""
    asked = corrected(settings, tests)
    strict = asked.model_copy(update={"min_power": max(least_power, asked.min_power)})
    return evaluate.too_few(voters(cases), len(cases), strict, right_already(cases)) is None


def since_proof(cycle: Cycle, group: Cluster, cases: Cases) -> tuple[Cases, Cases]:
    """Of a cluster's confirming cases what a candidate is proven on, new since the last proof, and the rest.

    All of them where nothing serves yet, or where what is new could not show a good candidate at GOOD_POWER. What was
    asked before finds the next candidate mostly as good as what it proved, so it would drown what is new. Sizes alone
    decide, so no result can.
    """
    items = [cycle.board.get(Interaction, case.interaction_id) for case in cases]
    new = {item.id for item in _newer(cycle, group, items)}
    newer = tuple(case for case in cases if case.interaction_id in new)
    if not _enough(newer, roll(cycle).settings, len(cycle.board.all(Cluster)), GOOD_POWER):
        return cases, ()
    return newer, tuple(case for case in cases if case.interaction_id not in new)


def _newer(cycle: Cycle, group: Cluster, items: Sequence[Interaction]) -> Sequence[Interaction]:
    """What of a cluster was asked since what serves it was proven; all where nothing does. The paper tests on all."""
    if cycle.config.evaluate.rule == "rate" or group.name not in cycle.voted.proofs:
        return items
    return [item for item in items if item.at > cycle.voted.proofs[group.name]]


def _wider(least: Roll, wanted: Mapping[str, str]) -> Iterator[Roll]:
    """The same with more and more new users who confirm."""
    yield least
    share = least.settings.confirmation_share
    most = min(least.settings.most_confirmation, 1 - least.settings.selection_share - STEP)
    while (share := round(share + STEP, 4)) <= most:
        settings = least.settings.model_copy(update={"confirmation_share": share})
        yield _drawn(replace(least, settings=settings), wanted)


def settled(cycle: Cycle, until: float) -> Voted:
    """What later cycles have to know; `until`: the last log that this one knew. Where nothing was tried nobody has a
    side yet.
    """
    who, epochs = roll(cycle), cycle.voted.epochs
    tried = any(found.win_rate is not None for found in cycle.board.all(Evaluation)) or cycle.board.all(Adapter)
    if tried and until > (epochs[-1][0] if epochs else 0.0):
        shares = Shares(who.settings.selection_share, who.settings.confirmation_share, who.draw)
        same = bool(epochs) and epochs[-1][1] == shares
        epochs = (*(epochs[:-1] if same else epochs), (until, shares))
    return replace(cycle.voted, epochs=epochs, since=who.since)


def _settled(voted: Voted, first: Mapping[str, float], since: float) -> dict[str, Shares]:
    """The shares of those who came in earlier cycles."""
    return {unit: found for unit, at in first.items() if (found := _shares(voted, at, since)) is not None}


def _shares(voted: Voted, at: float, since: float) -> Shares | None:
    return TRAINS if since and at <= since else next((shares for until, shares in voted.epochs if at <= until), None)


def _first_seen(cycle: Cycle) -> dict[str, float]:
    """User, else session, else interaction -> time: also of those whose lessons are all that is still read of them."""
    first: dict[str, float] = {}
    for item in (*cycle.board.all(Interaction), *cycle.aged.values()):
        unit = unit_of(item.user, item.session, item.id)
        first[unit] = min(item.at, first.get(unit, item.at))
    return first


def _split(items: Sequence[Interaction], who: Roll) -> Split:
    return split(items, who.settings, SPLIT_SALT, who.settled, who.draw)


def voters(cases: Iterable[evaluate.Case]) -> int:
    """How many votes the cases bring."""
    return len({case.user or case.interaction_id for case in cases})


def right_already(cases: Sequence[evaluate.Case]) -> float:
    """Share of the voters, 0..1, who liked all that they were answered: no candidate can do more than tie there."""
    unmet = {case.user or case.interaction_id for case in cases if not case.liked}
    return 1 - len(unmet) / voters(cases) if cases else 0.0


def corrected(settings: EvaluateSettings, tests: int) -> EvaluateSettings:
    """The gate for each of several tests: together they may pass by chance as often as one alone (Bonferroni)."""
    if tests < 2 or settings.rule == "rate":  # the paper's rule asks for no bound
        return settings
    return settings.model_copy(update={"confidence": round(1 - (1 - settings.confidence) / tests, 6)})


def cases_of(cycle: Cycle, items: Iterable[Interaction]) -> tuple[evaluate.Case, ...]:
    """Held-out interactions with a known right answer, the user's own or the one they praised; with a teacher also
    those with rules, by which it can judge.
    """
    rules_of = rules_by_interaction(cycle) if cycle.tools.teacher is not None else {}
    wanted, own = _references(cycle), _own(cycle)
    cases = []
    for item in items:
        reference, rules = wanted.get(item.id), rules_of.get(item.id, ())
        if reference or rules:
            cases.append(
                evaluate.Case(
                    interaction_id=item.id,
                    user=item.user or item.session,
                    prompt=prompt_of(item),
                    reference=reference,
                    baseline_answer="",
                    candidate_answer="",
                    rules="\n".join(f"- {rule.text}" for rule in rules),
                    praised=item.id not in own,
                )
            )
    return tuple(cases)


def _references(cycle: Cycle) -> dict[str, str]:
    """Interaction id -> the answer its user gave or praised; answers that models wrote are no yardstick for models."""
    by_item = signals_of(cycle)
    praised = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches == "positive"}
    found = {name: cycle.board.get(Interaction, name).answer for name in praised if by_item.get(name)}
    return found | _own(cycle)


def _own(cycle: Cycle) -> dict[str, str]:
    """Interaction id -> the right answer in its user's own words."""
    pairs = cycle.board.all(PreferencePair)
    return {pair.interaction_id: pair.chosen for pair in pairs if pair.origin in pairing.USERS_OWN}
