"""Thresholds for a deployment's own traffic: at most the stated share of it is flagged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.stages.thresholds import HIGHEST, LOWEST, NEEDED, ordinary, thresholds


@given(st.integers(0, 1000), st.sampled_from([0.005, 0.01, 0.05]))
@settings(max_examples=30)
def test_no_more_than_the_share_is_flagged(seed, share):
    chance = np.random.default_rng(seed)
    scores = {name: chance.beta(1, 4, 800) for name in ("toxic", "spam", "jailbreak")}
    found = thresholds(scores, share)
    assert found is not None
    reached = np.any([scores[name] >= found[name] for name in scores], axis=0)
    assert reached.mean() <= share
    assert reached.mean() >= share / 4  # and not far less


def test_quiet_traffic_lowers_a_threshold_as_far_as_is_sensible():
    assert thresholds({"toxic": np.full(500, 0.01)}, 0.01) == {"toxic": LOWEST}
    assert thresholds({"toxic": np.full(500, 1.0)}, 0.01) == {"toxic": HIGHEST}


def test_too_few_queries_say_nothing():
    assert thresholds({"toxic": np.zeros(NEEDED - 1)}, 0.01) is None


def test_ordinary_is_what_others_ask_alike():
    chance = np.random.default_rng(0)
    topic = chance.normal(size=16) + chance.normal(scale=0.3, size=(100, 16))
    stray = chance.normal(size=(10, 16))
    rows = np.concatenate([topic, stray])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    inside = ordinary(rows.astype(np.float32), [f"u{n}" for n in range(110)], np.ones(110, bool))
    assert inside[:100].mean() > 0.7
    assert not inside[100:].any()
    assert not ordinary(rows.astype(np.float32), ["u"] * 110, np.zeros(110, bool)).any()
    with pytest.raises(ValueError, match="need at least one"):
        thresholds({}, 0.1)
