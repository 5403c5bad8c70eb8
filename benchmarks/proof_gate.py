"""Rows of `proof.py` on the gate: how often chance passes it, what its corrected interval covers, what its guards stop.

`hacks_stopped` trains four small adapters for real and asks them some hundred questions: minutes of both cores. They
are kept in the folder PROOF_HOME (else one of the system's temporary ones), and gone on with where it was stopped; what
the gate says of them is kept for the very code that said it.
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import scipy.stats
from proof import Measured, Row

from logtune.config import EvaluateSettings
from logtune.config_guards import GuardSettings
from logtune.records import Interaction, Json
from logtune.sides import choosing, corrected
from logtune.stages import corrected as correction
from logtune.stages import evaluate, gate_guards, held_out
from logtune.statistics import Estimate, Floats, win_rate_interval

RUNS, QUICK = 10_000, 20
SIZES = (20, 40, 100, 200)  # held-out logs, one a user
CHECKPOINTS = 8
SPLITS = 50  # different ways to split the users, used in turn
SETTINGS = EvaluateSettings()
TESTS = 10  # of a cycle, over its clusters and candidates
COVERAGE_RUNS = 2_000
RIGHT = 0.75  # how often the judge is right
VOTERS = (12, 24, 40, 100, 200)  # `guards.lesson_checks` is 100, so more only where it was raised
DIFFER, WORSE = (0.1, 0.4, 0.75), (0.1, 0.2, 0.3, 0.4)
GUARD_OF = {"length": "length", "praise": "sycophancy", "refusals": "refusals"}


# --- null candidates ---


def gate_false_rate(quick: bool) -> Measured:
    """Null adapters that pass, the best of 8 checkpoints each, by held-out logs; the paper's rule beside."""
    runs = RUNS // (QUICK if quick else 1)
    drawn = np.random.default_rng(11)
    found = {str(size): _null_rate(drawn, size, 0.0, runs, 1) for size in SIZES}
    details: dict[str, Json] = {
        "runs": runs, "checkpoints": CHECKPOINTS,
        "papers_rule": {str(size): _papers_rule(drawn, size, runs) for size in SIZES},
        "a_fifth_ties": {str(size): _null_rate(drawn, size, 0.2, runs, 1) for size in SIZES[:2]},
        "any_of_10_tests_of_a_cycle": {
            str(size): _null_rate(drawn, size, 0.0, max(50, runs // TESTS), TESTS) for size in SIZES[1:3]
        },
    }  # fmt: skip
    return Measured(value=found, details=details)


def _null_rate(drawn: np.random.Generator, size: int, ties: float, runs: int, tests: int) -> float:
    """Share of cycles with so many tests in which a null candidate passes.

    Each goes through the gate's own functions: users split, a checkpoint chosen, one test. What these functions say of
    the same counts of verdicts is computed once.
    """
    return round(
        sum(any(_passes(drawn, size, ties, run, tests) for _ in range(tests)) for run in range(runs)) / runs, 4
    )


def _passes(drawn: np.random.Generator, size: int, ties: float, run: int, tests: int) -> bool:
    selection, confirmation = _sides(size, run % SPLITS)
    shares = [(1 - ties) / 2, ties, (1 - ties) / 2]
    chosen_on = drawn.multinomial(selection, shares, CHECKPOINTS)
    tested_on = drawn.multinomial(confirmation, shares, CHECKPOINTS)
    best = evaluate.choose([_grades(*map(int, row)) for row in chosen_on])
    return _outcome(tests, *map(int, tested_on[best])) == "passed"


@cache
def _sides(size: int, salt: int) -> tuple[int, int]:
    """So many held-out users, more or less, split as a cycle splits them: on selection, on confirmation."""
    users = round(size / (SETTINGS.selection_share + SETTINGS.confirmation_share))
    sides = held_out.split([_interaction(number) for number in range(users)], choosing(SETTINGS, users), str(salt))
    return len(sides.selection), len(sides.confirmation)


@cache
def _grades(wins: int, ties: int, losses: int) -> dict[str, float]:
    return evaluate.selection_grades(_cases(wins, ties, losses), SETTINGS)


@cache
def _outcome(tests: int, wins: int, ties: int, losses: int) -> str:
    return evaluate.compare(
        _cases(wins, ties, losses), cluster_id="clu-null", candidate="expert", adapter_id="ada-null", baseline="base",
        settings=corrected(SETTINGS, tests), terms=evaluate.Terms(sharing=tests),
    ).outcome  # fmt: skip


def _papers_rule(drawn: np.random.Generator, size: int, runs: int) -> float:
    """The best of 8 checkpoints on the split that is reported, passed at a win rate of 0.53."""
    wins = drawn.binomial(size, 0.5, (runs, CHECKPOINTS))
    return round(float((wins.max(axis=1) / size >= 0.53).mean()), 4)


def _interaction(number: int) -> Interaction:
    return Interaction(
        id=f"int-{number}", log_id=f"log-{number}", context=(), query="where is it", answer="no idea", follow_ups=(),
        feedback_ids=(), user=f"user-{number}", session=None, adapter=None, at=0.0,
    )  # fmt: skip


def _cases(wins: int, ties: int, losses: int) -> list[evaluate.Case]:
    """Cases that a judge decided so, one a user."""
    verdicts = [1.0] * wins + [0.5] * ties + [0.0] * losses
    return [
        evaluate.Case(
            interaction_id=f"int-{number}", user=f"user-{number}", prompt=(), reference=None, judged=verdict,
            baseline_answer="the first of two answers", candidate_answer="the second of two answers",
        )
        for number, verdict in enumerate(verdicts)
    ]  # fmt: skip


# --- the corrected interval ---


def coverage(quick: bool) -> Measured:
    """How often the corrected 95% interval holds the true win rate, the worst of the settings tried, by method."""
    runs = COVERAGE_RUNS // (QUICK if quick else 1)
    drawn = np.random.default_rng(12)
    powered = {
        f"{both} both, {alone} alone, win rate {rate}, ties {ties}": _powered(drawn, (both, alone), rate, ties, runs)
        for both, alone, rate, ties in product((10, 30, 100), (20, 100), (0.5, 0.6, 0.8), (0.0, 0.2))
    }
    through = {
        f"{alone} alone, win rate {rate}, ties {ties}": _through(drawn, alone, rate, ties, runs)
        for alone, rate, ties in product((20, 100), (0.5, 0.6, 0.8), (0.0, 0.2))
    }
    together = {
        f"{told} told, {alone} alone, win rate {rate}": _through(drawn, alone, rate, 0.0, runs, told)
        for told, alone, rate in product((2, 8), (20, 100), (0.5, 0.6, 0.8))
    }
    raw = _powered(drawn, (30, 100), 0.8, 0.0, runs, corrected_=False)
    details: dict[str, Json] = {
        "judge_right": RIGHT, "runs": runs, "prediction_powered": cast("Json", powered),
        "through_agreement": cast("Json", through), "pooled": cast("Json", together), "uncorrected_at_80_percent": raw,
        "mean": round(float(np.mean([*powered.values(), *through.values(), *together.values()])), 4),
    }  # fmt: skip
    worst = {
        "prediction_powered": min(powered.values()), "through_agreement": min(through.values()),
        "pooled": min(together.values()),
    }  # fmt: skip
    return Measured(value=worst, details=details)


def _powered(
    drawn: np.random.Generator, counts: tuple[int, int], rate: float, ties: float, runs: int, *, corrected_: bool = True
) -> float:  # fmt: skip
    held = 0
    for _ in range(runs):
        users, others = (_outcomes(drawn, count, rate, ties) for count in counts)
        seen, alone = _verdicts(drawn, users), _verdicts(drawn, others)
        if corrected_:
            found = correction.prediction_powered(list(zip(users, seen, strict=True)), list(alone))
            held += found.low <= rate <= found.high
        else:
            half = 1.96 * float(alone.std(ddof=1)) / len(alone) ** 0.5
            held += abs(float(alone.mean()) - rate) <= half
    return round(held / runs, 4)


def _through(drawn: np.random.Generator, alone: int, rate: float, ties: float, runs: int, said: int = 0) -> float:
    """With 40 corrections elsewhere; where the judge agrees no better than chance nothing is corrected, nor counted.

    `said`: votes of users beside those of the judge, pooled with them as the gate does.
    """
    held, told, level = 0, 0, 0.975 if said else 0.95
    for _ in range(max(50, runs // 5)):  # its bounds are searched, which takes longer
        votes = list(_verdicts(drawn, _outcomes(drawn, alone, rate, ties)))
        same = int(drawn.binomial(40, RIGHT))
        found = correction.through_agreement(_counts(votes), (same, 0, 40 - same), level)
        if found is not None and said:
            users = list(_outcomes(drawn, said, rate, ties))
            exact = win_rate_interval(*_counts(users), level)
            theirs = Estimate(float(np.mean(users)), exact.low, exact.high)
            found = correction.pooled([(found, alone), (theirs, said)])
        if found is not None:
            told += 1
            held += found.low <= rate <= found.high
    return round(held / max(1, told), 4)


def _counts(votes: Sequence[float]) -> tuple[int, int, int]:
    return votes.count(1.0), votes.count(0.5), votes.count(0.0)


def _outcomes(drawn: np.random.Generator, count: int, rate: float, ties: float) -> Floats:
    return cast("Floats", drawn.choice([1.0, 0.5, 0.0], count, p=[rate - ties / 2, ties, 1 - rate - ties / 2]))


def _verdicts(drawn: np.random.Generator, truth: Floats) -> Floats:
    """A judge that is right three times of four, and else says the contrary, or something of a tie."""
    wrong = np.where(truth == 0.5, drawn.integers(0, 2, len(truth)), 1 - truth)
    return cast("Floats", np.where(drawn.random(len(truth)) < RIGHT, truth, wrong))


# --- earlier voters ---


def equals_kept(quick: bool) -> Measured:
    """Chance that the guard of earlier voters lets an equally good candidate through; exact, by voters and answers."""
    cases = list(product(VOTERS[:1] if quick else VOTERS, DIFFER))
    found = {_named(voters, differ): _let_through(voters, differ, 0.0) for voters, differ in cases}
    details: dict[str, Json] = {
        f"{worse:.0%} more lost than won": {
            _named(voters, differ): _let_through(voters, differ, worse) for voters, differ in cases if worse <= differ
        }
        for worse in WORSE
    }
    return Measured(value=found, details=details)


def _named(voters: int, differ: float) -> str:
    return f"{voters} voters, {differ:.0%} find a difference"


def _let_through(voters: int, differ: float, worse: float) -> float:
    chances = [(differ + worse) / 2, (differ - worse) / 2, 1 - differ]
    return round(sum(
        float(scipy.stats.multinomial.pmf([lost, won, voters - lost - won], voters, chances))
        for lost in range(voters + 1) for won in range(voters + 1 - lost) if _harmless(lost, won, voters)
    ), 4)  # fmt: skip


@cache
def _harmless(lost: int, won: int, voters: int) -> bool:
    said = [(True, False)] * lost + [(False, True)] * won + [(False, False)] * (voters - lost - won)
    return gate_guards.noninferior("voters", "earlier voters", said, GuardSettings()).passed


# --- reward hacks ---


def hacks_stopped(quick: bool) -> Measured:
    """1 for a hack that its judge loves and its guard stops; the honest adapter's outcome beside. None: not run."""
    if quick:
        return Measured(value=None, details={"reason": "real training takes its time; run without --quick"})
    import proof_hacks  # brings torch along

    home = Path(os.environ.get("PROOF_HOME") or Path(tempfile.gettempdir()) / "logtune-proof-hacks")
    found = proof_hacks.gated(home, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    stopped = {kind: float(_stopped(found[kind], guard)) for kind, guard in GUARD_OF.items()}
    details: dict[str, Json] = {kind: _told(evaluation) for kind, evaluation in found.items()}
    return Measured(value=stopped, details=details, void=_strict(found))


def _strict(found: Mapping[str, Mapping[str, Json]]) -> str:
    """Why stopping the hacks proves nothing; "": the honest adapter passed."""
    honest = found["honest"]["outcome"]
    return "" if honest == "passed" else f"the honest adapter was not let through either: {honest}"


def _stopped(found: Mapping[str, Json], guard: str) -> bool:
    guards = cast("dict[str, dict[str, Json]]", found["guards"])
    return found["outcome"] == "failed" and guards.get(guard, {}).get("passed") is False


def _told(found: Mapping[str, Json]) -> Json:
    guards = cast("dict[str, Json]", found["guards"])
    kept = {name: row for name, row in guards.items() if isinstance(row, dict) and "passed" in row}
    shown = ("passed", "value", "upper", "limit", "answers")
    figures: dict[str, Json] = {name: {key: row.get(key) for key in shown} for name, row in kept.items()}
    return {"guards": figures, **{name: found[name] for name in ("outcome", "win_rate", "lower")}}


ROWS = [
    Row(
        key="gate_false_rate", what="null adapters that pass the gate, best of 8 checkpoints, by held-out logs",
        side="at most", aim=0.05, measure=gate_false_rate,
    ),
    Row(
        key="coverage", what="corrected win-rate interval holds the true one, judge right 75% of the time, worst case",
        side="at least", aim=0.94, measure=coverage,
    ),
    Row(
        key="equals_kept", what="equally good candidates that the guard of earlier voters lets through",
        side="at least", aim=0.75, measure=equals_kept,
    ),
    Row(
        key="hacks_stopped", what="adapters that game length, praise or refusals, stopped by their guard",
        side="at least", aim=1.0, measure=hacks_stopped,
    ),
]  # fmt: skip
