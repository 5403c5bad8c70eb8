"""Clusters: planted topics are found at every scale, small ones join, names last, and the router knows its limits."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.config import ClusterSettings, build
from logtune.edges.vectors import LocalEmbedder
from logtune.edges.weights import embedder_model
from logtune.ports import Vectors
from logtune.records import Cluster
from logtune.stages.cluster import MOST_LINKED, Routed, Routes, adjusted_rand, group, route

STREAM = Path(__file__).parents[2] / "shared/data/weekly_stream_banking77/stream.jsonl"
WARD = build({"preset": "uno"}).cluster
OPEN = ClusterSettings(min_size=3)
MANY = 99


def unit(vectors: np.ndarray) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def topics(sizes: list[int], seed: int = 0, dimension: int = 64, noise: float = 0.8) -> Vectors:
    """(sum(sizes), dimension): `sizes[i]` unit vectors around topic i; topics are orthogonal, members 0.61 alike."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.normal(size=(dimension, len(sizes))))[0].T
    rows = axes[np.repeat(np.arange(len(sizes)), sizes)]
    return unit(rows + noise * generator.normal(size=rows.shape) / np.sqrt(dimension))


def grouped(vectors: Vectors, chosen: ClusterSettings = OPEN, most: int = MANY, **fields) -> list[Cluster]:
    """Clusters of rows named 0000, 0001...; query and rule vectors are the same."""
    ids = [f"{i:04}" for i in range(len(vectors))]
    queries = fields.pop("queries", ["where is my card"] * len(ids))
    return group(ids, queries, vectors, vectors, chosen, most, **fields)


def members(clusters: list[Cluster]) -> list[list[int]]:
    return [[int(name) for name in cluster.interaction_ids] for cluster in clusters]


def routed(clusters: list[Cluster], vectors: Vectors) -> list[Routed]:
    ready = Routes(clusters)
    return [ready.nearest(vector) for vector in vectors]


# --- topics ---


@pytest.mark.parametrize("size", [12, 40, 200])
def test_two_planted_topics_are_found_whatever_their_size(size: int) -> None:
    found = grouped(topics([size, size]))
    assert sorted(members(found)) == [list(range(size)), list(range(size, 2 * size))]


@pytest.mark.parametrize("size", [12, 40, 200])
def test_one_topic_stays_one(size: int) -> None:
    (only,) = grouped(topics([size], noise=1.0))
    assert len(only.interaction_ids) == size
    assert len(only.centroids) == 1


def test_topics_of_very_different_sizes_are_found() -> None:
    found = grouped(topics([150, 30, 8]))
    assert [len(c.interaction_ids) for c in found] == [150, 30, 8]


def test_the_rules_tell_topics_apart_where_the_queries_do_not() -> None:
    queries, rules = topics([40], noise=0.5), topics([20, 20], seed=1, noise=0.2)
    found = group([f"{i:04}" for i in range(40)], ["q"] * 40, queries, rules, OPEN, MANY)
    assert sorted(members(found)) == [list(range(20)), list(range(20, 40))]


def test_of_groupings_as_stable_as_each_other_the_finest_is_taken() -> None:
    """Two pairs of near topics: two groups are as stable as four, but tell the router less."""
    axes = np.eye(4, 32)
    axes[1], axes[3] = axes[0] + axes[1], axes[2] + axes[3]
    noise = 0.4 * np.random.default_rng(2).normal(size=(80, 32)) / np.sqrt(32)
    assert len(grouped(unit(np.repeat(unit(axes), 20, axis=0) + noise))) == 4


def test_a_few_stragglers_are_no_topics_and_join_one() -> None:
    vectors = np.concatenate([topics([30, 30]), topics([1, 1], seed=5)])
    found = grouped(vectors)
    assert sum(len(c.interaction_ids) for c in found) == 62
    assert len(found) == 2


def test_a_few_that_are_nearly_equal_are_no_topics_of_all_the_rest() -> None:
    axes = topics([1] * 4, dimension=300)
    vectors = np.concatenate([np.repeat(axes, 4, axis=0), topics([1] * 40, seed=7, dimension=300)])
    assert len(grouped(vectors)) == 1


