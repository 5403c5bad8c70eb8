"""The plan, the way back, and the adapter budget."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.errors import InputError
from logtune.ids import identified
from logtune.records import Adapter, Cluster, Deployment, Verdict
from logtune.stages import plan as planning
from logtune.stages.budget import Limits
from logtune.stages.deploy import live_adapters, live_share, rollback, share

BASE_PARAMETERS = 100_000_000


def cluster(name: str, cycle: int = 1) -> Cluster:
    return identified(
        Cluster(id="", interaction_ids=(f"int-{cycle}",), centroids=((1.0,),), radius=0.5, label=name, name=name)
    )


def adapter(name: str, parameters: int = 200_000, kind="expert") -> Adapter:
    return Adapter(
        id=name, cluster_id="clu", pair_ids=(), kind=kind, base="base", rank=2, parameters=parameters, path=name,
        sha256=name, losses=(), checks={}, epoch=1,
    )  # fmt: skip


def verdict(
    of: Cluster, adapter_id: str | None, decision="promote", lower: float = 0.2, kind: str | None = "expert"
) -> Verdict:
    arms = {"candidate": {"kind": kind}} if kind else {}
    return identified(
        Verdict(
            id="", cluster_id=of.id, evaluation_id="eval-1", adapter_id=adapter_id, arms=arms, effect=lower + 0.1,
            lower=lower, upper=lower + 0.2, decision=decision, reason=f"{decision} it",
        )
    )  # fmt: skip


def plan(
    verdicts, clusters, current, adapters, now, *, base_parameters=None, budget=0.005, worth=(), moved=(), live=(),
    leaving=(),
) -> list[Deployment]:  # fmt: skip
    """The plan of `planning.plan`, with what is told a cycle written shortly."""
    limits = Limits(base_parameters=base_parameters, budget=budget, worth=dict(worth)) if base_parameters else None
    known = {each.id: each for each in adapters}
    at = planning.Serving(
        current=current, adapters=known, now=now, limits=limits, moved=dict(moved), live=dict(live),
        leaving=dict(leaving),
    )  # fmt: skip
    return planning.plan(verdicts, clusters, at)


class Store:
    """Deployments as a store would keep them."""

    def __init__(self) -> None:
        self.rows: list[Deployment] = []
        self.now = 0.0

    @property
    def current(self) -> dict[str, Deployment]:
        return {row.cluster_name: row for row in self.rows}

    def apply(self, rows: list[Deployment]) -> list[Deployment]:
        assert not {row.id for row in rows} & {row.id for row in self.rows}, "an id was used twice"
        self.rows.extend(rows)
        return rows

    def plan(self, verdicts, clusters, adapters, **options) -> list[Deployment]:
        self.now += 1
        return self.apply(plan(verdicts, clusters, self.current, adapters, self.now, **options))

    def rollback(self, name: str) -> Deployment:
        self.now += 1
        return self.apply([rollback(name, self.rows[::-1], self.now, "by hand")])[0]


LIMITS = {"base_parameters": BASE_PARAMETERS, "budget": 0.005}
CARDS, LOANS = cluster("cards"), cluster("loans")
A, B, C = adapter("ada-a"), adapter("ada-b"), adapter("ada-c")


# plan


def test_a_promoted_candidate_deploys():
    (row,) = plan([verdict(CARDS, "ada-a")], [CARDS], {}, [A], 7.0)
    assert (row.cluster_name, row.cluster_id, row.candidate, row.adapter_id) == ("cards", CARDS.id, "expert", "ada-a")
    assert (row.action, row.previous_id, row.reason, row.at) == ("deploy", None, "promote it", 7.0)
    assert row.verdict_id == verdict(CARDS, "ada-a").id


@pytest.mark.parametrize("decision", ["stop", "extend", "rollback"])
def test_other_verdicts_keep_what_serves_and_write_nothing(decision):
    store = Store()
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A])
    assert store.plan([verdict(CARDS, "ada-b", decision)], [CARDS], [A, B]) == []
    assert plan([verdict(CARDS, "ada-b", decision, kind=None)], [CARDS], {}, [A, B], 1.0) == []


def test_what_already_serves_is_not_deployed_again():
    store = Store()
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A])
    assert store.plan([verdict(CARDS, "ada-a")], [CARDS], [A]) == []


def test_a_new_candidate_replaces_and_names_what_it_replaced():
    store = Store()
    first = store.plan([verdict(CARDS, "ada-a")], [CARDS], [A])[0]
    later = cluster("cards", cycle=2)
    second = store.plan([verdict(later, "ada-b")], [later], [A, B])[0]
    assert (second.adapter_id, second.previous_id, second.cluster_id) == ("ada-b", first.id, later.id)
    assert live_adapters(store.current) == ("ada-b",)


def test_the_kind_of_the_candidate():
    critic = adapter("ada-k", kind="critic")
    assert plan([verdict(CARDS, "ada-k", kind=None)], [CARDS], {}, [critic], 1.0)[0].candidate == "critic"
    rules = plan([verdict(CARDS, None, kind="rules")], [CARDS], {}, [], 1.0)[0]
    assert (rules.candidate, rules.adapter_id) == ("rules", None)
    with pytest.raises(InputError, match="does not say what its candidate is"):
        plan([verdict(CARDS, None, kind=None)], [CARDS], {}, [], 1.0)


def test_new_rules_of_a_cluster_replace_its_old_ones():
    store = Store()
    later = cluster("cards", cycle=2)
    assert store.plan([verdict(CARDS, None, kind="rules")], [CARDS], [])
    assert store.plan([verdict(CARDS, None, kind="rules")], [CARDS], []) == []
    assert store.plan([verdict(later, None, kind="rules")], [later], [])[0].cluster_id == later.id
    assert store.rollback("cards").cluster_id == CARDS.id
    assert store.rollback("cards").candidate == "base"


def test_of_two_promoted_candidates_the_surer_deploys():
    both = [
        verdict(CARDS, "ada-a", lower=0.1),
        verdict(CARDS, "ada-b", lower=0.3),
        verdict(CARDS, "ada-c", "stop", 0.9),
    ]
    assert [row.adapter_id for row in plan(both, [CARDS], {}, [A, B, C], 1.0)] == ["ada-b"]


def test_a_cluster_that_is_gone_and_that_nobody_asks_about_retires_once():
    store = Store()
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b")], [CARDS, LOANS], [A, B])
    assert store.plan([], [LOANS], [A, B]) == []  # nobody complains about cards any more
    (row,) = store.plan([], [LOANS], [A, B], leaving={"cards": "nobody asks"})
    assert (row.cluster_name, row.action, row.candidate, row.adapter_id) == ("cards", "retire", "base", None)
    assert row.reason == "cluster 'cards' retires: nobody asks"
    assert store.plan([], [LOANS], [A, B], leaving={"cards": "nobody asks"}) == []
    assert live_adapters(store.current) == ("ada-b",)


def test_a_cycle_without_clusters_retires_nothing():
    store = Store()
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A])
    assert store.plan([], [], [A]) == []


def test_a_rollback_verdict_on_what_serves_brings_the_base_model_back():
    store = Store()
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A])
    (row,) = store.plan([verdict(CARDS, "ada-a", "rollback")], [CARDS], [A])
    assert (row.action, row.candidate, row.adapter_id) == ("rollback", "base", None)
    with pytest.raises(InputError, match="already served by the base model"):
        store.rollback("cards")


def test_a_verdict_on_an_unknown_cluster_is_an_error():
    with pytest.raises(InputError, match=LOANS.id):
        plan([verdict(LOANS, "ada-a")], [CARDS], {}, [A], 1.0)


# budget


def test_share_counts_each_adapter_once():
    assert share([A, B, A], BASE_PARAMETERS) == pytest.approx(0.004)
    assert share([], BASE_PARAMETERS) == 0.0
    with pytest.raises(InputError, match="0 parameters"):
        share([A], 0)


def test_a_deployment_beyond_the_budget_is_refused_with_the_reason():
    store = Store()
    limits = {"base_parameters": BASE_PARAMETERS, "budget": 0.005}
    third = cluster("pins")
    verdicts = [
        verdict(CARDS, "ada-a", lower=0.1),
        verdict(LOANS, "ada-b", lower=0.3),
        verdict(third, "ada-c", lower=0.2),
    ]
    rows = store.plan(verdicts, [CARDS, LOANS, third], [A, B, C], **limits)
    assert [(row.cluster_name, row.action) for row in rows] == [
        ("loans", "deploy"),
        ("pins", "deploy"),
        ("cards", "keep"),
    ]
    assert (rows[2].candidate, rows[2].adapter_id) == ("base", None)
    assert rows[2].reason == "refused: live adapters would be 0.600% of the base model, the budget is 0.500%"
    assert live_share(store.current, {each.id: each for each in (A, B, C)}, BASE_PARAMETERS) == pytest.approx(0.004)


def test_what_a_replacement_or_a_retirement_frees_can_be_used_at_once():
    store = Store()
    limits = {"base_parameters": BASE_PARAMETERS, "budget": 0.005}
    big, small, next_one = adapter("ada-big", 500_000), adapter("ada-small", 100_000), adapter("ada-next", 400_000)
    known = [big, small, next_one]
    store.plan([verdict(CARDS, "ada-big")], [CARDS, LOANS], known, **limits)
    both = [verdict(LOANS, "ada-next", lower=0.5), verdict(CARDS, "ada-small", lower=0.1)]
    assert [row.action for row in store.plan(both, [CARDS, LOANS], known, **limits)] == ["deploy", "deploy"]
    rows = store.plan([verdict(CARDS, "ada-big")], [CARDS], known, **limits, leaving={"loans": "nobody asks"})
    assert [(row.cluster_name, row.action) for row in rows] == [("loans", "retire"), ("cards", "deploy")]


def test_a_refused_replacement_leaves_what_serves_and_can_still_be_rolled_back():
    store = Store()
    limits = {"base_parameters": BASE_PARAMETERS, "budget": 0.005}
    huge = adapter("ada-huge", 600_000)
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A], **limits)
    (kept,) = store.plan([verdict(CARDS, "ada-huge")], [CARDS], [A, huge], **limits)
    assert (kept.action, kept.adapter_id) == ("keep", "ada-a")
    assert store.rollback("cards").candidate == "base"


def test_a_shrinking_replacement_brings_the_budget_back():
    store = Store()
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A])
    smaller = adapter("ada-s", 100_000)
    limits = {"base_parameters": BASE_PARAMETERS, "budget": 0.0015}
    assert [row.action for row in store.plan([verdict(CARDS, "ada-s")], [CARDS], [A, smaller], **limits)] == ["deploy"]


def test_beyond_the_budget_the_least_worth_retires_in_the_next_cycle():
    store, pins = Store(), cluster("pins")
    three = [CARDS, LOANS, pins]
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b"), verdict(pins, "ada-c")], three, [A, B, C])
    lowered = {"base_parameters": BASE_PARAMETERS, "budget": 0.0025}
    worth = {"ada-a": 0.2, "ada-b": 0.1}  # nobody knows of pins: they go last
    rows = store.plan([], three, [A, B, C], **lowered, worth=worth)
    assert [(row.cluster_name, row.action) for row in rows] == [("cards", "retire"), ("loans", "retire")]
    assert rows[1].reason == (
        "live adapters are 0.600% of the base model, the budget is 0.250%; its gain x traffic of 0.100 is the least"
    )
    assert store.plan([], three, [A, B, C], **lowered, worth=worth) == []
    store.plan([], three, [A, B, C], base_parameters=BASE_PARAMETERS, budget=0.0001, worth=worth)
    assert live_adapters(store.current) == ()


def test_what_a_rollback_brought_beyond_the_budget_goes_in_the_next_cycle():
    store = Store()
    small = adapter("ada-small", 100_000)
    big = adapter("ada-big", 450_000)
    store.plan([verdict(CARDS, "ada-big")], [CARDS, LOANS], [big], **LIMITS)
    store.plan([verdict(CARDS, "ada-small")], [CARDS, LOANS], [big, small], **LIMITS)
    store.plan([verdict(LOANS, "ada-b")], [CARDS, LOANS], [small, B], **LIMITS)
    assert store.rollback("cards").adapter_id == "ada-big"
    store.plan([], [CARDS, LOANS], [big, B], **LIMITS, worth={"ada-big": 0.3, "ada-b": 0.1})
    assert live_adapters(store.current) == ("ada-big",)


def test_the_room_of_a_live_test_is_not_given_away():
    """What it takes from its cluster's adapter it will free; only the rest is counted."""
    store, big = Store(), adapter("ada-big", 400_000)
    store.plan([verdict(CARDS, "ada-a")], [CARDS, LOANS], [A], **LIMITS)
    at = planning.Serving(
        current=store.current, adapters={each.id: each for each in (A, B, big)}, now=9.0,
        limits=Limits(base_parameters=BASE_PARAMETERS, budget=0.005, worth={}), tested={"cards": "ada-big"},
    )  # fmt: skip
    assert "0.600%" in planning.no_room(verdict(LOANS, "ada-b"), "loans", at)
    assert planning.no_room(verdict(LOANS, "ada-b"), "loans", replace(at, tested={})) == ""
    assert planning.plan([], [CARDS, LOANS], at) == []  # a test alone makes nothing retire


