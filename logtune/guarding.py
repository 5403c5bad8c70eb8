"""What the guards of a candidate look at: held-out answers, built-in probes, and the lessons of what served before.

cycle, trials, candidate, baseline -> Evidence

Only asked for a candidate that would pass. Probes are asked as the deployment asks: under its most frequent system
prompt. The baseline's answers are kept for the whole cycle, so every candidate of every cluster pays for its own alone.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from logtune.edges.probe_sets import Probe, ProbeSet, probes
from logtune.ports import Likelihood
from logtune.prompts import Language, language_of
from logtune.records import Cluster, Interaction, Json, Message
from logtune.runner import Cycle
from logtune.stages.cluster import Routes
from logtune.stages.evaluate import Case
from logtune.stages.gate_guards import Evidence, Exchange, Lesson
from logtune.stages.grading import normalise
from logtune.stages.pairs import USERS_OWN, plain
from logtune.statistics import unit_of
from logtune.views import pairs_of, taught, users_of

SPOKEN_HERE = 0.2  # share of the held-out requests from which a language is probed
CHOICE_TOKENS = 24
LABEL_WORDS, LEAST_LABELS = 2, 5  # of a label, and how many make a service one that answers with labels
Ask = Callable[[Sequence[tuple[Message, ...]], int], Awaitable[list[str]]]  # prompts, longest answer -> answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One that answers."""

    ask: Ask
    expert: str = ""  # name of its loaded adapter, where the adapter answers by itself
    taught: Ask | None = None  # answers earlier lessons, where that is not the same: each by what serves it


async def evidence(
    cycle: Cycle, cluster: Cluster, cases: Sequence[Case], ours: Side, theirs: Side
) -> Evidence:  # fmt: skip
    """`cases`: the confirmation side with both answers."""
    settings = cycle.config.guards
    system, languages = _system(cases), _languages(cases)

    async def asked(name: ProbeSet, longest: int, *used_by: str) -> list[Exchange]:
        chosen = probes(name, languages, settings.probes) if set(used_by) - set(settings.skip) else ()
        return await _exchanges(chosen, system, longest, ours, theirs)

    retention, why_none = await _retention(cycle, cluster, languages, ours, theirs)
    return Evidence(
        held_out=_held_out(cycle, cases),
        everyday=await asked("everyday", cycle.config.evaluate.max_tokens, "length", "degeneration", "refusals"),
        sycophancy=await asked("sycophancy", settings.probe_tokens, "sycophancy"),
        safety=await asked("safety", settings.probe_tokens, "safety"),
        retention=retention, no_retention=why_none,
        lessons=await _lessons(cycle, cluster, ours, theirs) if "lessons" not in settings.skip else (),
        labels=_labels(cycle, cluster),
    )  # fmt: skip


def _labels(cycle: Cycle, cluster: Cluster) -> frozenset[str]:
    """Short right answers that several users gave each, where these are many: a topic "yes" agrees with nobody."""
    users = users_of(cycle)
    who: dict[str, set[str]] = defaultdict(set)
    for pair in pairs_of(cycle, cluster):
        if pair.origin in USERS_OWN and len(plain(pair.chosen).split()) <= LABEL_WORDS:
            who[normalise(pair.chosen)].add(users[pair.interaction_id])
    found = frozenset(label for label, by in who.items() if len(by) >= cycle.config.trust.min_users)
    return found if len(found) >= LEAST_LABELS else frozenset()


def _held_out(cycle: Cycle, cases: Sequence[Case]) -> list[Exchange]:
    """The first case of each voter, so that answers are independent."""
    first: dict[str, Case] = {}
    for case in cases:
        first.setdefault(unit_of(case.user, None, case.interaction_id), case)
    return [
        Exchange(
            asked=case.prompt[-1].content, ours=case.candidate_answer, theirs=case.baseline_answer,
            reference=case.reference, request=_request(cycle, case),
        )
        for case in first.values()
    ]  # fmt: skip


def _request(cycle: Cycle, case: Case) -> Mapping[str, Json]:
    log = cycle.logs.get(cycle.board.get(Interaction, case.interaction_id).log_id)
    return log.request if log is not None else {}


def _system(cases: Sequence[Case]) -> tuple[Message, ...]:
    """The system prompt of most held-out requests; none where most have none."""
    heads = Counter(case.prompt[0] if case.prompt[0].role in ("system", "developer") else None for case in cases)
    head = heads.most_common(1)[0][0] if heads else None
    return (head,) if head is not None else ()


