"""Whom a row is weighed against: quick, and the same as by the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.ports import Vectors
from logtune.stages import circles
from logtune.stages.circles import DIGITS, Near, around


def by_definition(vectors: Vectors, users: list[str], count: int) -> list[Near]:
    """Every row sorted by closeness to this one, then by number; the first of each other user."""
    found = []
    for row, own in enumerate(users):
        closeness = vectors.astype(np.float64) @ vectors[row].astype(np.float64)
        order = sorted(range(len(users)), key=lambda other: (-round(float(closeness[other]), DIGITS), other))
        nearest: dict[str, int] = {}
        for other in order:
            nearest.setdefault(users[other], other)
        rows = [other for user, other in nearest.items() if user != own][:count]
        found.append(Near(rows, float(closeness[rows[-1]]) if rows else 1.0))
    return found


def random_rows(total: int, users: int, copies: float, seed: int) -> tuple[Vectors, list[str]]:
    """Vectors of a few topics; a share of them are copies of others."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(5, 16))[draw.integers(0, 5, total)] + draw.normal(size=(total, 16))
    copied = draw.random(total) < copies
    rows[copied] = rows[draw.integers(0, total, int(copied.sum()))]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), [f"u{number}" for number in draw.integers(0, users, total).tolist()]


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(1, 90), users=st.integers(1, 40), count=st.integers(1, 25),
    copies=st.sampled_from([0.0, 0.5, 0.95]), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_same_as_by_the_definition(total: int, users: int, count: int, copies: float, seed: int) -> None:
    vectors, names = random_rows(total, users, copies, seed)
    found, wanted = around(vectors, names, count), by_definition(vectors, names, count)
    assert [near.rows for near in found] == [near.rows for near in wanted]
    assert [near.edge for near in found] == pytest.approx([near.edge for near in wanted], abs=1e-5)


def test_over_several_blocks_and_with_hardly_any_users_among_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circles, "BLOCK", 64)
    vectors, names = random_rows(400, 300, 0.1, 1)
    vectors[:300] = vectors[0]  # 300 of one user, nearer to each other than anybody else
    names[:300] = ["loud"] * 300
    assert around(vectors, names, 5) == [
        Near(rows.rows, pytest.approx(rows.edge, abs=1e-5)) for rows in by_definition(vectors, names, 5)
    ]


def test_beyond_the_most_that_are_heard_each_is_compared_with_a_fixed_draw() -> None:
    vectors, names = random_rows(300, 200, 0.0, 2)
    found = around(vectors, names, 5, most=100)
    heard = {row for near in found for row in near.rows}
    assert len(heard) <= 100
    assert found == around(vectors, names, 5, most=100)
    assert all(len(near.rows) == 5 for near in found)


def test_nobody_and_one_alone() -> None:
    assert around(np.zeros((0, 4), np.float32), [], 3) == []
    assert around(np.eye(4, dtype=np.float32), ["ann"] * 4, 3) == [Near([], 1.0)] * 4
