"""A candidate is put to the held-out users: answers of both sides, verdicts where no user gave the right one, one test.

plan, checkpoints, baseline -> Evaluation

Users' own words come first. Where an interaction has rules and no right answer, a judge compares both answers under the
rules; how far it agrees with this deployment's users is measured on what they did correct, and a judge that agrees no
better than chance judges nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from logtune.records import Adapter, AdapterKind, Cluster, Derived, Interaction, PreferencePair
from logtune.runner import Cycle
from logtune.stages import answer, evaluate, judge
from logtune.stages.pairs import USERS_OWN
from logtune.views import max_tokens

CALIBRATED_ON = 40  # corrections of users that a judge is tried on: 80 calls, and an interval of about 15 points
FEWEST_TRIALS = 6  # fewer can't tell any judge from a coin


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What a cluster's candidates are put to."""

    cluster: Cluster
    selection: tuple[evaluate.Case, ...]  # without answers yet
    confirmation: tuple[evaluate.Case, ...]


def gate(
    cycle: Cycle, trials: Trials, adapters: Sequence[Adapter], baseline: str | None
) -> Callable[[], Awaitable[Sequence[Derived]]]:
    """The work of one evaluation; `baseline`: id of the adapter that serves now, None: the base model."""

    async def work() -> Sequence[Derived]:
        found = await _calibrated(cycle, (*trials.selection, *trials.confirmation))
        champion = cast("Adapter | None", cycle.before.get(baseline or ""))
        best = await _chosen(cycle, trials, adapters, champion, found)
        theirs = await _answers(cycle, trials.confirmation, champion)
        ours = await _answers(cycle, trials.confirmation, best)
        result = evaluate.compare(
            await _judged(cycle, _filled(trials.confirmation, theirs, ours), found),
            cluster_id=trials.cluster.id,
            candidate=best.kind,
            adapter_id=best.id,
            baseline=baseline or "base",
            settings=cycle.config.evaluate,
            judge=found.told if found else "",
        )
        return [result]

    return work


async def _chosen(
    cycle: Cycle, trials: Trials, adapters: Sequence[Adapter], champion: Adapter | None,
    found: judge.Calibration | None,
) -> Adapter:  # fmt: skip
    """The checkpoint that does best on the selection side."""
    cases = trials.selection
    needs_baseline = any(not case.reference for case in cases)
    theirs = await _answers(cycle, cases, champion) if needs_baseline else [""] * len(cases)
    scores = []
    for adapter in adapters:
        filled = _filled(cases, theirs, await _answers(cycle, cases, adapter))
        scores.append(evaluate.selection_score(await _judged(cycle, filled, found), cycle.config.evaluate))
        cycle.progress(f"evaluate: {adapter.path} scores {_told(scores[-1])} on the selection side")
    return adapters[evaluate.choose(scores)]


def _told(score: float | None) -> str:
    return "nothing, for want of cases," if score is None else f"{score:.2f}"


async def _answers(cycle: Cycle, cases: Sequence[evaluate.Case], adapter: Adapter | None) -> list[str]:
    """Greedy answers to the cases, all at once; the adapter (None: the base model) is loaded first."""
    name, kind = (adapter.path, adapter.kind) if adapter else ("", cast("AdapterKind", "base"))
    if adapter is not None:
        await cycle.tools.adapters.load(name, str(Path(cycle.tools.adapters_dir) / adapter.path))
    items = [cycle.board.get(Interaction, case.interaction_id) for case in cases]
    calls = (
        answer.answer(cycle.tools.student, kind, name, case.prompt, max_tokens(cycle, item))
        for case, item in zip(cases, items, strict=True)
    )
    return list(await asyncio.gather(*calls))


def _filled(cases: Sequence[evaluate.Case], baseline: Sequence[str], candidate: Sequence[str]) -> list[evaluate.Case]:
    return [
        replace(case, baseline_answer=theirs, candidate_answer=ours)
        for case, theirs, ours in zip(cases, baseline, candidate, strict=True)
    ]


# --- the judge ---


async def _judged(cycle: Cycle, cases: Sequence[evaluate.Case], found: judge.Calibration | None) -> list[evaluate.Case]:
    """The cases with the judge's preference where no user gave the right answer, and the judge may be asked."""
    teacher = cycle.tools.teacher
    if teacher is None or (found is not None and not found.usable):
        return list(cases)
    asked = [case for case in cases if not case.reference and case.rules]
    questions = (
        judge.Question(
            query=case.prompt[-1].content, rules=case.rules, first=case.candidate_answer, second=case.baseline_answer
        )
        for case in asked
    )
    verdicts = await asyncio.gather(*(judge.pairwise(teacher, question) for question in questions))
    shares = {case.interaction_id: verdict.share for case, verdict in zip(asked, verdicts, strict=True)}
    return [replace(case, judged=shares.get(case.interaction_id)) for case in cases]


async def _calibrated(cycle: Cycle, cases: Sequence[evaluate.Case]) -> judge.Calibration | None:
    """How far the judge agrees with this deployment's users; None where it judges nothing, or nobody corrected enough.

    On corrections: the user has preferred their own answer to the one they got.
    """
    teacher = cycle.tools.teacher
    if teacher is None or all(case.reference for case in cases):
        return None
    own = [pair for pair in cycle.board.all(PreferencePair) if pair.origin in USERS_OWN][:CALIBRATED_ON]
    if len(own) < FEWEST_TRIALS:
        return None
    questions = [
        judge.Question(query=pair.prompt[-1].content, rules="", first=pair.chosen, second=pair.rejected) for pair in own
    ]
    verdicts = await asyncio.gather(*(judge.pairwise(teacher, question) for question in questions))
    return judge.calibrate(
        [
            judge.Trial(human=1.0, judged=verdict, lengths=(len(pair.chosen), len(pair.rejected)))
            for pair, verdict in zip(own, verdicts, strict=True)
        ]
    )