def test_an_adapter_of_unknown_size_is_an_error_where_a_budget_is_kept():
    with pytest.raises(InputError, match="ada-a serves but is not among those known"):
        plan([verdict(CARDS, "ada-a")], [CARDS], {}, [], 1.0, base_parameters=BASE_PARAMETERS)


@pytest.mark.parametrize(
    ("new", "made"),
    [
        (0.30, [("cards", "retire", None), ("pins", "deploy", "ada-c")]),  # worth clearly more than the least
        (0.11, [("pins", "keep", None)]),  # about as much as the least: what serves, serves
    ],
)
def test_the_least_worth_makes_way_for_what_is_worth_clearly_more(new: float, made: list[tuple[str, str, str | None]]):
    store, third = Store(), cluster("pins")
    all_three = [CARDS, LOANS, third]
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b")], all_three, [A, B], **LIMITS)
    rows = store.plan(
        [verdict(third, "ada-c")], all_three, [A, B, C], **LIMITS, worth={"ada-a": 0.1, "ada-b": 0.2, "ada-c": new}
    )
    assert [(row.cluster_name, row.action, row.adapter_id) for row in rows] == made
    assert live_share(store.current, {each.id: each for each in (A, B, C)}, BASE_PARAMETERS) <= 0.005
    if made[0][1] == "retire":
        assert "makes way for 'pins'" in rows[0].reason
        assert store.rollback("cards").adapter_id == "ada-a"  # who disagrees gets it back