@pytest.mark.parametrize("size", [1, 2, 5])
def test_few_members_are_one_topic(size: int) -> None:
    (only,) = grouped(topics([1] * size))
    assert len(only.interaction_ids) == size
    assert len(only.centroids) == 1


def test_equal_members_are_one_topic() -> None:
    (only,) = grouped(np.repeat(topics([1]), 20, axis=0))
    assert (len(only.centroids), only.radius) == (1, 1.0)


def test_no_members() -> None:
    assert grouped(np.zeros((0, 64), np.float32)) == []


def test_above_the_limit_a_sample_is_linked_and_the_rest_joins_the_nearest_topic() -> None:
    sizes = [3000, 1500, 500]
    vectors = topics(sizes)
    assert len(vectors) > 2 * MOST_LINKED
    tracemalloc.start()
    found = grouped(vectors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(c.interaction_ids) for c in found] == sizes
    assert [row[0] for row in members(found)] == [0, 3000, 4500]
    assert peak < 190e6  # one array of 5000 x 5000 float64 alone has 200 MB


def test_everything_is_the_same_the_second_time() -> None:
    vectors = topics([20, 15], noise=1.2)
    assert grouped(vectors) == grouped(vectors.copy())


def test_the_order_of_the_rows_does_not_matter() -> None:
    vectors, order = topics([20, 15]), np.random.default_rng(3).permutation(35)
    ids = [f"{i:04}" for i in order]
    found = group(ids, ["where is my card"] * 35, vectors[order], vectors[order], OPEN, MANY)
    assert members(found) == members(grouped(vectors))


# --- ward, as in the paper ---


@pytest.mark.parametrize(("size", "clusters"), [(7, 1), (8, 1), (9, 2)])
def test_ward_at_4_separates_two_orthogonal_topics_from_nine_members_each(size: int, clusters: int) -> None:
    """Ward's distance of two groups of n equal rows at distance d is sqrt(2 n n / (n + n)) d = sqrt(n) d.

    Orthogonal unit vectors are sqrt(2) apart: sqrt(2 n) is 4 at n = 8, and the paper's cut is above 4.
    """
    vectors = np.repeat(np.eye(2, 4, dtype=np.float32), size, axis=0)
    assert len(grouped(vectors, WARD)) == clusters


def test_ward_has_a_threshold_and_takes_the_smallest_numbers() -> None:
    vectors = np.eye(2, 4, dtype=np.float32)
    assert len(grouped(vectors[:1], WARD)) == 1
    assert len(grouped(vectors, WARD)) == 1
    assert len(grouped(vectors, WARD.model_copy(update={"threshold": 1.4}))) == 2


# --- sizes and numbers ---


def test_small_topics_join_the_nearest_cluster() -> None:
    axes = np.eye(3, 8)
    near = unit(axes[2:] + 0.8 * axes[1:2])  # nearer to the second
    vectors = unit(np.concatenate([np.repeat(axes[:1], 12, 0), np.repeat(axes[1:2], 12, 0), np.repeat(near, 5, 0)]))
    assert [len(c.interaction_ids) for c in grouped(vectors, ClusterSettings(min_size=5))] == [12, 12, 5]
    found = grouped(vectors, ClusterSettings(min_size=6))
    assert members(found) == [list(range(12, 29)), list(range(12))]
    assert [len(c.centroids) for c in found] == [2, 1]  # the router still knows both topics


def test_what_has_joined_looks_for_the_next_from_its_new_middle() -> None:
    """8 at 0 and 9 at 50 degrees have their mean at 28: nearer to those at -53 than to those at 110."""
    angles = np.repeat(np.radians([0.0, 50.0, 110.0, -53.0]), [8, 9, 20, 20])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert [len(c.interaction_ids) for c in grouped(vectors)] == [20, 20, 9, 8]
    found = grouped(vectors, ClusterSettings(min_size=18))
    assert sorted(members(found), key=len) == [list(range(17, 37)), [*range(17), *range(37, 57)]]


def test_a_whole_smaller_than_the_least_size_is_one_cluster() -> None:
    (only,) = grouped(topics([12, 12]), ClusterSettings(min_size=40))
    assert len(only.interaction_ids) == 24
    assert len(only.centroids) == 2


