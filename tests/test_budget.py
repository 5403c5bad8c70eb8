"""What a live adapter is worth, which goes first, and which rank a cluster gets."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.records import Adapter, Deployment, Evaluation
from logtune.stages.budget import Wish, gains, holdings, homes, ranks, room, traffic, worths


def adapter(name: str, parameters: int = 100) -> Adapter:
    return Adapter(
        id=name, cluster_id="clu", pair_ids=(), kind="expert", base="base", rank=2, parameters=parameters, path=name,
        sha256=name, losses=(), checks={}, epoch=1,
    )  # fmt: skip


def deployed(cluster: str, adapter_id: str | None) -> Deployment:
    return Deployment(
        id=f"dep-{cluster}", cluster_id="clu", cluster_name=cluster, candidate="expert" if adapter_id else "base",
        adapter_id=adapter_id, verdict_id=None, previous_id=None, action="deploy", reason="", at=0.0,
    )  # fmt: skip


def passed(adapter_id: str | None, win_rate: float | None, against: str = "base", **more: object) -> Evaluation:
    return replace(
        Evaluation(
            id=f"eval-{adapter_id}", cluster_id="clu", candidate="expert", adapter_id=adapter_id, baseline=against,
            interaction_ids=(), cases=20, wins=0, ties=0, win_rate=win_rate, lower=None, upper=None, guards={},
            outcome="passed", reason="",
        ),
        **more,
    )  # fmt: skip


# gain


def test_the_gate_measures_the_gain_over_the_base_model() -> None:
    """An adapter that had to beat another one may still gain little: what its cluster is asked has changed."""
    found = gains([passed("b", 0.9, "a", guards={"over_base": {"gain": 0.3, "cases": 20}}), passed("a", 0.75)])
    assert found == {"b": 0.3, "a": 0.5}


def test_without_that_gains_add_up_from_one_adapter_to_the_next() -> None:
    assert gains([passed("c", 0.55, "b"), passed("b", 0.6, "a"), passed("a", 0.75), passed(None, 0.9)]) == {
        "a": 0.5, "b": 0.7, "c": pytest.approx(0.8),
    }  # fmt: skip
    assert gains([passed("b", 0.8, "a"), passed("a", 0.95)])["b"] == 1.0
    assert gains([passed("a", 0.65, "rules")]) == {"a": 0.3}


def test_what_did_not_pass_has_no_gain_and_of_two_gates_the_newer_one_counts() -> None:
    assert gains([passed("a", 0.9, outcome="failed")]) == {}
    assert gains([passed("a", 0.8), passed("a", 0.6)]) == {"a": 0.6}


# worth


def test_traffic_is_the_share_of_all_requests() -> None:
    assert traffic(["cards", None, "cards", "pins"], ["cards", "pins", "loans"]) == {
        "cards": 0.5, "pins": 0.25, "loans": 0.0,
    }  # fmt: skip
    assert traffic([], ["cards"]) == {}


def test_worth_is_gain_times_traffic_of_every_cluster_that_an_adapter_serves() -> None:
    at = homes({"cards": deployed("cards", "a"), "pins": deployed("pins", "a"), "loans": deployed("loans", None)})
    assert at == {"a": ["cards", "pins"]}
    assert worths({**at, "new": ["x"]}, {"a": 0.5, "new": 0.5}, {"cards": 0.4, "pins": 0.2}) == {
        "a": pytest.approx(0.3)
    }


def test_the_list_begins_with_what_goes_first_and_ends_with_what_is_not_measured() -> None:
    current = {name: deployed(name, f"ada-{name}") for name in ("cards", "loans", "pins")}
    known = {f"ada-{name}": adapter(f"ada-{name}") for name in current}
    found = holdings(
        homes(current), known, {"ada-cards": 0.5, "ada-pins": 0.9}, {"cards": 0.5, "loans": 0.4, "pins": 0.1}, 10_000
    )
    assert [(each.clusters, each.goes) for each in found] == [(("pins",), 1), (("cards",), 2), (("loans",), None)]
    assert found[0].worth == pytest.approx(0.09)
    assert found[2].gain is None
    assert {each.share for each in found} == {0.01}


# room


def test_what_is_worth_least_goes_first() -> None:
    live, worth = {"a": 100, "b": 100, "c": 100}, {"a": 0.3, "b": 0.1, "c": 0.2}
    assert room(live, worth, 100, gained=0.5) == ("b",)
    assert room(live, worth, 150, gained=0.5) == ("b", "c")
    assert room(live, worth, 150, gained=0.31) is None  # together they are worth 0.3
    assert room(live, worth, 301, gained=9.0) is None
    assert room(live, worth, 100, gained=None) is None


def test_a_small_one_does_not_go_in_vain() -> None:
    assert room({"small": 10, "large": 100}, {"small": 0.1, "large": 0.2}, 100, gained=1.0) == ("large",)


@given(
    live=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 100), min_size=1),
    worth=st.dictionaries(st.sampled_from("abcdef"), st.floats(-1, 1)),
    least=st.integers(1, 300), gained=st.floats(0, 2),
)  # fmt: skip
def test_room_is_enough_and_no_more_than_needed(
    live: dict[str, int], worth: dict[str, float], least: int, gained: float
) -> None:
    going = room(live, worth, least, gained)
    if going is not None:
        freed = sum(live[name] for name in going)
        assert freed >= least
        assert all(freed - live[name] < least for name in going)
        assert set(going) <= set(worth)
        assert sum(worth[name] for name in going) < gained or not going


# ranks


@pytest.mark.parametrize(
    ("affordable", "most", "rank"), [(2.2, 16, 2), (11.7, 16, 8), (0.9, 16, 0), (1e8, 16, 16), (3.0, 16, 2)]
)
def test_one_cluster_gets_the_highest_rank_that_is_affordable(affordable: float, most: int, rank: int) -> None:
    assert ranks([Wish(name="cards")], affordable, most) == {"cards": rank}


def test_new_clusters_share_what_the_serving_ones_leave() -> None:
    serving = Wish(name="cards", serving=8)
    assert ranks([serving, Wish(name="pins"), Wish(name="loans")], 15, 16) == {"cards": 8, "pins": 2, "loans": 2}
    assert ranks([serving, Wish(name="pins")], 8, 16) == {"cards": 8, "pins": 4}  # the worth decides at deployment


def test_a_rank_grows_to_an_even_share_when_there_is_something_new_to_learn() -> None:
    others = [Wish(name="pins", serving=1, settled=True)]
    assert ranks([Wish(name="cards", serving=1), *others], 9, 16) == {"cards": 4, "pins": 1}
    assert ranks([Wish(name="cards", serving=1, settled=True), *others], 9, 16) == {"cards": 1, "pins": 1}


def test_a_smaller_budget_shrinks_what_is_too_large() -> None:
    assert ranks([Wish(name="cards", serving=8)], 3, 16) == {"cards": 2}


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 4, 8]), st.booleans()), min_size=1, max_size=8), st.floats(0.1, 40))
def test_serving_ranks_are_never_cut_while_they_fit(found: list[tuple[int, bool]], affordable: float) -> None:
    wishes = [Wish(name=str(n), serving=rank, settled=settled) for n, (rank, settled) in enumerate(found)]
    given_ranks = ranks(wishes, affordable, 16)
    assert set(given_ranks) == {wish.name for wish in wishes}
    if sum(wish.serving for wish in wishes) <= affordable:
        assert all(given_ranks[wish.name] >= wish.serving for wish in wishes)
        if all(wish.serving for wish in wishes):
            assert sum(given_ranks.values()) <= affordable