def test_an_adapter_whose_worth_is_unknown_never_makes_way():
    store, third = Store(), cluster("pins")
    all_three = [CARDS, LOANS, third]
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b")], all_three, [A, B], **LIMITS)
    rows = store.plan([verdict(third, "ada-c")], all_three, [A, B, C], **LIMITS, worth={"ada-c": 0.9})
    assert [row.action for row in rows] == ["keep"]


def test_where_there_is_no_room_the_next_that_passed_serves():
    store, third = Store(), cluster("pins")
    all_three = [CARDS, LOANS, third]
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b")], all_three, [A, B], **LIMITS)
    cheaper = replace(verdict(third, None, "stop", kind="rules"), code="runner_up")
    failed = replace(verdict(third, None, "stop", lower=0.9, kind="critic_prompt"))
    (row,) = store.plan([verdict(third, "ada-c"), failed, cheaper], all_three, [A, B, C], **LIMITS)
    assert (row.action, row.candidate, row.adapter_id) == ("deploy", "rules", None)
    assert "a better one was refused: live adapters would be 0.600%" in row.reason


# clusters that merge and split


def test_a_cluster_that_merged_serves_on_until_the_whole_has_a_candidate():
    store = Store()
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b")], [CARDS, LOANS], [A, B])
    whole, moved = cluster("cards", cycle=2), {"cards": {"cards": 1.0}, "loans": {"cards": 0.9}}
    assert store.plan([verdict(whole, "ada-c", "stop")], [whole], [A, B, C], moved=moved) == []
    assert live_adapters(store.current) == ("ada-a", "ada-b")
    rows = store.plan([verdict(whole, "ada-c")], [whole], [A, B, C], moved=moved)
    assert [(row.cluster_name, row.action) for row in rows] == [("loans", "retire"), ("cards", "deploy")]
    assert rows[0].reason == "cluster 'loans' is part of 'cards' now"
    assert live_adapters(store.current) == ("ada-c",)


