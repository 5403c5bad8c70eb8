"""Gap methods against each other and against the gate, on cases computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.records import CandidateKind, Evaluation, Outcome
from logtune.stages.gap_methods import agreements, auc, foretold, rank_correlation

GAPS = {
    "first": {"a": 0.1, "b": 0.2, "c": 0.6, "d": 0.9},
    "second": {"a": 0.2, "b": 0.1, "c": 0.5, "d": 0.8},
    "third": {"a": 0.5},
}


def evaluation(cluster: str, candidate: CandidateKind, outcome: Outcome) -> Evaluation:
    return Evaluation(
        id=f"{cluster}-{candidate}", cluster_id=cluster, candidate=candidate, adapter_id=None, baseline="base",
        interaction_ids=(), cases=10, wins=5, ties=0, win_rate=0.5, lower=None, upper=None, guards={}, outcome=outcome,
        reason="",
    )  # fmt: skip


def test_each_pair_of_methods_on_the_clusters_both_measured() -> None:
    # ranks 1 2 3 4 and 2 1 3 4: rho = 1 - 6 (1 + 1) / (4 (16 - 1)) = 0.8
    found = {(item.first, item.second): item for item in agreements(GAPS, 0.45)}
    assert len(found) == 3
    two = found["first", "second"]
    assert (two.clusters, two.same_route) == (4, 1.0)
    assert two.rank_correlation == pytest.approx(0.8)
    one = found["first", "third"]
    assert (one.clusters, one.rank_correlation, one.same_route) == (1, None, 0.0)  # 0.1 an expert, 0.5 a critic


def test_nothing_in_common_is_no_agreement() -> None:
    (found,) = agreements({"first": {"a": 0.1}, "second": {}}, 0.45)
    assert (found.clusters, found.rank_correlation, found.same_route) == (0, None, None)


@pytest.mark.parametrize(
    ("first", "second"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([], [])]
)
def test_no_rank_correlation_where_there_are_no_ranks(first: list[float], second: list[float]) -> None:
    assert rank_correlation(first, second) is None


def test_a_small_gap_foretells_an_expert_and_a_large_one_a_critic() -> None:
    judged = [
        evaluation("a", "expert", "passed"),  # 0.1: right
        evaluation("b", "expert", "failed"),  # 0.2: wrong
        evaluation("c", "expert", "failed"),  # 0.6: right
        evaluation("c", "critic", "passed"),  # 0.6: right
        evaluation("d", "critic_prompt", "failed"),  # 0.9: wrong
        evaluation("d", "rules", "passed"),  # says nothing about adapters
        evaluation("a", "critic", "not_enough_data"),  # undecided
        evaluation("z", "expert", "passed"),  # not measured
    ]
    found = {item.method: item for item in foretold(GAPS, judged, 0.45)}
    assert (found["first"].evaluations, found["first"].right, found["first"].by_chance) == (5, 0.6, 0.6)
    # passed 0.9 (a), 0.6 (c's critic); failed 0.8 (b), 0.4 (c), 0.9 (d): 0.9 beats two and ties one, 0.6 beats one
    assert found["first"].auc == pytest.approx((2.5 + 1) / 6)
    assert (found["third"].evaluations, found["third"].right, found["third"].auc) == (1, 0.0, None)


def test_without_evaluations_nothing_is_foretold() -> None:
    (found,) = foretold({"first": {"a": 0.1}}, [], 0.45)
    assert (found.evaluations, found.right, found.by_chance, found.auc) == (0, None, None, None)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_auc_is_a_share_and_turns_round(higher: list[float], lower: list[float]) -> None:
    one, other = auc(higher, lower), auc(lower, higher)
    assert one is not None
    assert other is not None
    assert 0 <= one <= 1
    assert one + other == pytest.approx(1)