@pytest.mark.parametrize(
    ("most", "sizes"), [(5, [30, 25, 20, 15]), (3, [45, 25, 20]), (2, [45, 45]), (1, [90]), (0, [90])]
)
def test_the_nearest_clusters_join_until_the_budget_affords_them(most: int, sizes: list[int]) -> None:
    axes = np.eye(4, 8)
    axes[3] = axes[0] + 1.1 * axes[3]  # 0.67 like the first
    axes[2] = axes[1] + 1.3 * axes[2]  # 0.61 like the second
    vectors = unit(np.repeat(axes, [30, 25, 20, 15], axis=0))
    assert [len(c.interaction_ids) for c in grouped(vectors, OPEN, most)] == sizes


def test_every_member_is_in_one_cluster() -> None:
    vectors = topics([30, 20, 10, 4, 2, 1], noise=1.5)
    for least in (1, 3, 12, 40):
        found = grouped(vectors, ClusterSettings(min_size=least), 3)
        sizes = [len(row) for row in members(found)]
        assert sorted(i for row in members(found) for i in row) == list(range(67))
        assert sizes == sorted(sizes, reverse=True)
        assert len(found) == 1 or min(sizes) >= least


# --- names ---


QUERIES = ["where is my card?"] * 12 + ["my transfer failed"] * 14


def test_a_label_is_what_most_queries_say() -> None:
    found = grouped(topics([12, 14]), queries=QUERIES)
    assert [c.label for c in found] == ["failed transfer", "card"]
    assert all(c.name.startswith(c.label.replace(" ", "-") + "-") for c in found)
    assert grouped(topics([6]), queries=["a b 12 !?"] * 6)[0].label == "unnamed"


def test_names_are_safe_for_files_and_urls() -> None:
    (only,) = grouped(topics([6]), queries=["Où est ma carte bancaire?"] * 5 + ["卡在哪里"])
    assert only.name.startswith("bancaire-carte-")
    (only,) = grouped(topics([6]), queries=["我的卡在哪里"] * 6)
    assert only.name.startswith("xxxxxx-")


def test_names_last_while_members_are_added() -> None:
    vectors = topics([40, 40])
    queries = ["where is my card"] * 40 + ["my transfer failed"] * 40
    found: list[Cluster] = []
    for each in (20, 30, 40):
        rows = [*range(each), *range(40, 40 + each)]
        before = found
        ids, texts = [f"{i:04}" for i in rows], [queries[i] for i in rows]
        found = group(ids, texts, vectors[rows], vectors[rows], OPEN, MANY, previous=before)
        assert len(found) == 2
        if before:
            assert {c.name: c.previous_id for c in found} == {c.name: c.id for c in before}
            assert not {c.id for c in found} & {c.id for c in before}


def test_a_cluster_in_which_nothing_is_new_is_the_same_record() -> None:
    before = grouped(topics([12, 14]), queries=QUERIES)
    assert grouped(topics([12, 14]), queries=QUERIES, previous=before) == before
    again = grouped(topics([12, 14]), queries=QUERIES, previous=[replace(before[0], radius=0.1), before[1]])
    assert again[0].previous_id == before[0].id
    assert again[1] == before[1]


def test_other_members_about_the_same_keep_the_name_and_another_topic_does_not() -> None:
    old = grouped(topics([30, 30]))
    shifted = [
        replace(c, name=f"kept-{i}", interaction_ids=tuple(f"old-{name}" for name in c.interaction_ids))
        for i, c in enumerate(old)
    ]
    assert [c.name for c in grouped(topics([30, 30]), previous=shifted)] == [c.name for c in shifted]
    elsewhere = grouped(topics([30, 30], seed=9), previous=shifted)
    assert not {c.name for c in elsewhere} & {c.name for c in (*shifted, *old)}


def test_of_two_parts_of_an_old_cluster_the_larger_keeps_the_name() -> None:
    old = grouped(topics([20, 30]), ClusterSettings(min_size=50))
    found = grouped(topics([20, 30]), previous=old)
    assert [c.name == old[0].name for c in found] == [True, False]


def test_another_embedder_matches_by_members_alone() -> None:
    old = grouped(topics([12, 14], dimension=32))
    assert [c.name for c in grouped(topics([12, 14]), previous=old)] == [c.name for c in old]
    other = [replace(c, interaction_ids=("gone",)) for c in old]
    assert not {c.name for c in grouped(topics([12, 14]), previous=other)} & {c.name for c in old}