def test_a_part_retires_once_the_whole_serves_its_members_by_another_way():
    """A live test of the whole was won between two cycles."""
    store = Store()
    parts = {each.name: replace(each, interaction_ids=(f"int-{each.name}",)) for each in (CARDS, LOANS)}
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b")], [CARDS, LOANS], [A, B])
    whole, moved = cluster("cards", cycle=2), {"cards": {"cards": 1.0}, "loans": {"cards": 1.0}}
    assert store.plan([], [whole], [A, B], moved=moved, live=parts) == []
    both = replace(CARDS, interaction_ids=("int-cards", "int-loans"))
    (row,) = store.plan([], [whole], [A, B], moved=moved, live={**parts, "cards": both})
    assert (row.cluster_name, row.action) == ("loans", "retire")


def test_a_merged_cluster_frees_what_its_parts_took():
    store = Store()
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b")], [CARDS, LOANS], [A, B], **LIMITS)
    whole, big = cluster("cards", cycle=2), adapter("ada-big", 500_000)
    moved = {"cards": {"cards": 1.0}, "loans": {"cards": 1.0}}
    store.plan([verdict(whole, "ada-big")], [whole], [A, B, big], moved=moved, **LIMITS)
    assert live_adapters(store.current) == ("ada-big",)


def test_a_cluster_whose_members_are_nowhere_any_more_retires():
    store = Store()
    store.plan([verdict(CARDS, "ada-a")], [CARDS, LOANS], [A])
    (row,) = store.plan([], [LOANS], [A], moved={"cards": {"loans": 0.1}}, leaving={"cards": "nobody asks"})
    assert (row.cluster_name, row.action) == ("cards", "retire")


