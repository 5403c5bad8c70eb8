"""A candidate is put to the held-out users: answers of both sides, verdicts where no user gave the right one, one test.

trials, contenders, baseline -> Evaluation

Users' own words come first. Where an interaction has rules and no right answer, a judge compares both answers under the
rules (`judging`); how far it agrees with this deployment's users is measured on what they did correct, and a judge that
agrees no better than chance judges nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from logtune import forecast, incumbents
from logtune.config import EvaluateSettings
from logtune.guarding import Ask, Side, evidence
from logtune.ids import identified
from logtune.incumbents import Contender as Contender
from logtune.judging import Bench, bench
from logtune.ports import Chat, ChatCall, ChatReply
from logtune.records import (
    Cluster,
    Derived,
    Evaluation,
    Interaction,
    Json,
    Message,
)
from logtune.runner import Cycle
from logtune.stages import answer, evaluate, gate_guards
from logtune.views import max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What a cluster's candidates are put to, the same for each."""

    cluster: Cluster
    selection: tuple[evaluate.Case, ...]  # without answers yet
    confirmation: tuple[evaluate.Case, ...]
    settings: EvaluateSettings
    not_tried: Mapping[str, str]  # rung -> why it makes no sense for this cluster
    earlier: tuple[evaluate.Case, ...] = ()  # what was confirmed before what serves was proven: not to be lost
    sharing: int = 1  # tests of the cycle, of this cluster and others, that share its error
    incumbents: Mapping[str, Contender] = field(default_factory=dict)  # interaction -> what serves it, if another
    # than what serves most of the cluster


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A model that is asked each question once in a cycle: candidates share drafts and the baseline's answers."""

    chat: Chat
    replies: dict[ChatCall, ChatReply]

    async def complete(self, call: ChatCall) -> ChatReply:
        if call not in self.replies:
            self.replies[call] = await self.chat.complete(call)
        return self.replies[call]


def gate(
    cycle: Cycle, trials: Trials, contenders: Sequence[Contender], baseline: Contender
) -> Callable[[], Awaitable[Sequence[Derived]]]:
    """The work of one evaluation; `contenders`: one, or the checkpoints of one adapter, of which the best is tried."""

    async def work() -> Sequence[Derived]:
        judge = await bench(cycle, (*trials.selection, *trials.confirmation))
        best = await _chosen(cycle, trials, contenders, baseline, judge)
        theirs = await _served(cycle, trials, trials.confirmation, baseline)
        ours = await _answers(cycle, trials.confirmation, best)
        cases = await judge.judged(_filled(trials.confirmation, theirs, ours), checked=True)
        result = _compared(trials, cases, best, baseline, judge)
        if result.outcome == "passed":  # guards cost answers, so what fails anyway is spared them
            before = replace(_side(cycle, baseline), taught=_by_request(cycle))
            seen = await evidence(cycle, trials.cluster, cases, _side(cycle, best), before)
            seen = replace(seen, voters=await _earlier(cycle, trials, best, baseline, judge))
            kept = gate_guards.checked(seen, cycle.config.guards)
            result = _compared(trials, cases, best, baseline, judge, kept)
            over = await _over_base(cycle, trials, cases, ours, best)
            result = replace(result, guards={**result.guards, "over_base": over}) if over is not None else result
            ahead = forecast.outlook(cycle, trials.cluster, cases)
            result = replace(result, guards={**result.guards, "outlook": ahead}) if ahead is not None else result
        silent = judge.silent(cases)
        result = replace(result, reason=f"{result.reason}; {silent}") if silent else result
        sure = judge.told(cases)
        result = replace(result, guards={**result.guards, "verdicts": sure}) if sure is not None else result
        return [_completed(result, best, _cost(ours, theirs), trials, baseline), *judge.failures.values()]

    return work


