"""The gate: a candidate against its baseline on users it never learned from. In -> out: cases -> Evaluation.

    split     Interaction*                  -> train, selection, confirmation, by user, for ever
    choose    scores on the selection split -> the checkpoint
    compare   cases of the confirmation     -> passed, failed or not_enough_data, with the reason: done once

The yardstick is the user's own words: the answer that is closer to the edit or the stated right answer wins the case.
Each user has one vote (better, same, worse over all of his cases), so one loud user decides nothing and votes are
independent; the interval is `statistics.win_rate_interval`, whose lower end is above 0.5 for a null candidate
2.5% of the time at most.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from logtune.config import EvaluateSettings
from logtune.errors import InputError
from logtune.records import CandidateKind, Evaluation, Interaction, Json, Message, Outcome, identified
from logtune.stages.grading import bleu, degenerate, grade
from logtune.statistics import Interval, needed_cases, paired_difference, uniform, unit_of, win_rate_interval

TIE = 0.02  # grades this close are the same: about what one changed word of fifty moves chrF
GOOD_WIN_RATE = 0.75  # of a candidate worth waiting for, when the logs are too few to estimate one


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Interactions by what they are for; no user is on two sides."""

    train: tuple[Interaction, ...]
    selection: tuple[Interaction, ...]  # chooses the checkpoint; empty under preset uno, which uses `confirmation`
    confirmation: tuple[Interaction, ...]  # tested once


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One held-out prompt with both answers, and what to judge them by."""

    interaction_id: str
    user: str | None  # who has the vote: the user, else the session; None: the case itself
    prompt: tuple[Message, ...]
    reference: str | None  # the user's own edit or stated right answer
    baseline_answer: str
    candidate_answer: str
    judged: float | None = None  # a judge's preference, 0 baseline .. 1 candidate; wins over the reference
    rules: str = ""  # what a judge goes by where there is no reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """One thing that must not get worse."""

    name: str
    passed: bool
    value: float | None  # None: not measured
    limit: float
    reason: str


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


def split(interactions: Sequence[Interaction], settings: EvaluateSettings, salt: str) -> Split:
    """Interactions by the salted hash of their user, else session, else id: the same side in every cycle.

    Both held-out sides have their own end of the hash: changing one share moves users to or from `train` alone.
    Few users may by luck leave a side empty; nothing is moved to mend that, `compare` then says not_enough_data.
    """
    if settings.selection_share + settings.confirmation_share >= 1:
        shares = f"selection_share {settings.selection_share} and confirmation_share {settings.confirmation_share}"
        raise InputError(f"{shares} leave nothing to train on", "lower them in [evaluate]; the defaults are 0.15 each")
    sides: dict[str, list[Interaction]] = {"train": [], "selection": [], "confirmation": []}
    for item in interactions:
        place = uniform("split", salt, unit_of(item.user, item.session, item.id))
        held = "confirmation" if place < settings.confirmation_share else "train"
        sides["selection" if place >= 1 - settings.selection_share else held].append(item)
    return Split(**{name: tuple(items) for name, items in sides.items()})


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
    if case.judged is not None:
        return _sign(case.judged - 0.5)
    reference = case.reference or ""
    return _sign(grade(case.candidate_answer, reference) - grade(case.baseline_answer, reference))


def _sign(difference: float) -> float:
    return 0.5 if abs(difference) <= TIE else float(difference > 0)


def tally(cases: Sequence[Case], settings: EvaluateSettings) -> Tally:
    """The votes: with unit "user" the mean over a user's cases is one vote, with "case" each case is."""
    scores: dict[str, list[float]] = {}
    for case in cases:
        value = score(case, settings)
        if value is not None:
            scores.setdefault(_voter(case, settings), []).append(value)
    means = [math.fsum(values) / len(values) - 0.5 for values in scores.values()]
    wins, losses = sum(mean > 1e-9 for mean in means), sum(mean < -1e-9 for mean in means)
    scored = sum(map(len, scores.values()))
    return Tally(wins=wins, losses=losses, ties=len(means) - wins - losses, cases=scored, unscored=len(cases) - scored)


def _voter(case: Case, settings: EvaluateSettings) -> str:
    user = case.user if settings.unit == "user" else None
    return unit_of(user, None, case.interaction_id)


def selection_score(cases: Sequence[Case], settings: EvaluateSettings) -> float | None:
    """Mean grade of the candidate's answers, 0..1, each voter weighing the same; None when no case can be graded."""
    grades: dict[str, list[float]] = {}
    for case in cases:
        if case.judged is not None or (case.reference and case.reference.strip()):
            good = case.judged if case.judged is not None else grade(case.candidate_answer, case.reference or "")
            grades.setdefault(_voter(case, settings), []).append(0.0 if flaw(case, settings) else good)
    return math.fsum(math.fsum(each) / len(each) for each in grades.values()) / len(grades) if grades else None


def choose(scores: Sequence[float | None]) -> int:
    """Index of the checkpoint with the highest selection score, the earliest of equals; the last when none has one."""
    if not scores:
        raise InputError("there is no checkpoint to choose from", "the training stage makes one an epoch")
    known = [(value, -index) for index, value in enumerate(scores) if value is not None]
    return -max(known)[1] if known else len(scores) - 1


