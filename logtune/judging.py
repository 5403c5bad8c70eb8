"""The judge at the gate: how far it agrees with this deployment's users, and its verdicts where no user gave an answer.

calls that may fail, cases with both answers -> cases with the judge's preference, failures

A call that fails costs one verdict: that case is not judged, and the failure is kept with its reason.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from logtune.ports import Chat
from logtune.records import Failure, Interaction, Json, PreferencePair
from logtune.runner import Cycle, each
from logtune.stages import caps, evaluate, judge
from logtune.stages.distill import ANSWER
from logtune.stages.pairs import USERS_OWN
from logtune.views import held, users_of

CALIBRATED_ON = 40  # corrections of users that a judge is tried on: 80 calls, and an interval of about 15 points
FEWEST_TRIALS = 6  # fewer can't tell any judge from a coin


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The judge of one evaluation, and what it failed on."""

    cycle: Cycle
    teacher: Chat | None  # None: there is none, or it agrees with users no better than chance
    found: judge.Calibration | None = None  # None: it judges nothing, or nobody corrected enough
    failures: dict[str, Failure] = field(default_factory=dict)  # by id
    verdicts: dict[str, judge.Preference] = field(default_factory=dict)  # interaction -> the newest on its case
    missed: dict[str, str] = field(default_factory=dict)  # interaction -> why its case has no verdict

    async def judged(self, cases: Sequence[evaluate.Case], *, checked: bool = False) -> list[evaluate.Case]:
        """The cases with the judge's preference where no user gave the right answer, and the judge may be asked.

        `checked`: it is then asked about the others too, without the users' answers, so that its errors can be known.
        """
        if self.teacher is None:
            return list(cases)
        asked = [case for case in cases if not case.reference and case.rules]
        if asked and checked:
            asked = [case for case in cases if case.reference or case.rules]
        samples = self.cycle.config.evaluate.judge_samples
        calls = {case.interaction_id: judge.pairwise(self.teacher, _question(case), samples) for case in asked}
        verdicts, failed = await each(self.cycle, "evaluate", calls)
        self.failures.update({failure.id: failure for failure in failed})
        for name, verdict in verdicts.items():
            self.missed.pop(name, None)
            self.verdicts[name] = verdict
        self.missed.update({failure.record_id: failure.reason for failure in failed})
        shares = {name: verdict.share for name, verdict in verdicts.items()}
        return [replace(case, judged=shares.get(case.interaction_id)) for case in cases]

    def told(self, cases: Sequence[evaluate.Case]) -> Json:
        """How sure it was of its verdicts on the cases; None without any."""
        asked = [case.interaction_id for case in cases if case.judged is not None or case.interaction_id in self.missed]
        given = [self.verdicts[name] for name in asked if name not in self.missed]
        if not asked:
            return None
        return {
            "asked": len(asked), "given": len(given),
            "disagreement": round(fmean(verdict.disagreement for verdict in given), 4) if given else None,
            "flips": round(fmean(verdict.flips / verdict.samples for verdict in given), 4) if given else None,
        }  # fmt: skip

    def silent(self, cases: Sequence[evaluate.Case]) -> str:
        """On how many of the cases it gave no verdict, and why; "": on none."""
        reasons = [self.missed[case.interaction_id] for case in cases if case.interaction_id in self.missed]
        told = f"the judge gave no verdict on {len(reasons)} of {len(cases)} cases"
        return f"{told} (first: {reasons[0].splitlines()[0]})" if reasons else ""


def _question(case: evaluate.Case) -> judge.Question:
    return judge.Question(
        query=case.prompt[-1].content, rules=_worded(case), first=case.candidate_answer, second=case.baseline_answer
    )


def _worded(case: evaluate.Case) -> str:
    """The rules a judge goes by; the right answer to just this request would tell it what the user said."""
    lines = case.rules.splitlines()
    return "\n".join(lines) if not case.reference else "\n".join(line for line in lines if not _gives_away(line))


def _gives_away(line: str) -> bool:
    return line.removeprefix("- ").casefold().startswith(ANSWER.casefold())


async def bench(cycle: Cycle, cases: Sequence[evaluate.Case]) -> Bench:
    """The judge for the cases, tried on corrections: users have preferred their own answers to those that they got."""
    teacher = cycle.tools.teacher
    own = _spread(cycle)
    if teacher is None or all(case.reference for case in cases) or len(own) < FEWEST_TRIALS:
        return Bench(cycle=cycle, teacher=teacher)
    trials = {pair.interaction_id: _trial(pair, number % 2 == 1) for number, pair in enumerate(own)}
    calls = {name: judge.pairwise(teacher, question) for name, (question, _) in trials.items()}
    verdicts, failed = await each(cycle, "evaluate", calls)
    found = judge.calibrate([_compared(*trials[name], verdict) for name, verdict in verdicts.items()])
    failures = {failure.id: failure for failure in failed}
    return Bench(cycle=cycle, teacher=teacher if found.usable else None, found=found, failures=failures)


def _trial(pair: PreferencePair, swapped: bool) -> tuple[judge.Question, float]:
    """The question, and what the user prefers; not always the first, which some judges like best."""
    first, second = (pair.rejected, pair.chosen) if swapped else (pair.chosen, pair.rejected)
    return judge.Question(query=pair.prompt[-1].content, rules="", first=first, second=second), float(not swapped)


def _compared(question: judge.Question, human: float, verdict: judge.Preference) -> judge.Trial:
    return judge.Trial(human=human, judged=verdict, lengths=(len(question.first), len(question.second)))


def _spread(cycle: Cycle) -> list[PreferencePair]:
    """Corrections that are believed, as evenly over their users as it goes, none with more than may train."""
    out, users = held(cycle), users_of(cycle)
    pairs = [pair for pair in cycle.board.all(PreferencePair) if pair.origin in USERS_OWN]
    pairs = [pair for pair in pairs if pair.id not in out and pair.interaction_id not in out]
    owners = {pair.id: users[pair.interaction_id] for pair in pairs}
    said_at = {pair.id: cycle.board.get(Interaction, pair.interaction_id).at for pair in pairs}
    most = caps.over_cap(owners, said_at, cycle.config.trust) if cycle.config.trust.enabled else set[str]()
    seen: Counter[str] = Counter()
    turns: list[tuple[int, PreferencePair]] = []  # how many the same user has before it
    for pair in pairs:
        if pair.id not in most:
            turns.append((seen[owners[pair.id]], pair))
            seen[owners[pair.id]] += 1
    return [pair for _, pair in sorted(turns, key=lambda turn: turn[0])][:CALIBRATED_ON]
