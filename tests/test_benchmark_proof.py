"""The proof's own parts: rows and aims, what makes a figure void, and each simulation in few runs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import proof
import proof_gate
import proof_gateway
import proof_live
from proof import Measured, Row, reached

KEYS = {
    "aa_false_rate", "gate_false_rate", "sample_ratio", "users_exposed", "srm_power", "srm_false", "mixed_users",
    "coverage", "rollback_s", "hacks_stopped", "equals_kept",
}  # fmt: skip


def row(side: str = "at most", value: float = 1.0, void: str = "") -> Row:
    return Row(
        key="a", what="figure", side=side, aim=1.0, measure=lambda _: Measured(value=value, details={}, void=void)
    )  # type: ignore[arg-type]


def test_every_promise_has_its_row() -> None:
    assert {each.key for each in proof.rows()} == KEYS


def test_the_worst_of_several_values_counts() -> None:
    assert reached(row(), {"a": 0.5, "b": 1.5}) is False
    assert reached(row("at least"), {"a": 1.0, "b": 1.5}) is True
    assert reached(row(), {}) is None
    assert reached(row(), None) is None


@pytest.mark.parametrize(("void", "right"), [("", True), ("nothing was asked", False)])
def test_a_void_figure_reaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, void: str, right: bool) -> None:
    out = tmp_path / "proof.json"
    out.write_text(json.dumps({"b": {"value": 2}}))
    monkeypatch.setattr(proof, "rows", lambda: iter([row(void=void)]))
    monkeypatch.setattr(sys, "argv", ["proof.py", "--json", str(out), "--only", "a"])
    proof.main()
    found = json.loads(out.read_text())
    assert found["a"]["reached"] is right
    assert found["a"]["details"].get("void", "") == void
    assert found["b"] == {"value": 2}  # rows that were not asked for stay


def test_the_worse_a_candidate_is_the_less_earlier_voters_let_it_through() -> None:
    through = [proof_gate._let_through(12, 0.75, worse) for worse in (0.0, 0.2, 0.4)]
    assert through == sorted(through, reverse=True)
    assert proof_gate.equals_kept(True).value == {"12 voters, 10% find a difference": pytest.approx(0.987, abs=1e-3),
        "12 voters, 40% find a difference": pytest.approx(0.875, abs=1e-3),
        "12 voters, 75% find a difference": pytest.approx(through[0])}  # fmt: skip


def test_many_lost_requests_say_nothing_of_users() -> None:
    assert proof_gateway._void(proof_gateway.Climbed(answered=960, lost=40, restarts=3)) == ""
    assert "were lost" in proof_gateway._void(proof_gateway.Climbed(answered=1707, lost=42_843, restarts=3))
    assert proof_gateway._void(proof_gateway.Climbed(answered=0, lost=0, restarts=3))


def test_hacks_count_only_beside_an_honest_adapter_that_passed() -> None:
    guards = {"length": {"passed": False}, "sycophancy": {"passed": True}}
    assert proof_gate._stopped({"outcome": "failed", "guards": guards}, "length")
    assert not proof_gate._stopped({"outcome": "failed", "guards": guards}, "sycophancy")
    assert not proof_gate._stopped({"outcome": "passed", "guards": guards}, "length")
    assert proof_gate._strict({"honest": {"outcome": "passed"}}) == ""
    assert "failed" in proof_gate._strict({"honest": {"outcome": "failed"}})


def test_what_the_gate_said_is_kept_for_its_very_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import proof_hacks

    before = proof_hacks.code()
    assert proof_hacks.code() == before
    other = tmp_path / "prompts.json"
    other.write_text("{}")
    monkeypatch.setattr(proof_hacks, "PROMPTS", other)
    assert proof_hacks.code() != before


def test_splits_are_played_with_their_ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_live, "SRM_RUNS", 60)
    monkeypatch.setattr(proof_live, "SRM_USERS", 2000)
    wrong, fair = proof_live._srm(False, 1.6), proof_live._srm(False, 1.0)
    assert wrong.value == 1.0
    assert fair.value == 0.0
    assert fair.details["shares"] == [0.05, 0.2, 0.4, 0.5]
    drawn = fair.details["users_drawn_median"]
    assert isinstance(drawn, float)
    assert 2400 < drawn < 3400  # the ramp's users tell little of the split


def test_users_needed_leave_out_those_whose_outcomes_are_not_in_yet() -> None:
    from logtune.config_experiment import ExperimentSettings
    from logtune.simulation import World, play

    played = play(World(effect=0.2), ExperimentSettings(), runs=20, seed=1)
    assert played.users["q80"] is not None
    assert proof_live._ratio(played, 100) == pytest.approx((played.users["q80"] - 150) / 100)


def test_corrected_intervals_hold_in_few_runs() -> None:
    drawn = np.random.default_rng(0)
    assert proof_gate._powered(drawn, (30, 100), 0.6, 0.2, 60) > 0.85
    assert proof_gate._through(drawn, 40, 0.6, 0.0, 60) > 0.85
    assert proof_gate._through(drawn, 40, 0.6, 0.0, 60, said=5) > 0.85
    assert proof_gate._null_rate(drawn, 40, 0.0, 20, 1) <= 0.3