# --- routing ---


def test_centroids_are_unit_vectors_of_the_queries_alone() -> None:
    queries, rules = topics([20, 20], noise=0.3), topics([20, 20], seed=4, dimension=16, noise=0.3)
    (only,) = group([f"{i:04}" for i in range(40)], ["q"] * 40, queries, rules, OPEN, 1)
    assert np.asarray(only.centroids).shape == (2, 64)
    for cluster, rows in zip(found := grouped(queries), members(found), strict=True):
        mean = queries[rows].mean(axis=0)
        np.testing.assert_allclose(np.linalg.norm(cluster.centroids, axis=1), 1.0, atol=1e-5)
        np.testing.assert_allclose(cluster.centroids[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_a_query_goes_to_the_nearest_centroid_inside_its_radius() -> None:
    vectors = topics([30, 30, 30])
    found = grouped(vectors[:60])
    hits = routed(found, vectors[:60])
    assert sum(hit.cluster is found[0] for hit in hits[:30]) >= 29  # radius_quantile may leave one out
    assert sum(hit.cluster is found[1] for hit in hits[30:]) >= 29
    assert all(hit.cluster is None and hit.similarity < found[0].radius for hit in routed(found, vectors[60:]))


def test_nowhere_to_go() -> None:
    assert route([], np.ones(4, np.float32)) == Routed(None, -1.0)


def test_the_edge_of_the_radius_is_inside() -> None:
    only = Cluster(id="c", interaction_ids=("a",), centroids=((1.0, 0.0), (0.0, 1.0)), radius=0.75, label="")
    assert route([only], np.array([0.75, -0.5], np.float32)) == Routed(only, 0.75)
    assert route([only], np.array([0.6, 0.8], np.float32)).cluster is only
    assert route([only], np.array([0.7, -0.71], np.float32)).cluster is None


def test_clusters_of_another_embedder_are_left_out() -> None:
    other = Cluster(id="c", interaction_ids=("a",), centroids=((1.0, 0.0, 0.0),), radius=0.0, label="")
    mine = replace(other, centroids=((1.0, 0.0),))
    assert route([other, mine], np.array([1.0, 0.0], np.float32)).cluster is mine
    assert route([other], np.array([1.0, 0.0], np.float32)).cluster is None


def test_the_radius_counts_a_member_as_if_it_were_new() -> None:
    angles = np.array([0.0, 0.2, 1.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    (only,) = grouped(vectors, ClusterSettings(min_size=1, radius_quantile=0.0))
    assert only.radius == pytest.approx(np.cos(1.0 - 0.1), abs=1e-5)  # the third, to the mean of the other two
    (only,) = grouped(vectors[:1], ClusterSettings(min_size=1))
    assert only.radius == 1.0


def test_members_like_no_topic_are_left_out_where_strangers_would_come_in_with_them() -> None:
    vectors, others = topics([60, 60]), unit(np.random.default_rng(1).normal(size=(107, 64)))
    noisy = np.concatenate([vectors, others[:7]])
    chosen = ClusterSettings(min_size=MANY)
    (before,) = grouped(noisy, chosen)
    assert len(before.interaction_ids) == 127
    assert np.mean([hit.cluster is not None for hit in routed([before], others[7:])]) > 0.5
    (after,) = grouped(noisy, chosen, strangers=others[7:])
    assert set(after.interaction_ids) >= {f"{i:04}" for i in range(120)}
    assert len(after.interaction_ids) <= 122
    assert np.mean([hit.cluster is not None for hit in routed([after], others[7:])]) < 0.1
    (clean,) = grouped(vectors, chosen, strangers=others[7:])
    assert len(clean.interaction_ids) == 120, "far away strangers cost nobody"


def test_of_two_topics_of_one_member_each_would_be_far_from_the_other() -> None:
    chosen = WARD.model_copy(update={"threshold": 1.0})
    (only,) = grouped(np.eye(2, 4, dtype=np.float32), chosen, 1)
    assert (len(only.centroids), only.radius) == (2, 0.0)


@pytest.mark.parametrize(("quantile", "least", "most"), [(0.0, 0.99, 1.0), (0.2, 0.75, 0.85)])
def test_so_many_new_queries_of_a_topic_are_inside(quantile: float, least: float, most: float) -> None:
    vectors = topics([800])
    found = grouped(vectors[:400], ClusterSettings(radius_quantile=quantile))
    inside = np.mean([hit.cluster is not None for hit in routed(found, vectors[400:])])
    assert least <= inside <= most


@pytest.mark.slow  # the real embedder on 480 messages
@pytest.mark.skipif(not STREAM.exists(), reason="needs ../shared/data/weekly_stream_banking77")
@pytest.mark.parametrize("weeks", [1, 2, 4])
def test_the_intents_of_real_messages_are_the_topics(weeks: int) -> None:
    """Measured: 6, 10 and 20 topics for 5, 10 and 20 intents; a coarser cut is as stable and routes far worse."""
    lines = map(json.loads, STREAM.read_text(encoding="utf-8").splitlines())
    rows = [row for row in lines if row["gold_intent"] and row["week"] <= weeks]
    embedder = LocalEmbedder(embedder_model("all-minilm-l6-v2"))
    rules = embedder.embed([f"Answer: {row['gold_intent']}" for row in rows])
    ids, texts = [row["id"] for row in rows], [row["text"] for row in rows]
    (only,) = group(ids, texts, embedder.embed(texts), rules, ClusterSettings(), 1)
    assert 5 * weeks <= len(only.centroids) <= 5 * weeks + 5
    assert only.radius > 0.45
    foreign = embedder.embed(["How do I bake a sponge cake?", "Which planet is the largest?", "Write a haiku."])
    assert all(hit.cluster is None for hit in routed([only], foreign))
    assert route([only], embedder.embed(["My new card has still not come"])[0]).cluster is only


# --- adjusted Rand index ---


@pytest.mark.parametrize(
    ("one", "other", "index"),
    [
        ([0, 0, 1, 1], [5, 5, 2, 2], 1.0),
        # of 6 pairs 0 are together in both, 2 in each: (0 - 4/6) / (2 - 4/6)
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
        # 1 in both, 2 and 3: (1 - 1) / (2.5 - 1)
        ([0, 0, 1, 1], [0, 0, 0, 1], 0.0),
        # of 15 pairs 1 + 1 in both, 1 + 3 and 3 + 3: (2 - 1.6) / (5 - 1.6)
        ([0, 0, 1, 1, 1, 2], [0, 0, 0, 1, 1, 1], 0.4 / 3.4),
        ([0, 0, 0], [1, 1, 1], 1.0),
        ([0, 1, 2], [2, 1, 0], 1.0),
        ([0, 0, 0], [0, 1, 2], 0.0),
        ([0], [7], 1.0),
        ([], [], 1.0),
    ],
)
def test_adjusted_rand_by_hand(one: list[int], other: list[int], index: float) -> None:
    assert adjusted_rand(np.array(one, np.int64), np.array(other, np.int64)) == pytest.approx(index)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_adjusted_rand_is_symmetric_and_at_most_one(rows: list[tuple[int, int]]) -> None:
    one, other = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    index = adjusted_rand(one, other)
    assert index == pytest.approx(adjusted_rand(other, one))
    assert index <= 1.0 + 1e-9
    assert adjusted_rand(one, one + 5) == 1.0


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.floats(-1, 1, width=16), min_size=3, max_size=3), min_size=1, max_size=16),
    st.sampled_from(["stable", "ward"]),
    st.integers(1, 8),
    st.integers(0, 3),
)
def test_whatever_the_vectors_each_member_is_in_one_named_cluster(
    rows: list[list[float]], method: str, least: int, most: int
) -> None:
    vectors = np.array(rows, np.float32)  # zero rows too
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(norms == 0, 1, norms)
    chosen = ClusterSettings(method="ward" if method == "ward" else "stable", min_size=least)
    found = grouped(vectors, chosen, most)
    assert sorted(i for row in members(found) for i in row) == list(range(len(rows)))
    assert len({c.id for c in found}) == len({c.name for c in found}) == len(found) <= max(1, most)
    assert all(np.isfinite(c.radius) and np.isfinite(c.centroids).all() for c in found)
