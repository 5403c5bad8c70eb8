"""The last five rows of the pipeline, from clusters to what serves: units of work that train, prove and plan.

A unit names in its inputs every id its result depends on; the runner skips those it has seen. No row writes anything.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import cast

from logtune.errors import ModelError
from logtune.gate import Trials, gate
from logtune.ports import TrainingJob, TrainingPair
from logtune.records import (
    Adapter,
    AdapterKind,
    Cluster,
    Decision,
    Deployment,
    Derived,
    Evaluation,
    Gap,
    Interaction,
    Json,
    PreferencePair,
    Verdict,
    digest,
    identified,
)
from logtune.runner import Cycle, Unit
from logtune.stages import answer, deploy, distill, evaluate, experiment, gap
from logtune.stages import pairs as pairing
from logtune.stages.train import rank_for
from logtune.views import given, pairs_of, prompt_of, rules_by_interaction, signals_of, users_of

SPLIT_SALT = "logtune-gate"  # fixed: a user is on the same side of the gate in every cycle


def measure_gaps(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster."""
    rules_of = rules_by_interaction(cycle)
    for group in cycle.board.all(Cluster):
        found = pairs_of(cycle, group)
        rule_ids = [r.id for member in group.interaction_ids for r in rules_of.get(member, ())]

        async def work(group: Cluster = group, found: Sequence[PreferencePair] = found) -> Sequence[Derived]:
            known = await _known(cycle, group)
            return [gap.assess(group, rules_of, known, found, cycle.tools.coverage, cycle.config.gap)]

        yield Unit((group.id, cycle.tools.coverage.fingerprint, *rule_ids, *(p.id for p in found)), work)


async def _known(cycle: Cycle, group: Cluster) -> dict[str, list[str]]:
    """Interaction id -> what the model knew beforehand: the teacher's predictions, else the answer it gave."""
    items = [cycle.board.get(Interaction, member) for member in group.interaction_ids]
    teacher, count = cycle.tools.teacher, cycle.config.distill.predict
    if teacher is None or not count:
        return {item.id: [item.answer] for item in items}
    predicted = await asyncio.gather(*(distill.predict(item.query, teacher, count) for item in items))
    return {item.id: rules for item, rules in zip(items, predicted, strict=True)}


def train(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster that has enough to learn and enough to be proven on."""
    for plan in _plans(cycle):
        if plan.blocked:
            continue
        job, inputs = plan.job, (plan.cluster.id, plan.kind, str(plan.job.rank), *(p.id for p in plan.job.pairs))

        async def work(job: TrainingJob = job) -> Sequence[Derived]:
            return await asyncio.to_thread(cycle.tools.executor.train, job, cycle.progress)

        yield Unit((*inputs, cycle.tools.base_fingerprint), work)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a cluster trains, or why it doesn't; and the held-out cases that will decide."""

    cluster: Cluster
    kind: AdapterKind
    job: TrainingJob
    blocked: str | None
    selection: tuple[evaluate.Case, ...]  # without answers yet
    confirmation: tuple[evaluate.Case, ...]


def _plans(cycle: Cycle) -> list[_Plan]:
    gaps = {g.cluster_id: g for g in cycle.board.all(Gap)}
    groups = cycle.board.all(Cluster)
    wrong = _contradicted(cycle)
    return [_plan(cycle, group, gaps[group.id], len(groups), wrong) for group in groups if group.id in gaps]


def _contradicted(cycle: Cycle) -> set[str]:
    """Ids of the pairs that other users contradict: they train nothing."""
    pairs = cycle.board.all(PreferencePair)
    vectors = cycle.tools.embedder.embed([pair.prompt[-1].content for pair in pairs])
    return pairing.contradicted(pairs, vectors, users_of(cycle), cycle.config.pairs)


def _plan(cycle: Cycle, group: Cluster, measured: Gap, clusters: int, wrong: Set[str]) -> _Plan:
    settings = cycle.config
    kind: AdapterKind = "critic" if measured.route == "reflective" else "expert"
    members = [cycle.board.get(Interaction, member) for member in group.interaction_ids]
    sides = evaluate.split(members, settings.evaluate, SPLIT_SALT)
    learners = {item.id for item in sides.train}
    pairs = [p for p in pairs_of(cycle, group) if p.interaction_id in learners and p.id not in wrong]
    lessons = _lessons(cycle, kind, pairs)
    share = settings.train.budget * cycle.tools.base_parameters / clusters
    rank = rank_for(share, cycle.tools.lora_sizes.get(settings.train.target_modules, 1), settings.train.max_rank)
    confirmation = _cases(cycle, sides.confirmation)
    job = TrainingJob(
        cluster_id=group.id,
        name=group.name,
        kind=kind,
        base_path=cycle.tools.base_path,
        base_fingerprint=cycle.tools.base_fingerprint,
        pairs=lessons,
        out_dir=cycle.tools.adapters_dir,
        rank=rank,
        seed=settings.train.seed,
        settings=cast("Mapping[str, Json]", settings.train.model_dump(mode="json")),
    )
    return _Plan(
        cluster=group,
        kind=kind,
        job=job,
        blocked=_blocked(cycle, lessons, rank, confirmation),
        selection=_cases(cycle, sides.selection or sides.confirmation),
        confirmation=confirmation,
    )


def _blocked(cycle: Cycle, lessons: Sequence[TrainingPair], rank: int, cases: Sequence[evaluate.Case]) -> str | None:
    """Why training would be in vain; known before it is paid for."""
    settings = cycle.config
    if not rank:
        return f"a budget of {settings.train.budget:.2%} of the base model does not afford an adapter of rank 1"
    if len(lessons) < settings.train.min_pairs:
        return f"{len(lessons)} pairs to learn from, train.min_pairs is {settings.train.min_pairs}"
    voters = len({case.user or case.interaction_id for case in cases})
    return evaluate.too_few(voters, len(cases), settings.evaluate)


def _lessons(cycle: Cycle, kind: AdapterKind, pairs: Sequence[PreferencePair]) -> tuple[TrainingPair, ...]:
    if kind == "expert":
        return tuple(TrainingPair(id=p.id, prompt=p.prompt, chosen=p.chosen, rejected=p.rejected) for p in pairs)
    rules_of = rules_by_interaction(cycle)
    return tuple(
        TrainingPair(
            id=p.id,
            prompt=answer.critic_prompt(p.prompt[-1].content, p.rejected),
            rejected="",
            chosen=answer.critique([r.text for r in rules_of[p.interaction_id]]),
        )
        for p in pairs
        if rules_of.get(p.interaction_id)
    )


def _cases(cycle: Cycle, items: Iterable[Interaction]) -> tuple[evaluate.Case, ...]:
    """Held-out interactions with a known right answer, the user's own or the one they praised; with a teacher also
    those with rules, by which it can judge.
    """
    rules_of = rules_by_interaction(cycle) if cycle.tools.teacher is not None else {}
    wanted = _references(cycle)
    cases = []
    for item in items:
        reference, rules = wanted.get(item.id), rules_of.get(item.id, ())
        if reference or rules:
            cases.append(
                evaluate.Case(
                    interaction_id=item.id,
                    user=item.user or item.session,
                    prompt=prompt_of(item),
                    reference=reference,
                    baseline_answer="",
                    candidate_answer="",
                    rules="\n".join(f"- {rule.text}" for rule in rules),
                )
            )
    return tuple(cases)


def _references(cycle: Cycle) -> dict[str, str]:
    """Interaction id -> the answer its user gave or praised; answers that models wrote are no yardstick for models."""
    by_item = signals_of(cycle)
    praised = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches == "positive"}
    found = {name: cycle.board.get(Interaction, name).answer for name in praised if by_item.get(name)}
    own = (pair for pair in cycle.board.all(PreferencePair) if pair.origin in pairing.USERS_OWN)
    return found | {pair.interaction_id: pair.chosen for pair in own}


