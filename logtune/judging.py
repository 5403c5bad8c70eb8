"""The judge at the gate: how far it agrees with this deployment's users, and its verdicts where no user gave an answer.

calls that may fail, cases with both answers -> cases with the judge's preference, failures

A call that fails costs one verdict: that case is not judged, and the failure is kept with its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from logtune.ports import Chat
from logtune.records import Failure, PreferencePair
from logtune.runner import Cycle, each
from logtune.stages import evaluate, judge
from logtune.stages.distill import ANSWER
from logtune.stages.pairs import USERS_OWN

CALIBRATED_ON = 40  # corrections of users that a judge is tried on: 80 calls, and an interval of about 15 points
FEWEST_TRIALS = 6  # fewer can't tell any judge from a coin


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The judge of one evaluation, and what it failed on."""

    cycle: Cycle
    teacher: Chat | None  # None: there is none, or it agrees with users no better than chance
    found: judge.Calibration | None = None  # None: it judges nothing, or nobody corrected enough
    failures: dict[str, Failure] = field(default_factory=dict)  # by id
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
        for name in verdicts:
            self.missed.pop(name, None)
        self.missed.update({failure.record_id: failure.reason for failure in failed})
        shares = {name: verdict.share for name, verdict in verdicts.items()}
        return [replace(case, judged=shares.get(case.interaction_id)) for case in cases]

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
    own = [pair for pair in cycle.board.all(PreferencePair) if pair.origin in USERS_OWN][:CALIBRATED_ON]
    if teacher is None or all(case.reference for case in cases) or len(own) < FEWEST_TRIALS:
        return Bench(cycle=cycle, teacher=teacher)
    questions = {
        pair.interaction_id: judge.Question(
            query=pair.prompt[-1].content, rules="", first=pair.chosen, second=pair.rejected
        )
        for pair in own
    }
    calls = {name: judge.pairwise(teacher, question) for name, question in questions.items()}
    verdicts, failed = await each(cycle, "evaluate", calls)
    found = judge.calibrate(
        [
            judge.Trial(human=1.0, judged=verdict, lengths=(len(questions[name].first), len(questions[name].second)))
            for name, verdict in verdicts.items()
        ]
    )
    failures = {failure.id: failure for failure in failed}
    return Bench(cycle=cycle, teacher=teacher if found.usable else None, found=found, failures=failures)
