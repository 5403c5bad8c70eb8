"""The last rows of the pipeline, from clusters to what serves: units of work that train, prove and plan.

A unit names in its inputs every id its result depends on; the runner skips those it has seen. No row writes anything.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from logtune import knowing, ladder
from logtune.errors import ModelError
from logtune.gate import Contender, gate
from logtune.ids import digest, identified
from logtune.ladder import Plan
from logtune.records import (
    Adapter,
    AdapterKind,
    CandidateKind,
    Cluster,
    Derived,
    Evaluation,
    Failure,
    Interaction,
    PreferencePair,
)
from logtune.runner import Cycle, Unit, each
from logtune.stages import choice, distill, gap, standing
from logtune.stages import pairs as pairing
from logtune.views import given, max_tokens, pairs_of, prompt_of, rules_by_interaction, taught


def find_known(cycle: Cycle) -> Iterator[Unit]:
    """A unit a pair: whether the base model gives its better answer by itself. Answers of many words never match.

    An answer of an adapter that was complained about is that adapter's mistake, whatever the base model would say: such
    a pair keeps the next one from making it again. Adapters of another base model are gone with their mistakes.
    """
    for pair in (pair for group in cycle.board.all(Cluster) for pair in pairs_of(cycle, group)):
        item = cycle.board.get(Interaction, pair.interaction_id)
        mistaken = item.adapter is not None and not knowing.earlier(cycle, [item])
        if pairing.is_short(pair.chosen) and not mistaken:
            yield Unit((pair.id, "known", cycle.tools.base_fingerprint, *_told(cycle)), _known(cycle, pair, item))


def _known(cycle: Cycle, pair: PreferencePair, item: Interaction) -> Callable[[], Awaitable[Sequence[Derived]]]:
    async def work() -> Sequence[Derived]:
        student, longest = cycle.tools.student, max_tokens(cycle, item)
        known = await knowing.gives(student, prompt_of(item), pair.chosen, longest)
        return standing.left_out([pair.id], "known_already") if known else []

    return work


def measure_gaps(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster."""
    rules_of = rules_by_interaction(cycle)
    for group in cycle.board.all(Cluster):
        found = pairs_of(cycle, group)
        rule_ids = [r.id for member in group.interaction_ids for r in rules_of.get(member, ())]

        async def work(group: Cluster = group, found: Sequence[PreferencePair] = found) -> Sequence[Derived]:
            beforehand, failed = await known_beforehand(cycle, group)
            return [gap.assess(group, rules_of, beforehand, found, cycle.tools.coverage, cycle.config.gap), *failed]

        asked = [cycle.tools.base_fingerprint] if knowing.earlier(cycle, _members(cycle, group)) else []
        inputs = (group.id, cycle.tools.coverage.fingerprint, *asked, *rule_ids, *(p.id for p in found))
        yield Unit(inputs, work)


def _members(cycle: Cycle, group: Cluster) -> list[Interaction]:
    return [cycle.board.get(Interaction, member) for member in group.interaction_ids]


async def known_beforehand(cycle: Cycle, group: Cluster) -> tuple[dict[str, list[str]], list[Failure]]:
    """Interaction id -> what the model knew beforehand: the teacher's predictions, else the answer it gave.

    Where another base model gave that, this one is asked. Of failed predictions the failures: nothing is known there.
    """
    items = _members(cycle, group)
    teacher, count = cycle.tools.teacher, cycle.config.distill.predict
    if teacher is None or not count:
        now = await knowing.answers(cycle, knowing.earlier(cycle, items))
        return {item.id: [text] if (text := now.get(item.id, item.answer)) else [] for item in items}, []
    asked = {item.id: distill.predict(item.query, teacher, count) for item in items}
    predicted, failed = await each(cycle, "gap", asked)
    if failed:
        count_of = f"{len(failed)} of {len(items)} logs are left out, for want of a prediction"
        cycle.progress(f"gap: {group.name}: {count_of}; first: {failed[0].reason.splitlines()[0]}")
    return predicted, failed


