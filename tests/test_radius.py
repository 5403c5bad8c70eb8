"""A cluster reaches as far as its own requests, and no further than keeps strangers out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.stages.radius import FEW, SLACK, reach

NOBODY = np.empty(0)
OWN = np.linspace(0.5, 0.9, 101)
USUAL = float(np.quantile(OWN, 0.01))
closenesses = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40).map(np.array)


def test_without_strangers_it_is_the_usual_quantile() -> None:
    found = reach(OWN, NOBODY, 0.01, 0.1)
    assert found.radius == pytest.approx(USUAL)
    assert found.members.all(), "without strangers all belong"


def test_members_that_belong_nowhere_do_not_let_strangers_in() -> None:
    own = np.concatenate([np.linspace(0.1, 0.2, 8), np.linspace(0.4, 0.9, 92)])  # noise that no filter found
    strangers = np.linspace(0.1, 0.3, 100)
    found = reach(own, strangers, 0.01, 0.1)
    assert found.radius == pytest.approx(np.quantile(strangers, 1 - FEW))
    assert found.members.tolist() == [False] * 8 + [True] * 92
    assert reach(own, strangers, 0.01, 0.05).radius == pytest.approx(np.quantile(own, 0.05)), "5% of its own, at most"


def test_where_strangers_are_far_away_it_is_wider_than_usual() -> None:
    near, far = (reach(OWN, np.full(50, close), 0.01, 0.1) for close in (0.45, 0.1))
    assert near.radius == pytest.approx(0.45)
    assert far.radius == pytest.approx(SLACK * USUAL)
    assert near.members.all()
    assert far.members.all()


def test_where_everybody_asks_everyday_things_nothing_is_given_up_for_them() -> None:
    found = reach(OWN, OWN, 0.01, 0.1)
    assert found.radius == pytest.approx(USUAL)
    assert found.members.all()


@given(closenesses, closenesses, st.floats(0, 1), st.floats(0, 1))
def test_it_lies_within_its_limits_and_lets_few_strangers_in_where_these_allow(
    own: np.ndarray, strangers: np.ndarray, usual: float, most: float
) -> None:
    plain, narrowest = np.quantile(own, [usual, max(usual, most)])
    found = reach(own, strangers, usual, most)
    assert min(plain, SLACK * plain) <= found.radius <= narrowest
    inside = np.mean(strangers > found.radius)
    assert found.radius in (plain, narrowest) or inside <= FEW + 1 / len(strangers)
    assert found.members.all() or found.radius > plain
