"""Cluster, Rule* -> Gap: how far a cluster's lessons are from what the model knows, and which adapter that asks for.

Gap of a rule = 1 - coverage of the rule by what the model knew beforehand; per log the minimum over its rules, per
cluster the mean over its logs; >= 0.45 is reflective (paper, section 3.3). What it knew: the rules predicted without
feedback where a teacher wrote them, else the answer it gave. A coverage that is measured on answers reads the better
answer of each log instead; logs without one are left out.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean

from logtune.config import GapSettings
from logtune.ids import identified
from logtune.ports import Coverage, Example
from logtune.records import Cluster, Gap, PreferencePair, Route, Rule
from logtune.stages.pairs import USERS_OWN


def assess(
    cluster: Cluster, rules_of: Mapping[str, Sequence[Rule]], known_of: Mapping[str, Sequence[str]],
    pairs: Sequence[PreferencePair], coverage: Coverage, settings: GapSettings,
) -> Gap:  # fmt: skip
    """`rules_of`, `known_of`: interaction id -> its rules, what the model knew; `pairs`: those of the cluster.

    A log of which it is not known what the model knew says nothing about the gap.
    """
    examples = {pair.interaction_id: Example(prompt=pair.prompt, better=pair.chosen) for pair in pairs}

    @cache  # many logs share a rule and an answer, and each measure is a pass of a model
    def gap_of(rule: str, known: tuple[str, ...], example: Example | None) -> float:
        return 1 - coverage.covered(rule, known, example)

    gaps = [
        min(
            gap_of(rule.text, tuple(known_of[member]), examples[member] if coverage.on_answers else None)
            for rule in rules_of[member]
        )
        for member in cluster.interaction_ids
        if rules_of.get(member) and member in known_of and (member in examples or not coverage.on_answers)
    ]
    novelty = round(fmean(gaps), 4) if gaps else None
    route, reason = _route(novelty, pairs, settings)
    rule_ids = dict.fromkeys(rule.id for member in cluster.interaction_ids for rule in rules_of.get(member, ()))
    return identified(
        Gap(
            id="", cluster_id=cluster.id, rule_ids=tuple(rule_ids), novelty=novelty, method=coverage.fingerprint,
            route=route, reason=reason,
        )
    )  # fmt: skip


def _route(novelty: float | None, pairs: Sequence[PreferencePair], settings: GapSettings) -> tuple[Route, str]:
    own = sum(pair.origin in USERS_OWN for pair in pairs) / len(pairs) if pairs else 0.0
    measured = (
        "no rules to measure" if novelty is None else f"novelty {novelty:.2f}, threshold {settings.reflect_at:.2f}"
    )
    if own > settings.users_answers:
        # the gap guards against answers that the model itself could not judge; users' own answers need no such guard
        return "primary", f"{own:.0%} of the better answers are the users' own; {measured}"
    return route_of(novelty, settings.reflect_at), measured


def route_of(novelty: float | None, reflect_at: float) -> Route:
    """What the measure alone asks for; without one, an expert."""
    return "reflective" if novelty is not None and novelty >= reflect_at else "primary"