def train_first(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster that has enough to learn and enough to be proven on: the adapter that the gap asks for."""
    for plan in ladder.plans(cycle):
        yield from _trained(cycle, plan, 0)


def train_second(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster whose first adapter failed while nothing else passed: the other kind."""
    for plan in ladder.plans(cycle):
        if ladder.goes_on(cycle, plan):
            yield from _trained(cycle, plan, 1)


def _trained(cycle: Cycle, plan: Plan, turn: int) -> Iterator[Unit]:
    kind = plan.kind(turn)
    if kind is None or kind in plan.blocked:
        return
    job = plan.jobs[kind]

    async def work() -> Sequence[Derived]:
        return await asyncio.to_thread(cycle.tools.executor.train, job, cycle.progress)

    template = [digest(told)] if (told := cycle.config.model.template) else []
    # not on what it goes on from: once it serves, it would be asked to go on from itself
    yield Unit(
        (plan.cluster.id, kind, str(job.rank), *plan.lessons[kind], cycle.tools.base_fingerprint, *template), work
    )


def try_rules(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster with rules in words: the base model told them."""
    for plan in ladder.plans(cycle):
        for rung, reason in plan.trials.not_tried.items():
            cycle.progress(f"evaluate: {plan.cluster.name}: {rung} is not tried: {reason}")
        yield from _tried(cycle, plan, "rules")


def try_first(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster: its checkpoints on the selection side, the best one against what serves on the other side."""
    for plan in ladder.plans(cycle):
        kind = plan.kind(0)
        reason = plan.blocked.get(kind, "") if kind else plan.hopeless
        if reason:
            yield Unit((*_asked(cycle, plan), kind or "", reason), given([_undecided(plan, kind, reason)]))
        else:
            yield from _proven(cycle, plan, 0)


def try_critic_prompt(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster on the reflective path, by its gap or because the expert failed: a critic without training."""
    for plan in ladder.plans(cycle):
        if plan.kind(0) == "critic" or ladder.goes_on(cycle, plan):
            yield from _tried(cycle, plan, "critic_prompt")


def try_second(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster whose other kind of adapter was trained too."""
    for plan in ladder.plans(cycle):
        if ladder.goes_on(cycle, plan):
            yield from _proven(cycle, plan, 1)


def _tried(cycle: Cycle, plan: Plan, kind: CandidateKind) -> Iterator[Unit]:
    contender = plan.prompts.get(kind)
    if contender is not None and not plan.hopeless and not ladder.climbed(cycle, plan):
        yield Unit((*_asked(cycle, plan), contender.key), gate(cycle, plan.trials, [contender], plan.baseline))


def _proven(cycle: Cycle, plan: Plan, turn: int) -> Iterator[Unit]:
    """Nothing where what serves was trained on just this."""
    found = ladder.checkpoints(cycle, plan, turn)
    if found and not ladder.climbed(cycle, plan):
        # what passed once and has no weights left passes again with new ones; what failed is not trained for nothing
        again = (adapter.id for adapter in found if adapter.id in cycle.passed and _gone(cycle, adapter))
        gone = [f"without weights since {cycle.pruned[name]}" for name in again]
        inputs = (*_asked(cycle, plan), *(a.id for a in found), *gone)
        yield Unit(inputs, _put_to_the_gate(cycle, plan, turn, found))


def _gone(cycle: Cycle, adapter: Adapter) -> bool:
    """Whether its weights were removed from the disk."""
    return adapter.id in cycle.pruned and not (Path(cycle.tools.adapters_dir) / adapter.path).is_dir()


def _put_to_the_gate(
    cycle: Cycle, plan: Plan, turn: int, found: Sequence[Adapter]
) -> Callable[[], Awaitable[Sequence[Derived]]]:
    """The gate of an adapter; where weights were removed since they were trained, they are trained again for it."""
    kind = plan.kind(turn)
    again = kind is not None and any(_gone(cycle, adapter) for adapter in found)

    async def work() -> Sequence[Derived]:
        made: Sequence[Adapter] = ()
        if kind is not None and again:
            cycle.progress(f"evaluate: {plan.cluster.name}: its weights were removed, so they are trained again")
            made = await asyncio.to_thread(cycle.tools.executor.train, plan.jobs[kind], cycle.progress)
        contenders = [Contender(kind=adapter.kind, adapter=adapter) for adapter in made or found]
        return [*made, *await gate(cycle, plan.trials, contenders, plan.baseline)()]

    return work


def _asked(cycle: Cycle, plan: Plan) -> tuple[str, ...]:
    """What an evaluation of a cluster depends on, whoever the candidate is."""
    trials = plan.trials
    cases = digest(
        [[c.interaction_id, c.reference, c.rules] for c in (*trials.selection, *trials.confirmation, *trials.earlier)]
    )
    lessons = digest([pair.id for pair in taught(cycle, plan.cluster)])
    others = digest({name: contender.key for name, contender in trials.incumbents.items()})
    level = str(trials.settings.confidence)
    base = cycle.tools.base_fingerprint
    told = digest(dict(trials.not_tried))
    return (
        plan.cluster.id,
        plan.baseline.key,
        base,
        others,
        cases,
        level,
        lessons,
        told,
        *_judge(cycle, plan),
        *_told(cycle),
    )


def _told(cycle: Cycle) -> tuple[str, ...]:
    """What the served model's answers depend on besides itself, where anything is set."""
    model = cycle.config.model
    return (digest([model.template, model.extra_body]),) if model.template or model.extra_body else ()


def _judge(cycle: Cycle, plan: Plan) -> tuple[str, ...]:
    """Who judges, where anybody does: another judge, other verdicts. How long it may take changes none."""
    trials, teacher = plan.trials, cycle.config.teacher
    judged = (not case.reference and case.rules for case in (*trials.selection, *trials.confirmation, *trials.earlier))
    return (
        (digest([teacher.url, teacher.model, teacher.extra_body]),)
        if cycle.tools.teacher is not None and any(judged)
        else ()
    )


def _undecided(plan: Plan, kind: AdapterKind | None, reason: str) -> Evaluation:
    cases = plan.trials.confirmation
    untrained: CandidateKind = next(iter(plan.prompts), "base")
    return identified(
        Evaluation(
            id="",
            cluster_id=plan.cluster.id,
            candidate=kind or untrained,
            adapter_id=None,
            baseline=plan.baseline.name,
            interaction_ids=tuple(c.interaction_id for c in cases),
            cases=len(cases),
            wins=0,
            ties=0,
            win_rate=None,
            lower=None,
            upper=None,
            guards={},
            outcome="not_enough_data",
            reason=reason,
        )
    )


def judge_experiments(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster: of the candidates that passed, one goes on."""
    by_cluster: dict[str, list[Evaluation]] = {}
    for found in cycle.board.all(Evaluation):
        by_cluster.setdefault(found.cluster_id, []).append(found)
    for group in by_cluster.values():

        async def work(group: Sequence[Evaluation] = group) -> Sequence[Derived]:
            worth, live_test = cycle.config.ladder.worth, cycle.config.experiment.mode != "off"
            told = cycle.config.config_hash
            return choice.verdicts(group, worth=worth, live_test=live_test, config_hash=told)

        yield Unit(tuple(found.id for found in group), work)


async def unload_tried(cycle: Cycle, live: Sequence[str]) -> None:
    """Unload what the gate has loaded and what serves neither now nor when the cycle began; `live`: adapter ids.

    The gateway alone loads what serves and unloads what served, once its last request has ended.
    """
    kept = {*live, *cycle.serving.values()}
    for adapter in cycle.board.all(Adapter):
        if adapter.id not in kept:
            try:
                await cycle.tools.adapters.unload(adapter.path)
            except ModelError as error:  # it costs the server memory, and the cycle nothing
                cycle.progress(f"deploy: {adapter.path} stays loaded: {error.what}")
