"""The sides of the gate in a cycle: who teaches, who chooses, who confirms, and what the held-out ones are asked.

cycle, Interaction* -> Split, Case*

Test, then train: whose votes have proven what serves trains from the next cycle on, where enough new users can vote.
(Known from data streams as prequential evaluation, Dawid 1984: each case is tested before it is learned.)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from logtune.config import EvaluateSettings
from logtune.records import Cluster, Decision, Interaction, PreferencePair
from logtune.runner import Cycle
from logtune.served import SHARES
from logtune.stages import evaluate
from logtune.stages import pairs as pairing
from logtune.stages.held_out import Split, split
from logtune.statistics import unit_of
from logtune.views import prompt_of, rules_by_interaction, signals_of

STEP = 0.05  # by which the share of users who confirm grows
SPLIT_SALT = "logtune-gate"  # fixed: a user who is new is on the same side in every cycle
GOOD_POWER = 0.8  # chance to prove a good candidate with new users alone, from which on the earlier voters train


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """Who may vote in a cycle."""

    since: float  # users seen by then have no vote: they train
    taught: frozenset[str]  # those users, else sessions, else interactions
    settings: EvaluateSettings  # with the shares of the others that are held out


def sides_of(cycle: Cycle, items: Sequence[Interaction]) -> Split:
    """The sides of interactions."""
    return _split(items, roll(cycle))


def roll(cycle: Cycle) -> Roll:
    """Who may vote, settled once a cycle.

    Who had a vote when something was last proven trains, if for every cluster that could be decided with all voters new
    users are enough at GOOD_POWER: a service whose users are always the same goes on with those it has. Where too few
    confirm for that, or for any decision, more of the new ones do, up to `most_confirmation`. Who trains never votes
    again, and who has confirmed since the last proof does not train.
    """
    if "roll" not in cycle.kept:
        cycle.kept["roll"] = _roll(cycle)
    found = cycle.kept["roll"]
    assert isinstance(found, Roll)
    return found


def _roll(cycle: Cycle) -> Roll:
    settings, voted = cycle.config.evaluate, cycle.voted
    groups = [[cycle.board.get(Interaction, name) for name in g.interaction_ids] for g in cycle.board.all(Cluster)]
    votes = {case.interaction_id: case for case in cases_of(cycle, chain.from_iterable(groups))}

    def decided(items: Sequence[Interaction], who: Roll, tests: int, least_power: float = 0.0) -> bool:
        cases = [votes[item.id] for item in _split(items, who).confirmation if item.id in votes]
        asked = corrected(who.settings, tests)
        strict = asked.model_copy(update={"min_power": max(least_power, asked.min_power)})
        return evaluate.too_few(voters(cases), len(cases), strict) is None

    known = Roll(since=voted.since, taught=_seen_by(cycle, voted.since), settings=_held(settings, voted.shares))
    if settings.test_then_train and voted.proven > voted.since:
        could = [items for items in groups if decided(items, known, len(groups))]
        taught, least = _seen_by(cycle, voted.proven), _held(settings, voted.since_proof)
        for fresh in _wider(Roll(since=voted.proven, taught=taught, settings=least)):
            if could and all(decided(items, fresh, len(groups), GOOD_POWER) for items in could):
                return fresh
    return next((wide for wide in _wider(known) if any(decided(items, wide, 1) for items in groups)), known)


def _wider(least: Roll) -> Iterator[Roll]:
    """The same with more and more users who confirm."""
    yield least
    share = least.settings.confirmation_share
    most = min(least.settings.most_confirmation, 1 - least.settings.selection_share - STEP)
    while (share := round(share + STEP, 4)) <= most:
        yield replace(least, settings=least.settings.model_copy(update={"confirmation_share": share}))


def _held(settings: EvaluateSettings, shares: Mapping[str, float]) -> EvaluateSettings:
    """With no smaller shares than those."""
    return settings.model_copy(update={name: max(getattr(settings, name), shares.get(name, 0.0)) for name in SHARES})


def _split(items: Sequence[Interaction], who: Roll) -> Split:
    return split(items, who.settings, SPLIT_SALT, who.taught)


def _seen_by(cycle: Cycle, at: float) -> frozenset[str]:
    """Users, else sessions, else interactions: also those whose lessons are all that is still read of them."""
    seen = (*cycle.board.all(Interaction), *cycle.aged.values()) if at else ()
    return frozenset(unit_of(item.user, item.session, item.id) for item in seen if item.at <= at)


def voters(cases: Iterable[evaluate.Case]) -> int:
    """How many votes the cases bring."""
    return len({case.user or case.interaction_id for case in cases})


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
