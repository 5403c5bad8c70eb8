"""The two rows of trust: whose words hold, before clusters are made of them; and how much one user may teach a cluster.

A unit names in its inputs every id its result depends on; the runner skips those it has seen. No row writes anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from logtune.ports import Vectors
from logtune.records import Cluster, Decision, Derived, Interaction, PreferencePair, Rule
from logtune.runner import Cycle, Unit
from logtune.stages import caps, standing, trust
from logtune.stages import pairs as pairing
from logtune.views import given, pairs_of, rules_by_interaction, signals_of, teaching, users_of

NOBODY = "(no user named)"


def weigh(cycle: Cycle) -> Iterator[Unit]:
    """One unit: whose word holds depends on what all others say."""
    rules = [rule for rule in cycle.board.all(Rule) if rule.merged_from]
    items = teaching(cycle)
    if not items or not cycle.config.trust.enabled:
        return

    async def work() -> Sequence[Derived]:
        return _standings(cycle, items, rules)

    inputs = (i.id for i in items), (r.id for r in rules), (p.id for p in cycle.board.all(PreferencePair))
    yield Unit((*(name for ids in inputs for name in ids), cycle.tools.embedder.fingerprint), work)


def _standings(cycle: Cycle, items: Sequence[Interaction], rules: Sequence[Rule]) -> Sequence[Derived]:
    settings, users = cycle.config.trust, people(cycle)
    vectors = cycle.tools.embedder.embed([item.query for item in items])
    rows = {item.id: row for row, item in enumerate(items)}
    claims = _claims(cycle, items, users)
    weighed = trust.weigh(claims, vectors[[rows[claim.id] for claim in claims]], settings)
    weighed = replace(weighed, doubts={**_others(items, users, weighed), **weighed.doubts})
    evidence = standing.Evidence(
        users=users, weighed=weighed, repeats=_repeats(cycle, items, vectors), requests=rows, vectors=vectors
    )
    return [*standing.held(weighed.doubts), *standing.of_rules(rules, evidence, settings)]


def _claims(cycle: Cycle, items: Sequence[Interaction], users: Mapping[str, str]) -> list[trust.Claim]:
    """What users said is right, in their own words or by praise, and so short that others could say the same."""
    said = {p.interaction_id: p.chosen for p in cycle.board.all(PreferencePair) if p.origin in pairing.USERS_OWN}
    praised = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches == "positive"}
    found = []
    for item in items:
        answer = said.get(item.id) or (item.answer if item.id in praised else "")
        if answer and pairing.is_short(answer):
            plain = pairing.plain(answer)
            found.append(trust.Claim(id=item.id, user=users[item.id], answer=plain, at=item.at))
    return found


def people(cycle: Cycle) -> dict[str, str]:
    """Interaction id -> who counts as one person.

    Where most requests name their user, those that name none are one person together: anybody may open as many sessions
    as they like. Where hardly any does, a session stands for a user.
    """
    items = cycle.board.all(Interaction)
    named = sum(item.user is not None for item in items)
    if 2 * named <= len(items):
        return users_of(cycle)
    return {item.id: item.user or NOBODY for item in items}


def _others(items: Sequence[Interaction], users: Mapping[str, str], weighed: trust.Weighed) -> dict[str, trust.Doubt]:
    """What else those say who are not believed: words that cannot be compared with others' are held back too."""
    return {item.id: weighed.unbelieved[users[item.id]] for item in items if users[item.id] in weighed.unbelieved}


def _repeats(cycle: Cycle, items: Sequence[Interaction], vectors: Vectors) -> frozenset[str]:
    """Interactions whose words others had said minutes before about nearly the same request."""
    said = signals_of(cycle)
    users = people(cycle)
    claims = [
        trust.Claim(
            id=i.id, user=users[i.id], answer="", at=i.at, words=" ".join(s.evidence for s in said.get(i.id, ()))
        )
        for i in items
    ]
    bursts = trust.bursts(claims, vectors, cycle.config.trust)
    return frozenset(claims[row].id for row, first in enumerate(bursts) if first not in (-1, row))


def cap(cycle: Cycle) -> Iterator[Unit]:
    """A unit of what is in no cluster; then one a cluster: pairs beyond what one user may teach it."""
    if not cycle.config.trust.enabled:
        return
    if left := _in_no_cluster(cycle):
        yield Unit(tuple(left), given(standing.left_out(left, "stranger")))
    users = people(cycle)
    for group in cycle.board.all(Cluster):
        pairs = pairs_of(cycle, group)

        async def work(pairs: Sequence[PreferencePair] = pairs) -> Sequence[Derived]:
            owners = {pair.id: users[pair.interaction_id] for pair in pairs}
            said_at = {pair.id: cycle.board.get(Interaction, pair.interaction_id).at for pair in pairs}
            return standing.left_out(sorted(caps.over_cap(owners, said_at, cycle.config.trust)), "over_cap")

        yield Unit((group.id, *(pair.id for pair in pairs)), work)


def _in_no_cluster(cycle: Cycle) -> list[str]:
    """Interactions with a rule or a pair that the clusters left out."""
    placed = {member for group in cycle.board.all(Cluster) for member in group.interaction_ids}
    taught = {pair.interaction_id for pair in cycle.board.all(PreferencePair)} | set(rules_by_interaction(cycle))
    return sorted(item.id for item in teaching(cycle) if item.id in taught and item.id not in placed)