async def _earlier(
    cycle: Cycle, trials: Trials, best: Contender, baseline: Contender, judge: Bench
) -> Sequence[gate_guards.Bad]:
    """Votes of those who confirmed what serves, on their newest requests: (lost, won) each."""
    if "voters" in cycle.config.guards.skip:
        return ()
    newest = sorted(trials.earlier, key=lambda case: cycle.board.get(Interaction, case.interaction_id).at, reverse=True)
    told = newest[: cycle.config.guards.lesson_checks]
    theirs, ours = await _served(cycle, trials, told, baseline), await _answers(cycle, told, best)
    votes = evaluate.tally(await judge.judged(_filled(told, theirs, ours)), trials.settings)
    return [(True, False)] * votes.losses + [(False, True)] * votes.wins + [(False, False)] * votes.ties


async def _over_base(
    cycle: Cycle, trials: Trials, cases: Sequence[evaluate.Case], ours: Sequence[answer.Answered], best: Contender
) -> Json:  # fmt: skip
    """What the candidate gains over the base model on the cases whose right answer is known, whatever serves them now:
    the share of votes won less the share lost. So the adapters of many cycles can be compared with each other.
    """
    known = [(case, said) for case, said in zip(cases, ours, strict=True) if case.reference]
    if best.adapter is None or not known:
        return None
    theirs = await _answers(cycle, [case for case, _ in known], incumbents.BASE)
    met = [replace(case, judged=None) for case in _filled([case for case, _ in known], theirs, [s for _, s in known])]
    found = _compared(trials, met, best, incumbents.BASE, None)
    if found.win_rate is None:
        return None
    gain = round(2 * found.win_rate - 1, 6)
    reason = f"{100 * gain:+.0f} points over the base model on {found.cases} cases"
    return {"gain": gain, "cases": found.cases, "reason": reason}


def _compared(
    trials: Trials, cases: Sequence[evaluate.Case], best: Contender, baseline: Contender,
    judge: Bench | None, kept: Sequence[gate_guards.Guard] = (),
) -> Evaluation:  # fmt: skip
    found = judge.found if judge else None
    return evaluate.compare(
        cases,
        cluster_id=trials.cluster.id,
        candidate=best.kind,
        adapter_id=best.adapter.id if best.adapter else None,
        baseline=baseline.name,
        settings=trials.settings,
        guards=kept,
        terms=evaluate.Terms(
            judge=found.told if found else "",
            agreement=found.verdicts if found else None,
            sharing=trials.sharing,
            since_proof=bool(trials.earlier),
        ),
    )


def _completed(result: Evaluation, best: Contender, cost: Json, trials: Trials, baseline: Contender) -> Evaluation:
    served = Counter(trials.incumbents.get(case.interaction_id, baseline).name for case in trials.confirmation)
    several: Json = dict(served.most_common())
    left_out: Json = dict(trials.not_tried)
    told = {**result.guards, "cost": cost}
    told |= {"served_by": several} if len(served) > 1 else {}
    told |= {"not_tried": left_out} if left_out else {}
    return identified(replace(result, id="", guards=told, rule_ids=tuple(rule.id for rule in best.rules)))


def _cost(ours: Sequence[answer.Answered], theirs: Sequence[answer.Answered]) -> Json:
    """Means an answer of the candidate, and its tokens as a multiple of the baseline's; None without answers.

    No time: the gate asks for all answers at once, so it can't tell how long one would take. The gateway measures that.
    """
    if not ours:
        return None
    before = fmean(map(_tokens, theirs))
    ratio: dict[str, Json] = {"tokens_ratio": round(fmean(map(_tokens, ours)) / before, 2)} if before else {}
    return {
        "calls": round(fmean(reply.calls for reply in ours), 2),
        "prompt_tokens": round(fmean(reply.prompt_tokens for reply in ours), 1),
        "completion_tokens": round(fmean(reply.completion_tokens for reply in ours), 1),
        **ratio,
    }


def _tokens(reply: answer.Answered) -> int:
    return reply.prompt_tokens + reply.completion_tokens


