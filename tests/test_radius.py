"""A cluster reaches as far as its own requests, and no further than keeps strangers out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.stages.radius import reach

NOBODY = np.empty(0)
closenesses = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40).map(np.array)


def test_without_strangers_it_is_the_least_quantile() -> None:
    own = np.linspace(0.5, 0.9, 101)
    found = reach(own, NOBODY, 0.01, 0.1)
    assert found.radius == pytest.approx(np.quantile(own, 0.01))
    assert found.members.all(), "without strangers all belong"


def test_members_that_belong_nowhere_do_not_let_strangers_in() -> None:
    own = np.concatenate([np.linspace(0.1, 0.2, 8), np.linspace(0.4, 0.9, 92)])  # noise that no filter found
    strangers = np.linspace(0.1, 0.3, 100)
    assert reach(own, strangers, 0.01, 0.1).radius == pytest.approx(0.4)
    assert reach(own, strangers, 0.01, 0.1).members.tolist() == [False] * 8 + [True] * 92
    assert reach(own, strangers, 0.01, 0.05).radius == pytest.approx(np.quantile(own, 0.05))
    assert reach(own, strangers, 0.01, 0.01).radius == pytest.approx(np.quantile(own, 0.01))


def test_strangers_that_are_far_away_cost_no_member() -> None:
    own = np.linspace(0.5, 0.9, 101)
    assert reach(own, np.full(50, 0.1), 0.01, 0.1).radius == pytest.approx(np.quantile(own, 0.01))


def test_where_everybody_asks_everyday_things_nothing_is_given_up_for_them() -> None:
    own = np.linspace(0.5, 0.9, 101)
    assert reach(own, own, 0.01, 0.1).radius == pytest.approx(np.quantile(own, 0.01))


@given(closenesses, closenesses, st.floats(0, 1), st.floats(0, 1))
def test_it_lies_between_the_quantiles_and_parts_no_worse_than_the_widest(
    own: np.ndarray, strangers: np.ndarray, least: float, most: float
) -> None:
    widest, narrowest = np.quantile(own, [least, max(least, most)])
    found = reach(own, strangers, least, most).radius
    assert widest <= found <= narrowest

    def parted(radius: float) -> float:
        return float(np.mean(own >= radius) - np.mean(strangers >= radius))

    assert parted(found) >= parted(float(widest)) - 1e-12