def evaluate_adapters(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster: its checkpoints on the selection side, the best one against what serves on the other side."""
    for plan in _plans(cycle):
        trials = Trials(cluster=plan.cluster, selection=plan.selection, confirmation=plan.confirmation)
        adapters = [a for a in cycle.board.all(Adapter) if a.cluster_id == plan.cluster.id and _is_of(a, plan)]
        baseline = cycle.serving.get(plan.cluster.name)
        asked = digest([[c.interaction_id, c.reference] for c in (*plan.selection, *plan.confirmation)])
        inputs = (plan.cluster.id, baseline or "base", asked, *(a.id for a in adapters))
        if plan.blocked:
            yield Unit((*inputs, plan.blocked), given([_undecided(plan, baseline)]))
        elif adapters and baseline not in {adapter.id for adapter in adapters}:  # nothing new was trained: it serves
            yield Unit(inputs, gate(cycle, trials, adapters, baseline))


def _is_of(adapter: Adapter, plan: _Plan) -> bool:
    return adapter.kind == plan.kind and set(adapter.pair_ids) <= {p.id for p in plan.job.pairs}


def _undecided(plan: _Plan, baseline: str | None) -> Evaluation:
    return identified(
        Evaluation(
            id="",
            cluster_id=plan.cluster.id,
            candidate=plan.kind,
            adapter_id=None,
            baseline=baseline or "base",
            interaction_ids=tuple(c.interaction_id for c in plan.confirmation),
            cases=len(plan.confirmation),
            wins=0,
            ties=0,
            win_rate=None,
            lower=None,
            upper=None,
            guards={},
            outcome="not_enough_data",
            reason=plan.blocked or "",
        )
    )


def judge_experiments(cycle: Cycle) -> Iterator[Unit]:
    """A unit an evaluation."""
    for found in cycle.board.all(Evaluation):
        verdict = experiment.decide(found, live_test=cycle.config.deploy.live_test)
        yield Unit((found.id,), given([verdict]))


def plan_deployments(
    cycle: Cycle, current: Mapping[str, Deployment], load: Callable[[Sequence[str]], Sequence[Adapter]]
) -> list[Deployment]:
    """What changes in serving; `load`: adapters by id."""
    live = load(deploy.live_adapters(current))
    return deploy.plan(
        cycle.board.all(Verdict),
        cycle.board.all(Cluster),
        current,
        [*cycle.board.all(Adapter), *live],
        cycle.tools.clock.now(),
        base_parameters=cycle.tools.base_parameters,
        budget=cycle.config.train.budget,
    )


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
