"""The gap by hand: the minimum over a log's rules, the mean over the logs, and what it routes to."""

import pytest

from logtune.config import GapSettings
from logtune.records import Cluster, PreferencePair, Rule
from logtune.stages.gap import assess


class Table:
    """Coverage by a table: what is not in it is not covered."""

    fingerprint = "table"

    def __init__(self, known: dict[str, float]) -> None:
        self.known = known

    def covered(self, rule: str, known: object) -> float:
        return self.known.get(rule, 0.0) if known else 0.0


def rule(text: str) -> Rule:
    return Rule(
        id=f"rule-{text}", text=text, interaction_ids=("a",), signal_ids=(), from_feedback=True, covered=None,
        distinct_users=1,
    )  # fmt: skip


def pair(number: int, origin: str) -> PreferencePair:
    return PreferencePair(
        id=f"pair-{number}", interaction_id="a", rule_ids=(), prompt=(), chosen="x", rejected="y", margin=None,
        origin="edit" if origin == "edit" else "revised",
    )  # fmt: skip


CLUSTER = Cluster(id="clu-1", interaction_ids=("a", "b", "c"), centroids=(), radius=0.0, label="")
RULES = {"a": [rule("r1"), rule("r2")], "b": [rule("r3")]}
KNOWN = {"a": ["k"], "b": ["k"]}


def test_minimum_over_rules_then_mean_over_logs() -> None:
    # a: min(1 - 0.9, 1 - 0.2) = 0.1; b: 1 - 0.3 = 0.7; c has no rule; mean 0.4
    found = assess(CLUSTER, RULES, KNOWN, (), Table({"r1": 0.9, "r2": 0.2, "r3": 0.3}), GapSettings())
    assert found.novelty == pytest.approx(0.4)
    assert (found.route, found.method) == ("primary", "table")
    assert found.rule_ids == ("rule-r1", "rule-r2", "rule-r3")


@pytest.mark.parametrize(("covered", "route"), [(0.55, "reflective"), (0.56, "primary")])
def test_the_threshold_of_the_paper(covered: float, route: str) -> None:
    found = assess(CLUSTER, {"a": [rule("r1")]}, KNOWN, (), Table({"r1": covered}), GapSettings())
    assert found.route == route


def test_users_own_answers_are_primary_whatever_the_gap() -> None:
    pairs = [pair(1, "edit"), pair(2, "edit"), pair(3, "revised")]
    found = assess(CLUSTER, RULES, KNOWN, pairs, Table({}), GapSettings())
    assert (found.novelty, found.route) == (1.0, "primary")
    assert found.reason.startswith("67% of the better answers are the users' own")
    assert assess(CLUSTER, RULES, KNOWN, pairs[2:], Table({}), GapSettings()).route == "reflective"


def test_without_rules_there_is_nothing_to_measure() -> None:
    found = assess(CLUSTER, {}, {}, (), Table({}), GapSettings())
    assert (found.novelty, found.route, found.reason) == (None, "primary", "no rules to measure")
