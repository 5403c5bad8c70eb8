"""Token vectors turned once: the same directions as turning each query, within a bounded memory."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_static_vectors import OTHERS, THINGS, MeaningEmbedder, word_tokenizer

from logtune.edges.static_vectors import MOST_TOKENS, StaticVectors, make
from logtune.edges.turned_vectors import TurnedVectors
from logtune.ports import Vectors

WORDS = [*THINGS, *OTHERS, "zzz", "the"]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> StaticVectors:
    folder: Path = tmp_path_factory.mktemp("turned")
    tokenizer = word_tokenizer(folder / "tokenizer.json")
    make(MeaningEmbedder(), tokenizer, folder / "table", lambda _: None, count=600)
    return StaticVectors(folder / "table", tokenizer)


@pytest.fixture(scope="module")
def turn(vectors: StaticVectors) -> Vectors:
    return np.random.default_rng(0).normal(size=(vectors.dimension, vectors.dimension)).astype(np.float32)


def same_direction(one: Vectors, other: Vectors) -> bool:
    if not one.any() or not other.any():
        return not one.any() and not other.any()
    return float(one @ other) / float(np.linalg.norm(one) * np.linalg.norm(other)) > 1 - 1e-5


@given(st.lists(st.sampled_from(WORDS)).map(" ".join))
@settings(max_examples=100, deadline=None)
def test_turning_tokens_is_turning_the_query(vectors: StaticVectors, turn: Vectors, text: str) -> None:
    assert same_direction(TurnedVectors(vectors, turn).direction(text), vectors.vector(text) @ turn)


def test_frequent_tokens_are_turned_beforehand(vectors: StaticVectors, turn: Vectors) -> None:
    turned, late = TurnedVectors(vectors, turn, first=4), TurnedVectors(vectors, turn, first=0)
    assert len(turned._places) == 4
    assert not late._places
    for text in ["parcel card", "the account", *WORDS]:
        assert same_direction(turned.direction(text), late.direction(text))


def test_tokens_are_forgotten_where_there_is_no_room_and_directions_stay(vectors: StaticVectors, turn: Vectors) -> None:
    small = TurnedVectors(vectors, turn, kept=1)  # which is raised to what one text may hold
    assert len(small._rows) == MOST_TOKENS
    small._rows = small._rows[:3]
    for text in ["parcel card", "refund parcel", "card", "account refund card", "parcel"] * 2:
        assert same_direction(small.direction(text), vectors.vector(text) @ turn)
        assert len(small._places) <= 3


def test_a_token_is_turned_once(vectors: StaticVectors, turn: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    turned, asked = TurnedVectors(vectors, turn, first=0), []
    monkeypatch.setattr(vectors, "row", lambda token: asked.append(token) or vectors._table[token])
    for _ in range(3):
        turned.direction("parcel card parcel")
    assert len(asked) == len(set(asked)) == len(set(vectors.tokens("parcel card")))