def test_what_splits_off_keeps_what_served_it():
    store = Store()
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A])
    rest, part = cluster("cards", cycle=2), cluster("pins", cycle=2)
    moved = {"cards": {"cards": 0.6, "pins": 0.4}}
    rows = store.plan([verdict(rest, "ada-b"), verdict(part, "ada-c", "stop")], [rest, part], [A, B, C], moved=moved)
    assert {(row.cluster_name, row.adapter_id) for row in rows} == {("cards", "ada-b"), ("pins", "ada-a")}
    assert store.current["pins"].cluster_id == part.id
    assert "was part of 'cards'" in store.current["pins"].reason


def test_what_splits_off_with_a_candidate_of_its_own_takes_that():
    store = Store()
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A])
    rest, part = cluster("cards", cycle=2), cluster("pins", cycle=2)
    moved = {"cards": {"cards": 0.6, "pins": 0.4}}
    store.plan([verdict(rest, "ada-b"), verdict(part, "ada-c")], [rest, part], [A, B, C], moved=moved)
    assert live_adapters(store.current) == ("ada-b", "ada-c")


def test_a_split_that_the_budget_does_not_afford_changes_nothing():
    store = Store()
    big = adapter("ada-a", 400_000)
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [big], **LIMITS)
    rest, part = cluster("cards", cycle=2), cluster("pins", cycle=2)
    moved = {"cards": {"cards": 0.6, "pins": 0.4}}
    rows = store.plan([verdict(rest, "ada-b")], [rest, part], [big, B], moved=moved, **LIMITS)
    assert [(row.cluster_name, row.action, row.adapter_id) for row in rows] == [("cards", "keep", "ada-a")]
    assert "'pins' would lose what serves it" in rows[0].reason


def test_what_was_planned_around_a_change_that_is_refused_in_the_end_is_planned_again():
    """At first loans make way for cards, and get a new adapter after that; then cards turn out not to fit."""
    sizes = {"ada-a": 200_000, "ada-b": 50_000, "ada-c": 250_000, "ada-new-cards": 250_000, "ada-new-loans": 60_000}
    store, known, savings = Store(), [adapter(name, size) for name, size in sizes.items()], cluster("savings")
    three = [CARDS, LOANS, savings]
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b"), verdict(savings, "ada-c")], three, known, **LIMITS)
    rest, part = cluster("cards", cycle=2), cluster("pins", cycle=2)
    rows = store.plan(
        [verdict(rest, "ada-new-cards", lower=0.5), verdict(LOANS, "ada-new-loans", lower=0.1)],
        [rest, part, LOANS, savings], known, moved={"cards": {"cards": 0.6, "pins": 0.4}},
        worth={"ada-b": 0.01, "ada-c": 0.02, "ada-new-cards": 0.9, "ada-new-loans": 0.9}, **LIMITS,
    )  # fmt: skip
    stored = {row.id for row in store.rows}
    assert all(row.previous_id is None or row.previous_id in stored for row in store.rows)
    assert [(row.cluster_name, row.action, row.adapter_id) for row in rows] == [
        ("cards", "keep", "ada-a"),
        ("savings", "retire", None),
        ("loans", "deploy", "ada-new-loans"),
    ]
    assert "'pins' would lose what serves it" in rows[0].reason
    assert store.rollback("loans").adapter_id == "ada-b"