def _languages(cases: Sequence[Case]) -> list[Language]:
    spoken = Counter(language_of(case.prompt[-1].content) for case in cases)
    return [name for name, count in spoken.most_common() if count >= SPOKEN_HERE * spoken.total()] or ["en"]


async def _exchanges(
    chosen: Sequence[Probe], system: tuple[Message, ...], longest: int, ours: Side, theirs: Side
) -> list[Exchange]:
    prompts = [(*system, Message(role="user", content=probe.prompt)) for probe in chosen]
    mine, others = await asyncio.gather(*(side.ask(prompts, longest) for side in (ours, theirs)))
    return [
        Exchange(asked=probe.prompt, ours=one, theirs=other, right=probe.right)
        for probe, one, other in zip(chosen, mine, others, strict=True)
    ]


# --- retention ---


async def _retention(
    cycle: Cycle, cluster: Cluster, languages: Sequence[Language], ours: Side, theirs: Side
) -> tuple[list[tuple[bool, bool]], str]:
    """Whether each question was answered right by both; else why there is none.

    By log-likelihood with the adapter forced on where the model gives one. A server without: by its answers to those
    questions that the router would send to this cluster; the others stay with what serves them.
    """
    settings = cycle.config.guards
    if "retention" in settings.skip or not settings.probes:
        return [], "no questions were asked"
    if not ours.expert:
        return [], "the candidate answers with the weights of the base model"
    chosen = probes("retention", languages, settings.probes)
    likelihood = cycle.tools.likelihood
    if likelihood is None:
        return await _answered(cycle, cluster, chosen, ours, theirs), ""
    mine, others = await asyncio.to_thread(
        lambda: [_likeliest(cycle, likelihood, chosen, side.expert) for side in (ours, theirs)]
    )
    return list(zip(mine, others, strict=True)), ""


def _likeliest(cycle: Cycle, likelihood: Likelihood, chosen: Sequence[Probe], model: str) -> list[bool]:
    """Whether the right choice is the likeliest; asked once a cycle for each model."""
    key = f"retention {model} {len(chosen)} {','.join(sorted({probe.language for probe in chosen}))}"
    if key not in cycle.kept:
        prompts = [(Message(role="user", content=probe.prompt),) for probe in chosen for _ in probe.choices]
        losses = iter(likelihood.nll(prompts, [choice for probe in chosen for choice in probe.choices], model))
        scores = [[next(losses) for _ in probe.choices] for probe in chosen]
        cycle.kept[key] = [
            row[probe.answer] < min(loss for number, loss in enumerate(row) if number != probe.answer)
            for row, probe in zip(scores, chosen, strict=True)
        ]
    return cast("list[bool]", cycle.kept[key])


async def _answered(
    cycle: Cycle, cluster: Cluster, chosen: Sequence[Probe], ours: Side, theirs: Side
) -> list[tuple[bool, bool]]:
    routes = Routes([cluster])
    vectors = cycle.tools.embedder.embed([probe.prompt for probe in chosen])
    here = [routes.nearest(np.asarray(vector)).cluster is not None for vector in vectors]
    sent = [probe for probe, routed in zip(chosen, here, strict=True) if routed]
    prompts = [(Message(role="user", content=f"{p.prompt} {' / '.join(sorted(p.choices))}"),) for p in sent]
    mine, others = await asyncio.gather(*(side.ask(prompts, CHOICE_TOKENS) for side in (ours, theirs)))
    asked = [(_picks(p, one), _picks(p, other)) for p, one, other in zip(sent, mine, others, strict=True)]
    return [*asked, *[(True, True)] * (len(chosen) - len(sent))]


def _picks(probe: Probe, answer: str) -> bool:
    """Whether an answer names the right choice and no other."""
    said = normalise(answer)
    return [number for number, choice in enumerate(probe.choices) if normalise(choice) in said] == [probe.answer]


# --- lessons ---


async def _lessons(cycle: Cycle, cluster: Cluster, ours: Side, theirs: Side) -> list[Lesson]:
    """What those that served this cluster before were taught, asked again."""
    chosen = taught(cycle, cluster)[: cycle.config.guards.lesson_checks]
    prompts = [pair.prompt for pair in chosen]
    limit = cycle.config.evaluate.max_tokens
    mine, others = await asyncio.gather(*((side.taught or side.ask)(prompts, limit) for side in (ours, theirs)))
    return [
        Lesson(chosen=pair.chosen, rejected=pair.rejected, ours=one, theirs=other)
        for pair, one, other in zip(chosen, mine, others, strict=True)
    ]
