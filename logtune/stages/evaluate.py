"""The gate: a candidate against its baseline on users it never learned from. In -> out: cases -> Evaluation.

    choose    grades on the selection split -> the checkpoint
    compare   cases of the confirmation     -> passed, failed or not_enough_data, with the reason: done once

The yardstick is the user's own words: the answer that is closer to the edit or the stated right answer wins the case.
Each user has one vote (better, same, worse over all of his cases), so one loud user decides nothing and votes are
independent; the interval is `statistics.win_rate_interval`. A one-sided bound of it decides: it is above 0.5 for a null
candidate 5% of the time at most.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from logtune.config import EvaluateSettings
from logtune.errors import InputError
from logtune.ids import identified
from logtune.records import CandidateKind, Evaluation, Json, Message, Outcome
from logtune.stages.corrected import FEWEST_BOTH, Counts, pooled, prediction_powered, through_agreement
from logtune.stages.gate_guards import Guard as Guard
from logtune.stages.grading import bleu, degenerate, grade
from logtune.statistics import (
    Estimate,
    needed_cases,
    paired_difference,
    power,
    sign_test,
    two_sided,
    unit_of,
    win_rate_interval,
)

TIE = 0.02  # grades this close are the same: about what one changed word of fifty moves chrF
TOLD = 0.16  # p below which one checkpoint is told from another: about one standard error
GOOD_WIN_RATE = 0.75  # of a candidate worth waiting for, when the logs are too few to estimate one


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One held-out prompt with both answers, and what to judge them by."""

    interaction_id: str
    user: str | None  # who has the vote: the user, else the session; None: the case itself
    prompt: tuple[Message, ...]
    reference: str | None  # the user's own edit or stated right answer
    baseline_answer: str
    candidate_answer: str
    judged: float | None = None  # a judge's preference, 0 baseline .. 1 candidate; beside a reference it is a check
    rules: str = ""  # what a judge goes by where there is no reference
    praised: bool = False  # the reference, where there is one, is the answer that was given, which the user liked

    @property
    def liked(self) -> bool:
        """Whether the answer that was given is the right one, so that no other can be better."""
        return self.praised and bool(self.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which terms a test is held."""

    judge: str = ""  # what is known of the judge behind the verdicts
    agreement: Counts | None = None  # its verdicts beside users' elsewhere: same, undecided, other
    sharing: int = 1  # tests of the cycle that share the error which the settings grant
    since_proof: bool = False  # the cases are those since what serves was proven


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Votes on a candidate."""

    wins: int
    ties: int
    losses: int
    cases: int  # cases behind the votes
    unscored: int  # cases with nothing to judge by: left out

    @property
    def votes(self) -> int:
        """All votes."""
        return self.wins + self.ties + self.losses

    @property
    def win_rate(self) -> float | None:
        """Ties count half; None without a vote."""
        return (self.wins + self.ties / 2) / self.votes if self.votes else None


def flaw(case: Case, settings: EvaluateSettings) -> str | None:
    """Why the candidate's answer counts as lost whatever it says: degenerate, short or unlike; None: it doesn't.

    The very answer that the user wanted has no flaw. Short is measured against the user's own answer where there is
    one: two right words are not too short, however much the baseline talks. Rule "rate" (paper) asks the baseline.
    """
    answer, baseline = case.candidate_answer.strip(), case.baseline_answer.strip()
    yardstick = case.reference if case.reference and settings.rule == "bound" else baseline
    if case.reference and settings.rule == "bound" and grade(answer, case.reference) == 1.0:
        return None
    if settings.max_degenerate < 1 and degenerate(answer):
        return "degenerate"
    if len(answer) < settings.min_length_ratio * len(yardstick):
        return "short"
    return "unlike" if settings.min_bleu and bleu(answer, baseline) < settings.min_bleu else None


def score(case: Case, settings: EvaluateSettings) -> float | None:
    """1 the candidate won the case, 0.5 a tie, 0 lost; None: neither a reference nor a judge, so nobody can say."""
    referenced = bool(case.reference and case.reference.strip())
    if case.judged is None and not referenced:
        return None
    if case.candidate_answer.strip() == case.baseline_answer.strip():
        return 0.5
    if flaw(case, settings):
        return 0.0
    if not referenced and case.judged is not None:
        return _sign(case.judged - 0.5)
    reference = case.reference or ""
    return _sign(grade(case.candidate_answer, reference) - grade(case.baseline_answer, reference))


def _sign(difference: float) -> float:
    return 0.5 if abs(difference) <= TIE else float(difference > 0)


def tally(cases: Sequence[Case], settings: EvaluateSettings) -> Tally:
    """The votes: with unit "user" the mean over a user's cases is one vote, with "case" each case is."""
    said, judged = _said_and_judged(cases, settings)
    values = list((judged | said).values())
    scored = sum(score(case, settings) is not None for case in cases)
    wins, losses = values.count(1.0), values.count(0.0)
    return Tally(wins=wins, losses=losses, ties=len(values) - wins - losses, cases=scored, unscored=len(cases) - scored)


def _said_and_judged(cases: Sequence[Case], settings: EvaluateSettings) -> tuple[dict[str, float], dict[str, float]]:
    """Votes by users' own right answers, and votes as a judge sees the cases: without these answers."""
    seen = (case for case in cases if case.judged is not None)
    verdicts = [replace(case, reference=None) if case.reference else case for case in seen]
    told = [case for case in cases if case.reference and case.reference.strip()]
    return _votes(told, settings), _votes(verdicts, settings)


def _votes(cases: Sequence[Case], settings: EvaluateSettings) -> dict[str, float]:
    """Voter -> 1, 0.5 or 0."""
    scores: dict[str, list[float]] = {}
    for case in cases:
        value = score(case, settings)
        if value is not None:
            scores.setdefault(_voter(case, settings), []).append(value)
    means = {voter: math.fsum(values) / len(values) - 0.5 for voter, values in scores.items()}
    return {voter: 0.5 if abs(mean) <= 1e-9 else float(mean > 0) for voter, mean in means.items()}


def _voter(case: Case, settings: EvaluateSettings) -> str:
    user = case.user if settings.unit == "user" else None
    return unit_of(user, None, case.interaction_id)


def selection_grades(cases: Sequence[Case], settings: EvaluateSettings) -> dict[str, float]:
    """Voter -> mean grade of the candidate's answers, 0..1, of voters with a case that can be graded."""
    grades: dict[str, list[float]] = {}
    for case in cases:
        if case.judged is not None or (case.reference and case.reference.strip()):
            good = grade(case.candidate_answer, case.reference) if case.reference else case.judged or 0.0
            grades.setdefault(_voter(case, settings), []).append(0.0 if flaw(case, settings) else good)
    return {voter: math.fsum(each) / len(each) for voter, each in grades.items()}


def selection_score(grades: Mapping[str, float]) -> float | None:
    """The mean grade, each voter weighing the same; None without any."""
    return math.fsum(grades.values()) / len(grades) if grades else None


def choose(checkpoints: Sequence[Mapping[str, float]], *, strict: bool = False) -> int:
    """Index of the last checkpoint that the same voters cannot tell from the one with the highest selection score.

    Few voters choose by luck, and a later checkpoint's learning rate has come to rest. `strict`: the highest score
    alone, the earliest of equals. The last one of all where nothing could be graded.
    """
    if not checkpoints:
        raise InputError("there is no checkpoint to choose from", "the training stage makes one an epoch")
    scores = [selection_score(grades) for grades in checkpoints]
    known = [(value, -index) for index, value in enumerate(scores) if value is not None]
    best = -max(known)[1] if known else len(scores) - 1
    alike = [index for index, score in enumerate(scores) if score is not None and index > best]
    return best if strict else max([i for i in alike if not _worse(checkpoints[i], checkpoints[best])], default=best)


def _worse(grades: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Whether the voters both know tell it from the best one, by an exact one-sided sign test at TOLD."""
    changes = [grades[voter] - value for voter, value in best.items() if voter in grades]
    return sign_test(sum(change < 0 for change in changes), sum(change > 0 for change in changes)) < TOLD


def compare(
    cases: Sequence[Case],
    *,
    cluster_id: str,
    candidate: CandidateKind,
    adapter_id: str | None,
    baseline: str,
    settings: EvaluateSettings,
    guards: Sequence[Guard] = (),
    terms: Terms = Terms(),
) -> Evaluation:
    """The one test on the confirmation split. `guards`: measured elsewhere (retention), each must have passed.

    `cases`, `wins` and `ties` count votes; `win_rate` and its interval are corrected for the judge's errors where it
    was asked and users have said enough to know them. `guards["answers"]` counts the answers behind.
    """
    votes = tally(cases, settings)
    found, correction = estimate(cases, settings, terms.agreement)
    bound = estimate(
        cases, settings.model_copy(update={"confidence": two_sided(settings.confidence)}), terms.agreement
    )[0].low
    checked = (degeneration(cases, settings), *guards)
    outcome, reason = _judge(votes, found, bound, checked, settings, terms)
    reason = f"{reason}; {correction}" if correction else reason
    told: dict[str, Json] = {"answers": _answers(cases, votes, settings)}
    told |= {"judge": terms.judge} if terms.judge else {}
    told |= {"correction": correction} if correction else {}
    return identified(
        Evaluation(
            id="",
            cluster_id=cluster_id,
            candidate=candidate,
            adapter_id=adapter_id,
            baseline=baseline,
            interaction_ids=tuple(case.interaction_id for case in cases),
            cases=votes.votes,
            wins=votes.wins,
            ties=votes.ties,
            win_rate=round(found.mean, 6) if votes.votes else None,
            lower=round(found.low, 6) if votes.votes else None,
            upper=round(found.high, 6) if votes.votes else None,
            guards={**{guard.name: asdict(guard) for guard in checked}, **told},
            outcome=outcome,
            reason=f"{reason}; {terms.judge}" if terms.judge and outcome == "not_enough_data" else reason,
        )
    )


UNCORRECTED = "the judge's own errors are not in the interval: no user has told enough to know them"


def estimate(
    cases: Sequence[Case], settings: EvaluateSettings, agreement: Counts | None = None
) -> tuple[Estimate, str]:
    """The win rate with its interval, and how it was corrected for the judge's errors; "" where no judge was asked.

    Voters with a right answer of their own are users' word; the others' votes are the judge's.
    """
    said, judged = _said_and_judged(cases, settings)
    alone = [vote for voter, vote in judged.items() if voter not in said]
    both = [(vote, judged[voter]) for voter, vote in said.items() if voter in judged]
    raw = _exact([*said.values(), *alone], settings.confidence)
    if not alone or settings.rule == "rate":
        return raw, ""
    told = f"by the judge alone {_percent(_mean(alone))} of {len(alone)} votes"
    if len(both) >= FEWEST_BOTH:
        found = prediction_powered(both, alone, settings.confidence)
        return found, f"{told}, corrected by {len(both)} votes that users gave too (prediction-powered)"
    level = (1 + settings.confidence) / 2
    through = (
        through_agreement(_counts(alone), agreement, level if said else settings.confidence) if agreement else None
    )
    if agreement is None or through is None:
        return raw, f"{told}; {UNCORRECTED}"
    parts = [(through, len(alone)), *([(_exact([*said.values()], level), len(said))] if said else [])]
    return pooled(parts), f"{told}, corrected by its agreement with {sum(agreement)} of the users' corrections"


def _exact(votes: Sequence[float], confidence: float) -> Estimate:
    bounds = win_rate_interval(*_counts(votes), confidence)
    return Estimate(_mean(votes), bounds.low, bounds.high)


def _counts(votes: Sequence[float]) -> Counts:
    return votes.count(1.0), votes.count(0.5), votes.count(0.0)


def _mean(votes: Sequence[float]) -> float:
    return math.fsum(votes) / len(votes) if votes else 0.5


def _answers(cases: Sequence[Case], votes: Tally, settings: EvaluateSettings) -> dict[str, Json]:
    flaws = Counter(flaw(case, settings) for case in cases)
    lost: dict[str, Json] = {name: count for name, count in flaws.items() if name}
    same = sum(case.candidate_answer.strip() == case.baseline_answer.strip() for case in cases)
    return {"scored": votes.cases, "unscored": votes.unscored, "unchanged": same, "lost_unread": lost}


def degeneration(cases: Sequence[Case], settings: EvaluateSettings) -> Guard:
    """Share of degenerate answers above the baseline's: beyond the margin and not by chance, and it has failed.

    On few answers the estimate says little: of 16 a single one more is 6 points. Whether so much can be ruled out is
    asked later, of many more answers (`gate_guards`, degeneration), and each such answer has lost its vote besides.
    """
    ours = [float(degenerate(case.candidate_answer)) for case in cases]
    base = [float(degenerate(case.baseline_answer)) for case in cases]
    if not cases:
        return Guard(name="degenerate", passed=True, value=None, limit=settings.max_degenerate, reason="no answers")
    found = paired_difference(ours, base, two_sided(settings.confidence))
    reason = (
        f"empty or repeating answers: {_percent(sum(ours) / len(cases))}, baseline {_percent(sum(base) / len(cases))}, "
        f"so {100 * found.mean:+.0f} points (lower bound {100 * found.low:+.0f}); "
        f"allowed {100 * settings.max_degenerate:+.0f}"
    )
    passed = found.mean <= settings.max_degenerate or found.low <= 0
    return Guard(
        name="degenerate", passed=passed, value=round(found.mean, 6), limit=settings.max_degenerate, reason=reason
    )


def _judge(
    votes: Tally, bounds: Estimate, bound: float, guards: Sequence[Guard], settings: EvaluateSettings, terms: Terms
) -> tuple[Outcome, str]:
    """`bound`: the one-sided lower one."""
    few = too_few(votes.votes, votes.cases, settings)
    broken = [guard.reason for guard in guards if not guard.passed]
    rate = bounds.mean
    if few or not votes.votes:
        return "not_enough_data", few or "no case could be judged"
    if broken:
        return "failed", f"a guard was not kept: {'; '.join(broken)}"
    new = " since the last proof" if terms.since_proof else ""
    found = (
        f"won {votes.wins}, tied {votes.ties} and lost {votes.losses} of {votes.votes} votes{new}: "
        f"win rate {_percent(rate)}, {_percent(settings.confidence)} interval {_percent(bounds.low)} to "
        f"{_percent(bounds.high)}{f' (one of {terms.sharing} tests of this cycle)' if terms.sharing > 1 else ''}"
    )
    if rate >= settings.min_win_rate and (settings.rule == "rate" or bound > 0.5):
        decides = settings.rule == "bound" and bounds.low <= 0.5
        told = f", and with {_percent(settings.confidence)} confidence above {math.floor(100 * bound)}%"
        return "passed", f"{found}{told if decides else ''}"
    if bounds.high < 0.5:
        return "failed", f"{found}: worse than the baseline"
    if rate < settings.min_win_rate:
        return "failed", f"{found}: below the least win rate of {_percent(settings.min_win_rate)}"
    return "not_enough_data", f"{found}, which chance alone can do; {_wait(votes, settings)}"


def too_few(votes: int, cases: int, settings: EvaluateSettings, tie_share: float = 0.0) -> str | None:
    """Why so many confirmation votes can't decide anything, and how many more logs it takes; None: they can.

    Known before anything is trained: votes = voters with a reference on the confirmation side, cases = their cases,
    `tie_share` of them expected to find both answers as good (0..1); `hoped_win_rate` is that of the rest.
    """
    least, level = settings.min_cases, two_sided(settings.confidence)
    if settings.rule == "bound":  # with fewer votes not even all of them being wins is significant
        least = max(least, math.ceil(math.log2(1 / (1 - settings.confidence))))
        rate = _with_ties(settings.hoped_win_rate, tie_share)
        if votes >= least and power(votes, rate, tie_share, level) < settings.min_power:
            needed = needed_cases(rate, tie_share, level, settings.min_power)
            if needed is None:
                liked = f"{_percent(tie_share)} of users who liked what they were answered"
                return f"{votes} votes on held-out answers, {liked}: nothing can be better for them"
            least = max(needed, votes + 1)
    if votes >= least:
        return None
    good = _with_ties(GOOD_WIN_RATE, tie_share)
    likely = needed_cases(good, tie_share, level, least=min(good, settings.min_win_rate)) or least
    return (
        f"{votes} {'vote' if votes == 1 else 'votes'} on held-out answers, at least {least} are needed: "
        f"about {_logs(least, votes, cases, settings)} more logs with a known right answer, or "
        f"{_logs(max(likely, least), votes, cases, settings)} for a good chance (80%) to prove a win rate of "
        f"{_percent(GOOD_WIN_RATE)}"
    )


def _with_ties(win_rate: float, tie_share: float) -> float:
    """The win rate of all votes, ties half, of which those that are no ties have the given one."""
    return tie_share / 2 + (1 - tie_share) * win_rate


def _wait(votes: Tally, settings: EvaluateSettings) -> str:
    needed = needed_cases(
        votes.win_rate or 0.5,
        votes.ties / votes.votes,
        two_sided(settings.confidence),
        least=min(0.5, settings.min_win_rate),
    )
    if needed is None:
        return "the difference is too small to prove with any number of logs"
    more = _logs(max(needed, votes.votes + 1), votes.votes, votes.cases, settings)
    return f"if it is real, about {more} more logs with a known right answer would prove it (power 80%)"


def _logs(needed: int, votes: int, cases: int, settings: EvaluateSettings) -> int:
    """Logs of all sides that bring so many votes to the confirmation side, at today's cases a vote."""
    exact = (needed - votes) / max(settings.confirmation_share, 1e-6) * max(1.0, cases / max(1, votes))
    unit = int(10 ** max(0, math.floor(math.log10(max(1.0, exact))) - 1))  # two digits: it is no more than a guide
    return math.ceil(exact / unit - 1e-9) * unit


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
