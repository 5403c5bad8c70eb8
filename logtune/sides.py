"""The sides of the gate in a cycle: who teaches, who chooses, who confirms, and what the held-out ones are asked.

cycle, Interaction* -> Split, Case*

Test, then train: whose votes have proven what serves trains from the next cycle on, where enough new users can vote.
(Known from data streams as prequential evaluation, Dawid 1984: each case is tested before it is learned.)
"""

from collections.abc import Iterable, Mapping, Sequence

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


def sides_of(cycle: Cycle, items: Sequence[Interaction]) -> Split:
    """The sides of interactions; who was seen by `voters_since` trains, whatever side they were on."""
    if "taught" not in cycle.kept:
        cycle.kept["taught"] = _seen_by(cycle, voters_since(cycle))
    taught = cycle.kept["taught"]
    assert isinstance(taught, frozenset)
    return _split(cycle, items, taught, shares(cycle))


def shares(cycle: Cycle) -> Mapping[str, float]:
    """`selection_share` and `confirmation_share` of this cycle.

    Where so few confirm that no cluster can be decided, more do, up to `most_confirmation`, until one can be. Who has
    confirmed since something was last proven does not train: shares never fall below those of the cycles since.
    """
    if "shares" not in cycle.kept:
        cycle.kept["shares"] = _shares(cycle)
    found = cycle.kept["shares"]
    assert isinstance(found, dict)
    return found


def _shares(cycle: Cycle) -> dict[str, float]:
    settings, moved = cycle.config.evaluate, voters_since(cycle) > cycle.voted.since
    least = _least(settings, cycle.voted.since_proof if moved else cycle.voted.shares)
    taught = _seen_by(cycle, voters_since(cycle))
    groups = [_members(cycle, group) for group in cycle.board.all(Cluster)]
    share, most = least["confirmation_share"], min(settings.most_confirmation, 1 - least["selection_share"] - STEP)
    while groups and share <= most + 1e-9:
        wider = {**least, "confirmation_share": round(share, 4)}
        if any(_decided(cycle, items, taught, settings, wider) for items in groups):
            return wider
        share += STEP
    return least


def _least(settings: EvaluateSettings, held: Mapping[str, float]) -> dict[str, float]:
    return {name: max(getattr(settings, name), held.get(name, 0.0)) for name in SHARES}


def _members(cycle: Cycle, group: Cluster) -> list[Interaction]:
    return [cycle.board.get(Interaction, member) for member in group.interaction_ids]


def voters_since(cycle: Cycle) -> float:
    """Users seen by this time have no vote: they train.

    It never goes back, and on to the last log that the last proof knew only where all clusters that can be decided stay
    so with new users alone, at GOOD_POWER: a service whose users are always the same goes on with those it has.
    """
    if "voters_since" not in cycle.kept:
        cycle.kept["voters_since"] = _voters_since(cycle)
    found = cycle.kept["voters_since"]
    assert isinstance(found, float)
    return found


def _voters_since(cycle: Cycle) -> float:
    before, proven = cycle.voted.since, cycle.voted.proven
    groups = cycle.board.all(Cluster)
    if not cycle.config.evaluate.test_then_train or proven <= before or not groups:
        return before
    settings = corrected(cycle.config.evaluate, len(groups))
    strict = settings.model_copy(update={"min_power": max(GOOD_POWER, settings.min_power)})
    old, new = _seen_by(cycle, before), _seen_by(cycle, proven)
    all_shares, new_shares = _least(settings, cycle.voted.shares), _least(settings, cycle.voted.since_proof)
    for group in groups:
        items = _members(cycle, group)
        could = _decided(cycle, items, old, settings, all_shares)
        if could and not _decided(cycle, items, new, strict, new_shares):
            return before
    return proven


def _decided(
    cycle: Cycle, items: Sequence[Interaction], taught: frozenset[str], settings: EvaluateSettings,
    shares: Mapping[str, float],
) -> bool:  # fmt: skip
    cases = cases_of(cycle, _split(cycle, items, taught, shares).confirmation)
    return evaluate.too_few(voters(cases), len(cases), settings) is None


def _split(cycle: Cycle, items: Sequence[Interaction], taught: frozenset[str], shares: Mapping[str, float]) -> Split:
    return split(items, cycle.config.evaluate.model_copy(update=dict(shares)), SPLIT_SALT, taught)


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