# rollback


def test_rolling_back_goes_back_step_by_step_to_the_base_model():
    store = Store()
    for name in ("ada-a", "ada-b", "ada-c"):
        store.plan([verdict(CARDS, name)], [CARDS], [A, B, C])
    assert [store.rollback("cards").adapter_id for _ in range(3)] == ["ada-b", "ada-a", None]
    last = store.rows[-1]
    assert (last.candidate, last.action, last.previous_id, last.verdict_id) == (
        "base",
        "rollback",
        store.rows[-2].id,
        None,
    )
    assert last.reason == "by hand"
    with pytest.raises(InputError, match="nothing earlier is left"):
        store.rollback("cards")


def test_a_deployment_after_a_rollback_is_rolled_back_to_what_the_rollback_restored():
    store = Store()
    for name in ("ada-a", "ada-b"):
        store.plan([verdict(CARDS, name)], [CARDS], [A, B, C])
    store.rollback("cards")
    store.plan([verdict(CARDS, "ada-c")], [CARDS], [A, B, C])
    assert [store.rollback("cards").adapter_id for _ in range(2)] == ["ada-a", None]


def test_a_rollback_restores_the_cluster_its_candidate_was_proven_on():
    store = Store()
    later = cluster("cards", cycle=2)
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A, B])
    store.plan([verdict(later, "ada-b")], [later], [A, B])
    assert store.rollback("cards").cluster_id == CARDS.id


def test_a_retirement_can_be_rolled_back():
    store = Store()
    store.plan([verdict(CARDS, "ada-a")], [CARDS], [A])
    store.plan([], [LOANS], [A], leaving={"cards": "nobody asks"})
    assert store.rollback("cards").adapter_id == "ada-a"


def test_other_clusters_history_does_not_matter():
    store = Store()
    store.plan([verdict(CARDS, "ada-a"), verdict(LOANS, "ada-b")], [CARDS, LOANS], [A, B])
    assert store.rollback("loans").previous_id == store.rows[1].id
    with pytest.raises(InputError, match="'pins' was never deployed") as caught:
        store.rollback("pins")
    assert "logtune deployments list" in str(caught.value)


def test_a_history_with_a_missing_row_rolls_back_as_far_as_it_goes():
    store = Store()
    for name in ("ada-a", "ada-b", "ada-c"):
        store.plan([verdict(CARDS, name)], [CARDS], [A, B, C])
    store.rows = store.rows[1:]
    assert [store.rollback("cards").adapter_id for _ in range(2)] == ["ada-b", None]


@given(st.lists(st.sampled_from(["ada-a", "ada-b", "ada-c", "back", "gone"]), max_size=14))
@settings(max_examples=150, deadline=None)
def test_any_history_rolls_back_like_an_undo_stack(steps):
    store, stack = Store(), [None]
    for step in steps:
        if step == "back" and len(stack) > 1:
            stack.pop()
            assert store.rollback("cards").adapter_id == stack[-1]
        elif step == "gone" and store.plan([], [LOANS], [A, B, C]):
            stack.append(None)
        elif step.startswith("ada") and store.plan([verdict(CARDS, step)], [CARDS], [A, B, C]):
            stack.append(step)
    assert live_adapters(store.current) == ((stack[-1],) if stack[-1] else ())
    previous = [row.previous_id for row in store.rows]
    assert previous == [None, *[row.id for row in store.rows]][: len(previous)]


def test_rows_are_told_apart_by_what_they_replace_not_by_time():
    row = plan([verdict(CARDS, "ada-a")], [CARDS], {}, [A], 1.0)[0]
    assert plan([verdict(CARDS, "ada-a")], [CARDS], {}, [A], 2.0)[0].id == row.id
    back = rollback("cards", [row], 3.0, "by hand")
    again = plan([verdict(CARDS, "ada-a")], [CARDS], {"cards": back}, [A], 4.0)[0]
    assert len({row.id, back.id, again.id}) == 3
    assert rollback("cards", [replace(row, at=5.0), back, again], 6.0, "by hand").id != back.id
