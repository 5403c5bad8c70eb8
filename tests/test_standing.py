"""On how many users a rule rests, and what becomes of rules that contradict each other."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from logtune.config_trust import TrustSettings
from logtune.ids import identified
from logtune.records import Rule, RuleState, Standing
from logtune.stages.standing import REASONS, Evidence, of_rules
from logtune.stages.trust import Doubt, Weighed

SETTINGS = TrustSettings()


def rule(text: str, *interactions: str, state: RuleState = "active") -> Rule:
    return identified(Rule(
        id="", text=text, interaction_ids=interactions, signal_ids=(), from_feedback=True, covered=None,
        distinct_users=0, state=state, merged_from=tuple(f"part-{name}" for name in interactions),
    ))  # fmt: skip


def judged(
    rules: Sequence[Rule], users: Mapping[str, str], doubts: Mapping[str, Doubt] | None = None,
    repeats: Sequence[str] = (), reliability: Mapping[str, float] | None = None,
    axes: Mapping[str, int] | None = None, settings: TrustSettings = SETTINGS,
) -> dict[str, Standing]:  # fmt: skip
    """Rule text -> its standing; `axes`: interaction -> kind of request."""
    names = list(dict.fromkeys(name for one in rules for name in one.interaction_ids))
    vectors = np.eye(4, dtype=np.float32)[[(axes or {}).get(name, 0) for name in names]]
    evidence = Evidence(
        users=users, weighed=Weighed(doubts or {}, reliability or {}, {}, {}), repeats=frozenset(repeats),
        requests={name: row for row, name in enumerate(names)}, vectors=vectors,
    )  # fmt: skip
    texts = {one.id: one.text for one in rules}
    return {texts[found.lesson_id]: found for found in of_rules(rules, evidence, settings)}


def test_distinct_users_count_and_neither_the_doubted_nor_the_repeats_of_a_burst() -> None:
    users = {"a": "ann", "b": "ann", "c": "bob", "d": "cy", "e": "dan"}
    found = judged([rule("be kind", *users)], users, {"d": Doubt("brigade", {})}, repeats=["e"])["be kind"]
    assert (found.state, found.reason, found.users) == ("trusted", "trusted", 2)
    assert found.scores["largest_share"] == 0.4


def test_a_rule_of_people_who_are_all_held_back_is_held() -> None:
    found = judged([rule("be kind", "a")], {"a": "ann"}, {"a": Doubt("brigade", {})})["be kind"]
    assert (found.state, found.reason, found.users) == ("held", "nobody", 0)


def test_too_few_users() -> None:
    users = {"a": "ann", "b": "ann"}
    few = TrustSettings(min_users_trained=2)
    assert judged([rule("be kind", *users)], users, settings=few)["be kind"].reason == "too_few_users"
    assert judged([rule("be kind", *users, state="pinned")], users, settings=few)["be kind"].state == "trusted"


@pytest.mark.parametrize("state", ["vetoed", "expired"])
def test_what_an_operator_ended_is_held(state: RuleState) -> None:
    found = judged([rule("be kind", "a", state=state)], {"a": "ann"})["be kind"]
    assert (found.state, found.reason) == ("held", state)


def opposed(short: int, long: int, **more: object) -> dict[str, Standing]:
    users = {f"s{n}": f"s{n}" for n in range(short)} | {f"l{n}": f"l{n}" for n in range(long)}
    rules = [rule("be short", *(f"s{n}" for n in range(short))), rule("more detail", *(f"l{n}" for n in range(long)))]
    return judged(rules, users, **more)  # type: ignore[arg-type]


def test_of_two_opposed_rules_the_one_with_clearly_more_behind_it_wins() -> None:
    found = opposed(6, 2)
    assert (found["be short"].state, found["more detail"].reason) == ("trusted", "outvoted")


def test_opposed_rules_with_about_as_much_behind_them_both_wait() -> None:
    found = opposed(3, 3)
    assert {one.reason for one in found.values()} == {"contested"}
    assert {one.reason for one in opposed(1, 1).values()} == {"contested"}


def test_reliable_users_count_more() -> None:
    found = opposed(3, 3, reliability={"s0": 0.95, "s1": 0.95, "s2": 0.95, "l0": 0.55, "l1": 0.55, "l2": 0.55})
    assert (found["be short"].state, found["more detail"].reason) == ("trusted", "outvoted")


def test_rules_for_requests_of_different_kinds_contradict_nobody() -> None:
    axes = {f"l{n}": 1 for n in range(3)}
    assert {one.state for one in opposed(3, 3, axes=axes).values()} == {"trusted"}


def test_a_pinned_rule_wins_whatever_is_behind_it() -> None:
    users = {"a": "a", "b": "b", "c": "c", "d": "d"}
    rules = [rule("be short", "a", state="pinned"), rule("more detail", "b", "c", "d")]
    found = judged(rules, users)
    assert (found["be short"].reason, found["more detail"].reason) == ("pinned", "outvoted")


def test_every_reason_is_explained() -> None:
    assert all(text.endswith(".") for text in REASONS.values())
