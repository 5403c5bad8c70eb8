"""Figures of a comparison: those of streams that only an earlier run measured are kept beside new ones."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("compare_figures")


def found(module: ModuleType, stream: str, system: str, week: int, right: int, tokens: float = 40.0) -> Any:
    names = [f"{stream}-{number}" for number in range(50)]
    return module.Found(
        stream=stream, system=system, week=week, seeds=(0,),
        scores={name: float(number < right) for number, name in enumerate(names)},
        topic_weeks=dict.fromkeys(names, 1), prompt_tokens=tokens, latency_ms=1.0, learn_seconds=1.0,
        training_tokens=1.0, adapter_share=0.004, human_actions=0, retention={}, quality_of_traffic=None, notes=(),
    )  # fmt: skip


def results(module: ModuleType, stream: str, ours: int, rival: int) -> dict[tuple[str, str, int], Any]:
    rows = [
        found(module, stream, system, week, right, tokens)
        for week in (1, 2, 4)
        for system, right, tokens in (("base", 0, 40.0), ("logtune", ours, 40.0), ("few_shot", rival, 200.0))
    ]
    return {(row.stream, row.system, row.week): row for row in rows}


def test_streams_that_only_an_earlier_run_measured_are_kept(figures: ModuleType) -> None:
    both = {**results(figures, "old", 45, 20), **results(figures, "again", 10, 40)}
    earlier = {"note": "as it was", "quick_minutes": 24.0, **figures.figures(both)}
    assert earlier["streams_ahead_week4"] == 1
    now = figures.figures(results(figures, "again", 49, 20))
    merged = figures.beside(now, earlier)
    anew = figures.figures({**results(figures, "old", 45, 20), **results(figures, "again", 49, 20)})
    assert {key: merged[key] for key in anew if key != "measured"} == {k: v for k, v in anew.items() if k != "measured"}
    assert (merged["note"], merged["quick_minutes"]) == ("as it was", 24.0)
    assert sorted(map(str, merged["measured"])) == sorted(map(str, anew["measured"]))


def test_nothing_earlier_changes_nothing(figures: ModuleType) -> None:
    now = figures.figures(results(figures, "one", 45, 20))
    assert figures.beside(now, {}) == now


def test_what_the_new_run_did_not_measure_of_its_streams_is_gone(figures: ModuleType) -> None:
    earlier = figures.figures(results(figures, "one", 45, 20))
    young = {key: row for key, row in results(figures, "one", 30, 20).items() if row.week < 4}
    merged = figures.beside(figures.figures(young), earlier)
    assert "lead_points_week4" not in merged
    assert merged["lead_points_week2"] == {"one": pytest.approx(20.0)}


def test_what_rests_on_a_system_that_was_not_measured_again_is_kept(figures: ModuleType) -> None:
    unfiltered = {("one", "logtune_unfiltered", 4): found(figures, "one", "logtune_unfiltered", 4, 15)}
    earlier = figures.figures({**results(figures, "one", 45, 20), **unfiltered})
    now = figures.figures(results(figures, "one", 30, 20))
    merged = figures.beside(now, earlier)
    assert merged["filter_gain_points"] == earlier["filter_gain_points"] == pytest.approx(60)
    assert merged["lead_points_week4"] == now["lead_points_week4"]
    systems = {(row["system"], row["week"]): row for row in merged["measured"]}
    assert len(systems) == len(merged["measured"]) == 10
    assert ("logtune_unfiltered", 4) in systems
