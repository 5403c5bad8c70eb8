"""Planted topics are found at any number of logs; clusters are few, large enough and keep their names; routing."""

import numpy as np
import pytest

from logtune.config import ClusterSettings
from logtune.ports import Vectors
from logtune.records import Cluster
from logtune.stages.cluster import adjusted_rand, group, route

SMALL = ClusterSettings(min_size=5)


def planted(sizes: list[int], seed: int = 0, spread: float = 0.35) -> Vectors:
    """Unit vectors around one random direction a topic."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(len(sizes), 32))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = np.concatenate(
        [
            centre + spread * draw.normal(size=(size, 32)) / np.sqrt(32)
            for centre, size in zip(centres, sizes, strict=True)
        ]
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def grouped(
    vectors: Vectors, most: int = 10, settings: ClusterSettings = SMALL, previous: list[Cluster] | None = None
) -> list[Cluster]:
    ids = [f"int-{number:05}" for number in range(len(vectors))]
    return group(ids, ["where is it"] * len(ids), vectors, vectors, settings, most, previous or [])


@pytest.mark.parametrize("each", [12, 40, 200])
def test_two_topics_are_found_whatever_their_size(each: int) -> None:
    found = grouped(planted([each, each]))
    assert [len(cluster.interaction_ids) for cluster in found] == [each, each]
    for cluster in found:
        assert np.allclose(np.linalg.norm(np.asarray(cluster.centroids), axis=1), 1, atol=1e-4)


def test_the_budget_joins_topics_and_the_router_still_knows_them() -> None:
    (only,) = grouped(planted([30, 30, 30]), most=1)
    assert len(only.interaction_ids) == 90
    assert len(only.centroids) == 3


def test_small_groups_join_the_nearest() -> None:
    found = grouped(planted([40, 40, 4]))
    assert sorted(len(cluster.interaction_ids) for cluster in found) in ([40, 44], [44, 40])


def test_no_members_no_clusters_and_two_members_one() -> None:
    assert grouped(planted([1])[:0]) == []
    assert len(grouped(planted([2]))) == 1


def test_names_last_when_members_come_and_nothing_new_is_the_same_record() -> None:
    vectors = planted([40, 40])
    order = np.argsort(np.arange(80) % 40, kind="stable")  # both topics grow evenly
    first = grouped(vectors[order[:60]])
    assert grouped(vectors[order[:60]], previous=first) == first
    second = grouped(vectors[order], previous=first)
    assert {cluster.name for cluster in second} == {cluster.name for cluster in first}
    assert {cluster.previous_id for cluster in second} == {cluster.id for cluster in first}


def test_a_query_goes_to_its_cluster_or_nowhere() -> None:
    vectors = planted([40, 40])
    found = grouped(vectors)
    ours = route(found, vectors[0])
    assert ours.cluster is not None
    assert "int-00000" in ours.cluster.interaction_ids
    away = -vectors[:40].mean(axis=0)
    assert route(found, (away / np.linalg.norm(away)).astype(np.float32)).cluster is None
    assert route([], vectors[0]).cluster is None


def test_ward_separates_far_groups_at_the_threshold_of_the_paper() -> None:
    # Ward joins two groups of n unit vectors at distance sqrt(n) * |a - b|: n 40 and |a - b| about 1.4 give 8.9 > 4.0
    ward = ClusterSettings(method="ward", threshold=4.0, min_size=1)
    assert len(grouped(planted([40, 40], spread=0.01), settings=ward)) == 2
    assert len(grouped(planted([4, 4], spread=0.01), settings=ward)) == 1  # sqrt(4) * 1.4 = 2.8


@pytest.mark.parametrize(
    ("one", "other", "index"),
    [([1, 1, 2, 2], [7, 7, 9, 9], 1.0), ([1, 1, 2, 2], [1, 2, 1, 2], -0.5), ([1, 1, 1, 1], [1, 1, 1, 1], 1.0)],
)
def test_adjusted_rand_by_hand(one: list[int], other: list[int], index: float) -> None:
    assert adjusted_rand(np.asarray(one), np.asarray(other)) == pytest.approx(index)