def compare(
    cases: Sequence[Case],
    *,
    cluster_id: str,
    candidate: CandidateKind,
    adapter_id: str | None,
    baseline: str,
    settings: EvaluateSettings,
    guards: Sequence[Guard] = (),
    judge: str = "",
) -> Evaluation:
    """The one test on the confirmation split. `guards`: measured elsewhere (retention), each must have passed;
    `judge`: what is known of the judge behind the verdicts.

    `cases`, `wins`, `ties`, `win_rate` and the interval count votes; `guards["answers"]` counts the answers behind.
    """
    votes = tally(cases, settings)
    bounds = win_rate_interval(votes.wins, votes.ties, votes.losses, settings.confidence)
    checked = (degeneration(cases, settings), *guards)
    outcome, reason = _judge(votes, bounds, checked, settings)
    told: dict[str, Json] = {"answers": _answers(cases, votes, settings)} | ({"judge": judge} if judge else {})
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
            win_rate=None if votes.win_rate is None else round(votes.win_rate, 6),
            lower=round(bounds.low, 6) if votes.votes else None,
            upper=round(bounds.high, 6) if votes.votes else None,
            guards={**{guard.name: asdict(guard) for guard in checked}, **told},
            outcome=outcome,
            reason=f"{reason}; {judge}" if judge and outcome == "not_enough_data" else reason,
        )
    )


def _answers(cases: Sequence[Case], votes: Tally, settings: EvaluateSettings) -> dict[str, Json]:
    flaws = Counter(flaw(case, settings) for case in cases)
    lost: dict[str, Json] = {name: count for name, count in flaws.items() if name}
    same = sum(case.candidate_answer.strip() == case.baseline_answer.strip() for case in cases)
    return {"scored": votes.cases, "unscored": votes.unscored, "unchanged": same, "lost_unread": lost}


def degeneration(cases: Sequence[Case], settings: EvaluateSettings) -> Guard:
    """Share of degenerate answers above the baseline's: the estimate must stay within the margin.

    An upper confidence bound within 5% would take over 70 cases without a single bad one, so the estimate decides and
    the bound is told in the reason.
    """
    ours = [float(degenerate(case.candidate_answer)) for case in cases]
    base = [float(degenerate(case.baseline_answer)) for case in cases]
    if not cases:
        return Guard(name="degenerate", passed=True, value=None, limit=settings.max_degenerate, reason="no answers")
    found = paired_difference(ours, base, settings.confidence)
    reason = (
        f"empty or repeating answers: {_percent(sum(ours) / len(cases))}, baseline {_percent(sum(base) / len(cases))}, "
        f"so {100 * found.mean:+.0f} points (upper bound {100 * found.high:+.0f}); "
        f"allowed {100 * settings.max_degenerate:+.0f}"
    )
    passed = found.mean <= settings.max_degenerate
    return Guard(
        name="degenerate", passed=passed, value=round(found.mean, 6), limit=settings.max_degenerate, reason=reason
    )


def _judge(votes: Tally, bounds: Interval, guards: Sequence[Guard], settings: EvaluateSettings) -> tuple[Outcome, str]:
    few = too_few(votes.votes, votes.cases, settings)
    broken = [guard.reason for guard in guards if not guard.passed]
    rate = votes.win_rate
    if few or rate is None:
        return "not_enough_data", few or "no case could be judged"
    if broken:
        return "failed", f"a guard was not kept: {'; '.join(broken)}"
    found = (
        f"won {votes.wins}, tied {votes.ties} and lost {votes.losses} of {votes.votes} votes: "
        f"win rate {_percent(rate)}, {_percent(settings.confidence)} interval {_percent(bounds.low)} to "
        f"{_percent(bounds.high)}"
    )
    if rate >= settings.min_win_rate and (settings.rule == "rate" or bounds.low > 0.5):
        return "passed", found
    if bounds.high < 0.5:
        return "failed", f"{found}: worse than the baseline"
    if rate < settings.min_win_rate:
        return "failed", f"{found}: below the least win rate of {_percent(settings.min_win_rate)}"
    return "not_enough_data", f"{found}, which chance alone can do; {_wait(votes, settings)}"


def too_few(votes: int, cases: int, settings: EvaluateSettings) -> str | None:
    """Why so many confirmation votes can't decide anything, and how many more logs it takes; None: they can.

    Known before anything is trained: votes = voters with a reference on the confirmation side, cases = their cases.
    """
    least = settings.min_cases
    if settings.rule == "bound":  # with fewer votes not even all of them being wins is significant
        least = max(least, math.ceil(math.log2(2 / (1 - settings.confidence))))
    if votes >= least:
        return None
    likely = needed_cases(GOOD_WIN_RATE, 0.0, settings.confidence, least=settings.min_win_rate) or least
    return (
        f"{votes} {'vote' if votes == 1 else 'votes'} on held-out answers, at least {least} are needed: "
        f"about {_logs(least, votes, cases, settings)} more logs with a known right answer, or "
        f"{_logs(max(likely, least), votes, cases, settings)} for a good chance (80%) to prove a win rate of "
        f"{_percent(GOOD_WIN_RATE)}"
    )


def _wait(votes: Tally, settings: EvaluateSettings) -> str:
    needed = needed_cases(
        votes.win_rate or 0.5, votes.ties / votes.votes, settings.confidence, least=min(0.5, settings.min_win_rate)
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
