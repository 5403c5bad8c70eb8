"""Win rates corrected for a judge's errors: coverage by simulation, and what is said where nothing can be corrected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_evaluate import GATE, case, gate, judged

from logtune.errors import InputError
from logtune.stages.corrected import pooled, prediction_powered, through_agreement
from logtune.stages.evaluate import Case, Terms, compare, estimate
from logtune.statistics import Estimate

RUNS = 1500


def outcomes(drawn: np.random.Generator, count: int, rate: float, tie: float) -> np.ndarray:
    return drawn.choice([1.0, 0.5, 0.0], count, p=[rate - tie / 2, tie, 1 - rate - tie / 2])


def verdicts(drawn: np.random.Generator, truth: np.ndarray, right: float, favours: float = 0.5) -> np.ndarray:
    """A judge that is right with this probability; of its errors on ties so many go to the candidate."""
    wrong = np.where(truth == 0.5, (drawn.random(len(truth)) < favours).astype(float), 1 - truth)
    return np.where(drawn.random(len(truth)) < right, truth, wrong)


@pytest.mark.parametrize(("count", "more"), [(10, 40), (30, 100), (100, 100)])
@pytest.mark.parametrize(("rate", "tie"), [(0.5, 0.2), (0.7, 0.0), (0.85, 0.1)])
def test_the_corrected_interval_covers_the_true_win_rate(count: int, more: int, rate: float, tie: float) -> None:
    drawn = np.random.default_rng(count + int(100 * rate))
    covered = raw = 0
    for _ in range(RUNS):
        users, others = outcomes(drawn, count, rate, tie), outcomes(drawn, more, rate, tie)
        seen, alone = verdicts(drawn, users, 0.75, 0.9), verdicts(drawn, others, 0.75, 0.9)
        found = prediction_powered(list(zip(users, seen, strict=True)), list(alone))
        covered += found.low <= rate <= found.high
        raw += abs(alone.mean() - rate) < 1.96 * alone.std() / more**0.5
    assert covered / RUNS >= 0.95 - 3 * (0.95 * 0.05 / RUNS) ** 0.5
    assert covered > raw or rate == 0.5


@pytest.mark.parametrize("rate", [0.5, 0.65, 0.8])
def test_correction_through_agreement_covers_too(rate: float) -> None:
    drawn = np.random.default_rng(3)
    covered = 0
    for _ in range(RUNS):
        alone = list(verdicts(drawn, outcomes(drawn, 80, rate, 0.1), 0.75))
        same = int(drawn.binomial(40, 0.75))
        counts = alone.count(1.0), alone.count(0.5), alone.count(0.0)
        agreement = same, 0, 40 - same
        found = through_agreement(counts, agreement)
        covered += found is None or found.low <= rate <= found.high
    assert covered / RUNS >= 0.95


def test_against_the_formula_by_hand() -> None:
    """A perfect judge: its weight makes both samples one; a judge that always ties is not listened to."""
    users = [1.0, 0.0, 1.0, 1.0] * 5
    perfect = prediction_powered([(y, y) for y in users], [1.0, 0.0] * 20)
    alone = [1.0, 0.0] * 20
    weight = np.cov(users, users)[0, 1] / np.var(users + alone, ddof=1) / (1 + 20 / 40)
    assert perfect.mean == pytest.approx(0.75 + weight * (0.5 - 0.75))
    deaf = prediction_powered([(y, 0.5) for y in users], [0.5] * 30)
    assert deaf.mean == pytest.approx(0.75)
    found = through_agreement((60, 0, 40), (30, 0, 10))
    assert found is not None
    assert found.mean == pytest.approx(0.7)  # 0.5 + 0.1 / (2 * 0.75 - 1)


def test_a_judge_no_better_than_chance_corrects_nothing() -> None:
    assert through_agreement((60, 0, 40), (11, 0, 9)) is None
    for both, alone in (([(1.0, 1.0)], [1.0]), ([(1.0, 1.0)] * 3, [])):
        with pytest.raises(InputError, match="correct nothing"):
            prediction_powered(both, alone)


def test_pooled_is_the_mean_over_both_groups() -> None:
    found = pooled([(Estimate(0.8, 0.6, 0.9), 30), (Estimate(0.5, 0.4, 0.6), 10)])
    assert (found.mean, found.low, found.high) == pytest.approx((0.725, 0.55, 0.825))


share = st.sampled_from([0.0, 0.5, 1.0])


@given(st.lists(st.tuples(share, share), min_size=2, max_size=40), st.lists(share, min_size=1, max_size=40))
def test_the_interval_holds_its_estimate(both: list[tuple[float, float]], alone: list[float]) -> None:
    found = prediction_powered(both, alone)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    turned = prediction_powered([(1 - y, 1 - f) for y, f in both], [1 - f for f in alone])
    assert turned.mean == pytest.approx(1 - found.mean, abs=1e-9)


# in the gate


def told(count: int, wins: int, agrees: bool = True) -> list[Case]:
    """Cases whose users gave the right answer, and that the judge was asked about too."""
    rows = [case(number, candidate_answer="card_arrival" if number < wins else "lost_card") for number in range(count)]
    return [
        case(
            number,
            candidate_answer=row.candidate_answer,
            baseline_answer="card_arrival" if number >= wins else "lost",
            judged=float((number < wins) == agrees),
        )
        for number, row in enumerate(rows)
    ]


def test_votes_of_users_alone_need_no_correction() -> None:
    found = gate(told(20, 18))
    assert (found.cases, found.wins) == (20, 18)
    assert "correct" not in found.reason
    assert "correction" not in found.guards


def test_a_judge_that_users_contradict_is_corrected() -> None:
    alone = judged([1] * 30)
    trusted = gate([*told(20, 14), *renumbered(alone)])
    doubted = gate([*told(20, 14, agrees=False), *renumbered(alone)])
    assert "prediction-powered" in trusted.reason
    assert (trusted.win_rate or 0) > (doubted.win_rate or 0)
    assert (trusted.lower or 0) > 0.5 > (doubted.lower or 0)
    assert trusted.wins == doubted.wins == 44


def test_without_users_answers_the_interval_says_that_it_is_not_corrected() -> None:
    found = gate(judged([1] * 20))
    assert found.outcome == "passed"
    assert "the judge's own errors are not in the interval" in found.reason


def test_corrections_elsewhere_widen_the_interval_too() -> None:
    cases = judged([1] * 30 + [0] * 10)
    raw, _ = estimate(cases, GATE)
    found, reason = estimate(cases, GATE, (36, 0, 4))
    assert "corrected by its agreement with 40" in reason
    assert found.mean > raw.mean
    assert found.high - found.low > raw.high - raw.low
    few = compare(
        [*told(4, 3), *renumbered(cases)], cluster_id="c", candidate="expert", adapter_id=None, baseline="base",
        settings=GATE, terms=Terms(judge="it agrees", agreement=(36, 0, 4)),
    )  # fmt: skip
    assert few.cases == 44
    assert few.guards["judge"] == "it agrees"


def renumbered(cases: list[Case]) -> list[Case]:
    from dataclasses import replace

    return [replace(row, interaction_id=f"more-{number}") for number, row in enumerate(cases)]
