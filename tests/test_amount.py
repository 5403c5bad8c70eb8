"""How much a training learns: passes by the number of pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.config import TrainSettings, build
from logtune.stages.amount import epochs_for


@pytest.mark.parametrize(("pairs", "epochs"), [(1, 8), (70, 8), (200, 8), (240, 6), (300, 5), (2000, 3), (10**6, 3)])
def test_few_pairs_take_many_passes(pairs: int, epochs: int) -> None:
    assert epochs_for(pairs, TrainSettings()) == epochs


def test_as_many_passes_as_are_asked_for_where_that_is_less() -> None:
    assert epochs_for(10, TrainSettings(epochs=2)) == 2
    assert epochs_for(10**6, TrainSettings(epochs=1)) == 1


def test_the_papers_preset_takes_its_passes_whatever_they_cost() -> None:
    assert epochs_for(100_000, build({"preset": "uno"}).train) == 8


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 1000), st.integers(1, 64))
def test_more_pairs_never_take_more_passes(pairs: int, epochs: int, steps: int, batch: int) -> None:
    settings = TrainSettings(epochs=epochs, steps=steps, batch=batch)
    assert 1 <= epochs_for(pairs + 1, settings) <= epochs_for(pairs, settings) <= epochs
