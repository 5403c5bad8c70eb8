"""The gap by hand: the minimum over a log's rules, the mean over the logs, and what it routes to."""

from dataclasses import replace

import pytest

from logtune.config import GapSettings
from logtune.ports import Example
from logtune.records import Cluster, PreferencePair, Rule
from logtune.stages.gap import assess


class Table:
    """Coverage by a table: what is not in it is not covered."""

    fingerprint = "table"
    on_answers = False

    def __init__(self, known: dict[str, float]) -> None:
        self.known = known
        self.asked: list[tuple[str, object]] = []

    def covered(self, rule: str, known: object, example: Example | None = None) -> float:
        assert (example is not None) == self.on_answers
        self.asked.append((rule, known))
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


@pytest.mark.parametrize(
    ("share", "origins", "route"),
    [
        (0.5, ["edit", "revised"], "reflective"),  # above half, not half
        (0.5, ["edit", "edit", "revised"], "primary"),
        (1.0, ["edit"], "reflective"),  # the paper knows no such exception
        (0.0, ["edit", "revised", "revised"], "primary"),
        (0.0, ["revised"], "reflective"),
        (0.0, [], "reflective"),
    ],
)
def test_the_share_of_users_own_answers(share: float, origins: list[str], route: str) -> None:
    pairs = [pair(number, origin) for number, origin in enumerate(origins)]
    assert assess(CLUSTER, RULES, KNOWN, pairs, Table({}), GapSettings(users_answers=share)).route == route


def test_an_answer_stated_in_words_is_a_users_own() -> None:
    stated = replace(pair(1, "edit"), origin="stated")
    assert assess(CLUSTER, RULES, KNOWN, [stated], Table({}), GapSettings()).route == "primary"


def test_the_same_rule_and_answer_is_measured_once_and_nothing_known_covers_nothing() -> None:
    rules = {name: [rule("r1")] for name in "abc"}
    table = Table({"r1": 1.0})
    found = assess(CLUSTER, rules, {"a": ["k"], "b": ["k"], "c": []}, (), table, GapSettings())
    assert found.novelty == pytest.approx(1 / 3, abs=1e-4)  # 0, 0 and 1 for c, before which nothing was known
    assert table.asked == [("r1", ("k",)), ("r1", ())]
    assert found.rule_ids == ("rule-r1",)


def test_rules_of_other_clusters_do_not_count() -> None:
    found = assess(CLUSTER, {**RULES, "z": [rule("r9")]}, KNOWN, (), Table({"r9": 1.0}), GapSettings())
    assert found.novelty == 1.0
    assert "rule-r9" not in found.rule_ids


def test_without_rules_there_is_nothing_to_measure() -> None:
    found = assess(CLUSTER, {}, {}, (), Table({}), GapSettings())
    assert (found.novelty, found.route, found.reason) == (None, "primary", "no rules to measure")


def test_a_measure_on_answers_reads_each_logs_better_answer_and_leaves_out_the_others() -> None:
    table = Table({"r1": 0.9, "r2": 0.2})
    table.on_answers = True
    found = assess(CLUSTER, RULES, KNOWN, [pair(1, "revised")], table, GapSettings())
    assert found.novelty == pytest.approx(0.1)  # of a alone: b has no pair
    assert [rule for rule, _ in table.asked] == ["r1", "r2"]
    assert assess(CLUSTER, RULES, KNOWN, (), table, GapSettings()).novelty is None


def test_a_log_whose_prediction_failed_is_left_out() -> None:
    found = assess(CLUSTER, RULES, {"a": ["k"]}, (), Table({"r1": 0.8, "r2": 0.2, "r3": 0.3}), GapSettings())
    assert found.novelty == pytest.approx(0.2)  # of a alone
    assert found.rule_ids == ("rule-r1", "rule-r2", "rule-r3")
