"""Two answers -> a preference, and how far such preferences can be trusted.

    pairwise     request, rules, two answers -> Preference    both orders, several samples, disagreement kept
    pointwise    request, rules, one answer  -> Score         1 to 10 (paper, section 3.2)
    calibrate    Trial*, of people and judge -> Calibration   agreement with people, flips on swap, bias for length

A judge is a model: it favours what comes first, what is longer and what it wrote itself. So both orders are asked.
Where the order decides the verdict, how sure it was in each still tells: a small judge that always says A says it less
surely of the worse answer. Where that tells little, or the server does not tell it, it is a tie. A judge that agrees
with the users no better than chance decides nothing.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from logtune.ports import Chat, ChatCall
from logtune.prompts import language_of, render
from logtune.records import Json, Message
from logtune.stages.asking import Better, Rating, ask, weigh
from logtune.statistics import Interval, clopper_pearson

VERDICT_TOKENS = 20  # of a reply
FIRST_OF: dict[str, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}
VERDICT: dict[str, Json] = {
    "type": "object",
    "properties": {"better": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["better"],
    "additionalProperties": False,
}
RATING: dict[str, Json] = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 10}},
    "required": ["score"],
    "additionalProperties": False,
}
SURE = 0.1  # log-odds left when the order is taken out: with a judge of 1.5B 28 of 32 verdicts are people's (LLMBar)
LEANS = 0.25  # a preference by odds, less than one that both orders say
LEAST_LIKELY = 1e-4  # of a verdict that is not among the likeliest tokens
SAMPLE_TEMPERATURE = 1.0  # of the samples after the first, which is greedy (paper, section 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is judged: two answers to one request."""

    query: str
    rules: str  # "" where nothing is known but the request
    first: str
    second: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """For the first answer: 1 it is better, 0 the second is, 0.5 undecided."""

    share: float  # mean over samples; of each what both orders say, else what the odds say
    votes: tuple[float, ...]  # of each call, for the first answer
    flips: int  # samples in which the order decided
    samples: int

    @property
    def disagreement(self) -> float:
        """0 all votes alike .. 1 half against half."""
        return 0.0 if len(set(self.votes)) == 1 else 1 - abs(2 * fmean(self.votes) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well one answer keeps to the rules."""

    mean: float  # 1 .. 10
    votes: tuple[int, ...]


async def pairwise(judge: Chat, question: Question, samples: int = 1) -> Preference:
    """Both orders in each sample; raises ModelError when a call gives no verdict."""
    swapped = Question(query=question.query, rules=question.rules, first=question.second, second=question.first)
    calls = [_verdict(judge, asked, sample) for sample in range(samples) for asked in (question, swapped)]
    given = await asyncio.gather(*calls)
    pairs = [(given[number], given[number + 1].turned) for number in range(0, len(given), 2)]
    return Preference(
        share=fmean(_of_both(*pair) for pair in pairs), votes=tuple(said.vote for pair in pairs for said in pair),
        flips=sum(one.vote != other.vote for one, other in pairs), samples=samples,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Of one call."""

    vote: float  # 1, 0.5 or 0 for the first answer
    log_odds: float | None  # for the first answer against the second; None: not told

    @property
    def turned(self) -> "_Verdict":
        """For the other answer."""
        return _Verdict(1 - self.vote, None if self.log_odds is None else -self.log_odds)


def _of_both(one: _Verdict, other: _Verdict) -> float:
    """1, 0.75, 0.5, 0.25 or 0 for the first answer. What a judge adds for the place is nothing over both orders."""
    if one.vote == other.vote or one.log_odds is None or other.log_odds is None:
        return (one.vote + other.vote) / 2
    left = (one.log_odds + other.log_odds) / 2
    return 0.5 if abs(left) < SURE else 0.5 + math.copysign(LEANS, left)


async def _verdict(judge: Chat, question: Question, sample: int) -> _Verdict:
    """For the answer shown first."""
    name = "judge" if question.rules.strip() else "prefer"
    values = {"rules": question.rules} if question.rules.strip() else {}
    language = language_of(question.query)
    text = render(name, language, query=question.query, first=question.first, second=question.second, **values)
    call = replace(_call(text, VERDICT, sample), weighed=("A", "B"))
    found, odds = await weigh(judge, call, Better, "verdict")
    told = odds is not None and max(odds.values()) > 0
    likely = {name: max(share, LEAST_LIKELY) for name, share in odds.items()} if odds and told else None
    return _Verdict(FIRST_OF[found.better], math.log(likely["A"] / likely["B"]) if likely else None)


async def pointwise(judge: Chat, query: str, rules: str, answer: str, samples: int = 3) -> Score:
    """The paper's way: the mean of several ratings of one answer; raises ModelError when a call gives none."""
    text = render("rate", language_of(query), query=query, rules=rules, answer=answer)
    calls = [ask(judge, _call(text, RATING, sample), Rating, "rating") for sample in range(samples)]
    votes = tuple(rating.score for rating in await asyncio.gather(*calls))
    return Score(mean=fmean(votes), votes=votes)


def by_scores(first: Score, second: Score) -> float:
    """The preference that two ratings amount to: 1, 0.5 or 0 for the first."""
    return 0.5 if math.isclose(first.mean, second.mean) else float(first.mean > second.mean)


def _call(text: str, schema: dict[str, Json], sample: int) -> ChatCall:
    return ChatCall(
        messages=(Message(role="user", content=text),), schema=schema, max_tokens=VERDICT_TOKENS, purpose="judge",
        temperature=SAMPLE_TEMPERATURE if sample else 0.0, seed=sample,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One pair on which people and the judge have both spoken."""

    human: float  # 1 people prefer the first answer, 0 the second, 0.5 a tie
    judged: Preference
    lengths: tuple[int, int]  # characters of both answers
    writer: Literal["first", "second", "neither"] = "neither"  # which answer the judge's own model wrote


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How a judge compares with people. Shares in 0..1; None: nothing to measure it on."""

    trials: int
    decided: int  # pairs that people did not call a tie
    agreement: float | None  # of the decided: the judge prefers the same answer; its ties count half
    lower: float | None  # Clopper-Pearson, with ties as disagreements: a judge that never decides agrees with nobody
    upper: float | None
    kappa: float | None  # Cohen's, of three verdicts
    flips: float | None  # samples in which the order of the answers decided
    ties: float | None  # verdicts that are ties
    longer_judge: float | None  # of pairs of unlike length: the judge prefers the longer one
    longer_human: float | None  # ... people do
    own_judge: float | None  # of pairs with one answer of its own: it prefers that one
    own_human: float | None  # ... people do
    verdicts: tuple[int, int, int] = (0, 0, 0)  # on the decided pairs: like people's, undecided, the other way

    @property
    def usable(self) -> bool:
        """Better than chance, surely."""
        return self.lower is not None and self.lower > 0.5

    @property
    def told(self) -> str:
        """In a sentence."""
        if self.agreement is None or self.lower is None or self.upper is None:
            return f"the judge could be compared with people on none of {self.trials} pairs"
        same, undecided, _ = self.verdicts
        found = (
            f"the judge agrees with people on {same} of {self.decided} pairs and is undecided on {undecided} "
            f"(95% interval of the agreement {self.lower:.0%} to {self.upper:.0%})"
        )
        return found if self.usable else f"{found}, which chance alone can do"


def calibrate(trials: Sequence[Trial], confidence: float = 0.95) -> Calibration:
    """Compare a judge with people."""
    decided = [trial for trial in trials if trial.human != 0.5]
    same = [_agrees(trial) for trial in decided]
    bounds = _bounds(same, confidence)
    samples = sum(trial.judged.samples for trial in trials)
    unlike = [trial for trial in decided if trial.lengths[0] != trial.lengths[1]]
    own = [trial for trial in decided if trial.writer != "neither"]
    longer = [float(trial.lengths[0] > trial.lengths[1]) for trial in unlike]
    mine = [float(trial.writer == "first") for trial in own]
    return Calibration(
        trials=len(trials), decided=len(decided), agreement=_mean(same),
        lower=bounds.low if bounds else None, upper=bounds.high if bounds else None, kappa=_kappa(trials),
        flips=sum(trial.judged.flips for trial in trials) / samples if samples else None,
        ties=_mean([float(call == 0.5) for call in _judged(trials)]),
        longer_judge=_preferred(_judged(unlike), longer), longer_human=_preferred(_human(unlike), longer),
        own_judge=_preferred(_judged(own), mine), own_human=_preferred(_human(own), mine),
        verdicts=(same.count(1.0), same.count(0.5), same.count(0.0)),
    )  # fmt: skip


def _bounds(same: Sequence[float], confidence: float) -> Interval | None:
    return clopper_pearson(sum(value == 1 for value in same), len(same), confidence) if same else None


def _call_of(share: float) -> float:
    """1, 0.5 or 0."""
    return 0.5 if math.isclose(share, 0.5) else float(share > 0.5)


def _agrees(trial: Trial) -> float:
    """1 the same answer, 0 the other, 0.5 undecided."""
    return 1 - abs(_call_of(trial.judged.share) - trial.human)


def _judged(trials: Sequence[Trial]) -> list[float]:
    return [_call_of(trial.judged.share) for trial in trials]


def _human(trials: Sequence[Trial]) -> list[float]:
    return [trial.human for trial in trials]


def _preferred(calls: Sequence[float], side: Sequence[float]) -> float | None:
    """How often the answer on `side` (1 first, 0 second) is preferred; ties count half."""
    return _mean([1 - abs(call - wanted) for call, wanted in zip(calls, side, strict=True)])


def _kappa(trials: Sequence[Trial]) -> float | None:
    """Cohen's kappa (1960) of the verdicts first, tie, second.

    None where people always say the same: whatever the judge says then, it agrees no more often than chance.
    """
    if len(set(_human(trials))) < 2:
        return None
    pairs = list(zip(_human(trials), _judged(trials), strict=True))
    observed = fmean(human == judged for human, judged in pairs)
    chance = sum(
        fmean(human == value for human, _ in pairs) * fmean(judged == value for _, judged in pairs)
        for value in (0.0, 0.5, 1.0)
    )
    return (observed - chance) / (1 - chance)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