async def _chosen(
    cycle: Cycle, trials: Trials, contenders: Sequence[Contender], baseline: Contender,
    judge: Bench,
) -> Contender:  # fmt: skip
    """The last checkpoint that no other beats on the selection side, or of all where nobody chooses."""
    cases = trials.selection
    if len(contenders) == 1 or not cases:
        return contenders[-1]
    needs_baseline = any(not case.reference for case in cases)
    theirs = await _served(cycle, trials, cases, baseline) if needs_baseline else []
    grades: list[dict[str, float]] = []
    for contender in contenders:
        ours = await _answers(cycle, cases, contender)
        filled = _filled(cases, theirs or [NO_ANSWER] * len(cases), ours)
        grades.append(evaluate.selection_grades(await judge.judged(filled), trials.settings))
        score = evaluate.selection_score(grades[-1])
        path = contender.adapter.path if contender.adapter else contender.kind
        cycle.progress(f"evaluate: {path} scores {_told(score)} on the selection side")
    return contenders[evaluate.choose(grades, strict=trials.settings.rule == "rate")]


def _told(score: float | None) -> str:
    return "nothing, for want of cases," if score is None else f"{score:.2f}"


NO_ANSWER = answer.Answered(text="", calls=0, prompt_tokens=0, completion_tokens=0)


async def _served(
    cycle: Cycle, trials: Trials, cases: Sequence[evaluate.Case], baseline: Contender
) -> list[answer.Answered]:
    """The answers to the cases by what serves each of them."""
    sides = [trials.incumbents.get(case.interaction_id, baseline) for case in cases]
    found: dict[str, answer.Answered] = {}
    for side in {side.key: side for side in sides}.values():
        mine = [case for case, other in zip(cases, sides, strict=True) if other.key == side.key]
        answers = await _answers(cycle, mine, side)
        found |= {case.interaction_id: reply for case, reply in zip(mine, answers, strict=True)}
    return [found[case.interaction_id] for case in cases]


async def _answers(cycle: Cycle, cases: Sequence[evaluate.Case], side: Contender) -> list[answer.Answered]:
    """Greedy answers to the cases, each at most as long as its request allowed."""
    items = [cycle.board.get(Interaction, case.interaction_id) for case in cases]
    limits = [max_tokens(cycle, item) for item in items]
    return await _said(cycle, [case.prompt for case in cases], limits, side)


async def _said(
    cycle: Cycle, prompts: Sequence[tuple[Message, ...]], limits: Sequence[int], side: Contender
) -> list[answer.Answered]:
    """Greedy answers, all at once; an adapter is loaded first."""
    name, adapter = "", side.adapter
    if adapter is not None:
        name = adapter.path
        await cycle.tools.adapters.load(name, str(Path(cycle.tools.adapters_dir) / adapter.path))
    student, rules = _Remembered(cycle.tools.student, cycle.replies), [rule.text for rule in side.rules]
    calls = (
        answer.answered(student, side.kind, name, prompt, limit, rules)
        for prompt, limit in zip(prompts, limits, strict=True)
    )
    return list(await asyncio.gather(*calls))


def _side(cycle: Cycle, contender: Contender) -> Side:
    """A contender as the guards ask it."""

    async def ask(prompts: Sequence[tuple[Message, ...]], longest: int) -> list[str]:
        return [reply.text for reply in await _said(cycle, prompts, [longest] * len(prompts), contender)]

    adapter = contender.adapter
    return Side(ask=ask, expert=adapter.path if adapter is not None and contender.kind == "expert" else "")


def _by_request(cycle: Cycle) -> Ask:
    """What serves now as the guards ask it: each request goes where the gateway would send it."""

    async def ask(prompts: Sequence[tuple[Message, ...]], longest: int) -> list[str]:
        sides = incumbents.of_requests(cycle, [prompt[-1].content for prompt in prompts])
        found = [""] * len(prompts)
        for side in {side.key: side for side in sides}.values():
            mine = [number for number, other in enumerate(sides) if other.key == side.key]
            replies = await _said(cycle, [prompts[number] for number in mine], [longest] * len(mine), side)
            for number, reply in zip(mine, replies, strict=True):
                found[number] = reply.text
        return found

    return ask


def _filled(
    cases: Sequence[evaluate.Case], baseline: Sequence[answer.Answered], candidate: Sequence[answer.Answered]
) -> list[evaluate.Case]:
    return [
        replace(case, baseline_answer=theirs.text, candidate_answer=ours.text)
        for case, theirs, ours in zip(cases, baseline, candidate, strict=True)
    ]
