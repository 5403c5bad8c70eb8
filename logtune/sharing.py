"""Answers for complaints that name none, from those of other users: cycle, who teaches -> PreferencePair*.

Only users without a vote give and are given answers. Who that is settles after pairs are made, so it is asked twice: a
pair trains if those who teach in the end give the same answer (`Shared.trains`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from logtune import sides
from logtune.records import Decision, Interaction, PreferencePair, Rule
from logtune.runner import Cycle
from logtune.stages import pairs as pairing
from logtune.stages.propagated import Named
from logtune.views import ended, teaching, users_of


@dataclass(frozen=True, slots=True)
class Shared:
    """What those who teach in a cycle give each other."""

    answers: frozenset[tuple[str, str]]  # (interaction, answer in its plain form)

    def trains(self, pair: PreferencePair) -> bool:
        """Whether no voter's word is needed for it."""
        return pair.origin != "propagated" or _given(pair) in self.answers


def shared(cycle: Cycle) -> Shared:
    """With the final sides; worked out once a cycle."""
    if "shared" not in cycle.kept:
        on = cycle.config.pairs.propagate
        found = pairs(cycle, sides.sides_of(cycle, teaching(cycle)).train) if on else []
        cycle.kept["shared"] = Shared(frozenset(_given(pair) for _, pair in found))
    kept = cycle.kept["shared"]
    assert isinstance(kept, Shared)
    return kept


def pairs(cycle: Cycle, learners: Sequence[Interaction]) -> list[tuple[Interaction, PreferencePair]]:
    """A pair each complaint of theirs that names no answer, where others' answers tell for sure which one is meant."""
    own, over, users = own_rules(cycle), ended(cycle), users_of(cycle)
    by_item = {p.interaction_id: p for p in cycle.board.all(PreferencePair) if p.origin != "propagated"}
    told = [i for i in learners if i.id in by_item and own.get(i.id) and _short(by_item[i.id])]
    unhappy = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches == "rule"}
    asked = [i for i in learners if i.id in unhappy and i.id not in by_item and i.id not in over]
    vectors = cycle.tools.embedder.embed([item.query for item in (*asked, *told)])
    answers = [pairing.plain(by_item[i.id].chosen) for i in told]
    named = Named(vectors[len(asked) :], answers, [users[i.id] for i in told])
    found = []
    for item, vector in zip(asked, vectors, strict=False):
        rows = named.meant(vector, users[item.id], pairing.plain(item.answer))
        rules = [rule for row in rows for rule in own[told[row].id]]
        better = by_item[told[rows[0]].id].chosen if rows else ""
        pair = pairing.build(item, rules, better, item.answer, "propagated")
        if pair is not None:
            found.append((item, pair))
    return found


def own_rules(cycle: Cycle) -> dict[str, list[Rule]]:
    """Interaction id -> the rules that its own feedback gave, before they were merged with others'.

    Pairs name these, since what they are merged into is another record as soon as one more user says the same.
    """
    found: dict[str, list[Rule]] = defaultdict(list)
    for rule in cycle.board.all(Rule):
        if not rule.merged_from:
            for member in rule.interaction_ids:
                found[member].append(rule)
    return found


def _given(pair: PreferencePair) -> tuple[str, str]:
    return pair.interaction_id, pairing.plain(pair.chosen)


def _short(pair: PreferencePair) -> bool:
    """Whether it has an answer in its user's own words that others could give too."""
    return pair.origin in pairing.USERS_OWN and pairing.is_short(pair.chosen)
