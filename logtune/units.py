"""What each row of the pipeline does: a cycle's records -> units of work that call the stages. No row writes anything.

A unit names in its inputs every id its result depends on; the runner skips those it has seen.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from logtune.ports import TrainingJob, TrainingPair, Vectors
from logtune.records import (
    Adapter, AdapterKind, Cluster, Decision, Deployment, Derived, Evaluation, Feedback, Gap, Interaction, Json, Message,
    PreferencePair, Rule, Signal, Verdict, digest, identified,
)  # fmt: skip
from logtune.runner import Cycle, Unit
from logtune.stages import answer, deploy, distill, evaluate, experiment, filter, gap, interactions as joining
from logtune.stages import cluster as clustering
from logtune.stages import pairs as pairing
from logtune.stages import signals as reading
from logtune.stages.train import rank_for

LEAST_RANK = 2  # rank 1 learns far slower than rank 2 of the same layers; clusters are joined until each affords it
SPLIT_SALT = "logtune-gate"  # fixed: a user is on the same side of the gate in every cycle


def interactions(cycle: Cycle) -> Iterator[Unit]:
    """A unit a log with an answer."""
    for item in joining.join(list(cycle.logs.values()), cycle.feedback.values()):
        yield Unit((item.id,), _given([item]))


def signals(cycle: Cycle) -> Iterator[Unit]:
    """A unit an interaction: its feedback and what its user said next."""
    for item in cycle.board.all(Interaction):
        given = [cycle.feedback[name] for name in item.feedback_ids]
        inputs = (item.id, *(digest([f.kind, f.value, f.comment, f.correction]) for f in given))

        async def work(item: Interaction = item, given: Sequence[Feedback] = given) -> Sequence[Derived]:
            return reading.read(item, given, cycle.config.signals)

        yield Unit(inputs, work)


def filter_noise(cycle: Cycle) -> Iterator[Unit]:
    """One unit: what is noise depends on all that this deployment is asked."""
    items, by_item = cycle.board.all(Interaction), _signals(cycle)
    if not items:
        return

    async def work() -> Sequence[Derived]:
        vectors = cycle.tools.embedder.embed([item.query for item in items])
        return filter.decide(items, by_item, vectors, _surprise(cycle, items, by_item), cycle.config.filter)

    yield Unit((*(i.id for i in items), *(s.id for s in cycle.board.all(Signal)), cycle.tools.embedder.fingerprint), work)


def _surprise(
    cycle: Cycle, items: Sequence[Interaction], by_item: Mapping[str, Sequence[Signal]]
) -> Sequence[float | None]:
    """Mean negative log-likelihood of the base model's praised answers; only those could become positives."""
    asked = [
        i for i, item in enumerate(items)
        if item.adapter is None and any(s.polarity > 0 for s in by_item.get(item.id, ()))
    ]  # fmt: skip
    found: list[float | None] = [None] * len(items)
    if cycle.tools.likelihood is not None and asked:
        prompts = [_prompt(items[i]) for i in asked]
        for i, value in zip(asked, cycle.tools.likelihood.nll(prompts, [items[i].answer for i in asked]), strict=True):
            found[i] = value
    return found


def distill_rules(cycle: Cycle) -> Iterator[Unit]:
    """A unit an interaction that may teach."""
    teacher, by_item = cycle.tools.teacher, _signals(cycle)
    for item in _teaching(cycle):
        found = by_item.get(item.id, [])

        async def work(item: Interaction = item, found: Sequence[Signal] = found) -> Sequence[Derived]:
            if teacher is not None:
                return await distill.distil(item, found, teacher)
            return distill.extract(item, found, cycle.config.distill)

        yield Unit((item.id, *(s.id for s in found)), work)


def merge_rules(cycle: Cycle) -> Iterator[Unit]:
    """One unit: rules that say the same become one."""
    rules = [rule for rule in cycle.board.all(Rule) if not rule.merged_from]

    async def work() -> Sequence[Derived]:
        return distill.merge(rules, _users(cycle), cycle.tools.embedder)

    if rules:
        yield Unit(tuple(rule.id for rule in rules), work)


def make_pairs(cycle: Cycle) -> Iterator[Unit]:
    """A unit an interaction that may teach: a better answer, from the user, an earlier success or the teacher."""
    by_item, rules_of = _signals(cycle), _rules(cycle)
    edits = [s for item in _teaching(cycle) for s in by_item.get(item.id, ())]
    settings, least = cycle.config.pairs, cycle.config.signals.min_confidence
    known = pairing.known_answers(edits, _users(cycle), settings.min_support)
    decisions = {d.interaction_id: d for d in cycle.board.all(Decision)}
    for item in _teaching(cycle):
        rules = rules_of.get(item.id, [])
        pair = pairing.from_users(item, by_item.get(item.id, ()), rules, known, least)
        if pair is not None:
            yield Unit((item.id, pair.id), _given([pair]))
        elif decisions[item.id].teaches == "positive" and item.adapter is not None:
            yield Unit((item.id, "kept", cycle.tools.base_fingerprint), _keep(cycle, item))
        elif cycle.tools.teacher is not None and rules:
            yield Unit((item.id, *(rule.id for rule in rules)), _revise(cycle, item, rules))


def _keep(cycle: Cycle, item: Interaction) -> Callable[[], Awaitable[Sequence[Derived]]]:
    """What an adapter already does right, against what the base model would say: so that the next one keeps it."""

    async def work() -> Sequence[Derived]:
        base = await answer.answer(cycle.tools.student, "base", "", _prompt(item), _max_tokens(cycle, item))
        pair = pairing.build(item, (), item.answer, base, "on_policy")
        return [] if pair is None else [pair]

    return work


def _revise(cycle: Cycle, item: Interaction, rules: Sequence[Rule]) -> Callable[[], Awaitable[Sequence[Derived]]]:
    async def work() -> Sequence[Derived]:
        teacher = cycle.tools.teacher
        assert teacher is not None
        pair = await pairing.revise(item, rules, teacher, cycle.config.pairs.margin)
        return [] if pair is None else [pair]

    return work


def cluster(cycle: Cycle) -> Iterator[Unit]:
    """One unit: every interaction with a rule or a pair."""
    rules_of, pair_of = _rules(cycle), {p.interaction_id: p for p in cycle.board.all(PreferencePair)}
    items = [i for i in _teaching(cycle) if i.id in rules_of or i.id in pair_of]
    before = [row for row in cycle.before.values() if isinstance(row, Cluster)]

    async def work() -> Sequence[Derived]:
        texts = {
            i.id: [r.text for r in rules_of.get(i.id, [])] or [f"Answer: {pair_of[i.id].chosen}"] for i in items
        }  # fmt: skip
        return clustering.group(
            [i.id for i in items], [i.query for i in items], cycle.tools.embedder.embed([i.query for i in items]),
            _mean_vectors(cycle, [texts[i.id] for i in items]), cycle.config.cluster, _affordable(cycle), before,
        )  # fmt: skip

    if items:
        meaning = (cycle.tools.embedder.fingerprint, str(_affordable(cycle)), *(c.id for c in before))
        rows = [f"{i.id} {' '.join(r.id for r in rules_of.get(i.id, ()))} {_pair_id(pair_of.get(i.id))}" for i in items]
        yield Unit((*rows, *meaning), work)


def _pair_id(pair: PreferencePair | None) -> str:
    return pair.id if pair else ""


def _mean_vectors(cycle: Cycle, texts: Sequence[Sequence[str]]) -> Vectors:
    """(N, D): the normalised mean of each row's texts."""
    flat = list(dict.fromkeys(text for row in texts for text in row))
    vectors = dict(zip(flat, cycle.tools.embedder.embed(flat), strict=True))
    means = np.stack([np.mean([vectors[text] for text in row], axis=0) for row in texts])
    return cast("Vectors", means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12))


def _affordable(cycle: Cycle) -> int:
    """How many clusters the adapter budget can give an adapter of LEAST_RANK."""
    each = cycle.tools.lora_sizes.get(cycle.config.train.target_modules, 0) * LEAST_RANK
    return max(1, int(cycle.config.train.budget * cycle.tools.base_parameters // each)) if each else 1


def measure_gaps(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster."""
    rules_of = _rules(cycle)
    for group in cycle.board.all(Cluster):
        found = _pairs_of(cycle, group)
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
    return [_plan(cycle, group, gaps[group.id], len(groups)) for group in groups if group.id in gaps]


def _plan(cycle: Cycle, group: Cluster, measured: Gap, clusters: int) -> _Plan:
    settings = cycle.config
    kind: AdapterKind = "critic" if measured.route == "reflective" else "expert"
    members = [cycle.board.get(Interaction, member) for member in group.interaction_ids]
    sides = evaluate.split(members, settings.evaluate, SPLIT_SALT)
    learners = {item.id for item in sides.train}
    pairs = [p for p in _pairs_of(cycle, group) if p.interaction_id in learners]
    lessons = _lessons(cycle, kind, pairs)
    share = settings.train.budget * cycle.tools.base_parameters / clusters
    rank = rank_for(share, cycle.tools.lora_sizes.get(settings.train.target_modules, 1), settings.train.max_rank)
    confirmation = _cases(cycle, sides.confirmation)
    job = TrainingJob(
        cluster_id=group.id, name=group.name, kind=kind, base_path=cycle.tools.base_path, base_fingerprint=cycle.tools.base_fingerprint,
        pairs=lessons, out_dir=cycle.tools.adapters_dir, rank=rank, seed=settings.train.seed,
        settings=cast("Mapping[str, Json]", settings.train.model_dump(mode="json")),
    )  # fmt: skip
    return _Plan(
        cluster=group, kind=kind, job=job, blocked=_blocked(cycle, lessons, rank, confirmation),
        selection=_cases(cycle, sides.selection), confirmation=confirmation,
    )  # fmt: skip


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
    rules_of = _rules(cycle)
    return tuple(
        TrainingPair(
            id=p.id, prompt=answer.critic_prompt(p.prompt[-1].content, p.rejected), rejected="",
            chosen=answer.critique([r.text for r in rules_of[p.interaction_id]]),
        )
        for p in pairs
        if rules_of.get(p.interaction_id)
    )  # fmt: skip


def _cases(cycle: Cycle, items: Iterable[Interaction]) -> tuple[evaluate.Case, ...]:
    """Held-out interactions with a known right answer: the user's own, or the one they praised."""
    by_item = _signals(cycle)
    pair_of = {p.interaction_id: p for p in cycle.board.all(PreferencePair)}
    praised = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches == "positive"}
    cases = []
    for item in items:
        pair = pair_of.get(item.id)
        reference = pair.chosen if pair else item.answer if item.id in praised and by_item.get(item.id) else None
        if reference:
            cases.append(
                evaluate.Case(
                    interaction_id=item.id, user=item.user or item.session, prompt=_prompt(item), reference=reference,
                    baseline_answer="", candidate_answer="",
                )
            )  # fmt: skip
    return tuple(cases)


def evaluate_adapters(cycle: Cycle) -> Iterator[Unit]:
    """A unit a cluster: its checkpoints on the selection side, the best one against what serves on the other side."""
    for plan in _plans(cycle):
        adapters = [a for a in cycle.board.all(Adapter) if a.cluster_id == plan.cluster.id and _is_of(a, plan)]
        baseline = cycle.serving.get(plan.cluster.name)
        asked = digest([[c.interaction_id, c.reference] for c in (*plan.selection, *plan.confirmation)])
        inputs = (plan.cluster.id, baseline or "base", asked, *(a.id for a in adapters))
        if plan.blocked:
            yield Unit((*inputs, plan.blocked), _given([_undecided(plan, baseline)]))
        elif adapters:
            yield Unit(inputs, _gate(cycle, plan, adapters, baseline))


def _is_of(adapter: Adapter, plan: _Plan) -> bool:
    return adapter.kind == plan.kind and set(adapter.pair_ids) <= {p.id for p in plan.job.pairs}


def _undecided(plan: _Plan, baseline: str | None) -> Evaluation:
    return identified(
        Evaluation(
            id="", cluster_id=plan.cluster.id, candidate=plan.kind, adapter_id=None, baseline=baseline or "base",
            interaction_ids=tuple(c.interaction_id for c in plan.confirmation), cases=len(plan.confirmation), wins=0, ties=0,
            win_rate=None, lower=None, upper=None, guards={}, outcome="not_enough_data", reason=plan.blocked or "",
        )
    )  # fmt: skip


def _gate(
    cycle: Cycle, plan: _Plan, adapters: Sequence[Adapter], baseline: str | None
) -> Callable[[], Awaitable[Sequence[Derived]]]:
    async def work() -> Sequence[Derived]:
        settings = cycle.config.evaluate
        champion = cast("Adapter | None", cycle.before.get(baseline or ""))
        scores = []
        for adapter in adapters:
            answered = await _answers(cycle, plan.selection, adapter.kind, adapter)
            scores.append(evaluate.selection_score(_filled(plan.selection, [""] * len(answered), answered), settings))
            cycle.progress(f"evaluate: {adapter.path} scores {_told(scores[-1])} on the selection side")
        best = adapters[evaluate.choose(scores)]
        theirs = await _answers(cycle, plan.confirmation, champion.kind if champion else "base", champion)
        ours = await _answers(cycle, plan.confirmation, best.kind, best)
        result = evaluate.compare(
            _filled(plan.confirmation, theirs, ours), cluster_id=plan.cluster.id, candidate=best.kind, adapter_id=best.id,
            baseline=baseline or "base", settings=settings,
        )  # fmt: skip
        return [result]

    return work


def _told(score: float | None) -> str:
    return "nothing, for want of cases," if score is None else f"{score:.2f}"


async def _answers(cycle: Cycle, cases: Sequence[evaluate.Case], kind: str, adapter: Adapter | None) -> list[str]:
    """Greedy answers to the cases, all at once; the adapter (None: the base model) is loaded first."""
    name = adapter.path if adapter else ""
    if adapter is not None:
        await cycle.tools.adapters.load(name, str(Path(cycle.tools.adapters_dir) / adapter.path))
    items = [cycle.board.get(Interaction, case.interaction_id) for case in cases]
    calls = (
        answer.answer(cycle.tools.student, cast("AdapterKind", kind), name, case.prompt, _max_tokens(cycle, item))
        for case, item in zip(cases, items, strict=True)
    )
    return list(await asyncio.gather(*calls))


def _filled(cases: Sequence[evaluate.Case], baseline: Sequence[str], candidate: Sequence[str]) -> list[evaluate.Case]:
    return [
        evaluate.Case(
            interaction_id=c.interaction_id, user=c.user, prompt=c.prompt, reference=c.reference, baseline_answer=theirs,
            candidate_answer=ours,
        )
        for c, theirs, ours in zip(cases, baseline, candidate, strict=True)
    ]  # fmt: skip


def judge_experiments(cycle: Cycle) -> Iterator[Unit]:
    """A unit an evaluation."""
    for found in cycle.board.all(Evaluation):
        verdict = experiment.decide(found, live_test=cycle.config.deploy.live_test)
        yield Unit((found.id,), _given([verdict]))


def plan_deployments(
    cycle: Cycle, current: Mapping[str, Deployment], load: Callable[[Sequence[str]], Sequence[Adapter]]
) -> list[Deployment]:
    """What changes in serving; `load`: adapters by id."""
    live = load(deploy.live_adapters(current))
    return deploy.plan(
        cycle.board.all(Verdict), cycle.board.all(Cluster), current, [*cycle.board.all(Adapter), *live],
        cycle.tools.clock.now(), base_parameters=cycle.tools.base_parameters, budget=cycle.config.train.budget,
    )  # fmt: skip


async def serve_only(cycle: Cycle, live: Sequence[Adapter]) -> None:
    """Load what serves, then unload the rest."""
    wanted = {adapter.path for adapter in live}
    for adapter in live:
        await cycle.tools.adapters.load(adapter.path, str(Path(cycle.tools.adapters_dir) / adapter.path))
    for name in await cycle.tools.adapters.names():
        if name not in wanted:
            await cycle.tools.adapters.unload(name)


def _given(records: Sequence[Derived]) -> Callable[[], Awaitable[Sequence[Derived]]]:
    async def work() -> Sequence[Derived]:
        return records

    return work


def _signals(cycle: Cycle) -> dict[str, list[Signal]]:
    found: dict[str, list[Signal]] = defaultdict(list)
    for signal in cycle.board.all(Signal):
        found[signal.interaction_id].append(signal)
    return found


def _teaching(cycle: Cycle) -> list[Interaction]:
    teaches = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches != "nothing"}
    return [item for item in cycle.board.all(Interaction) if item.id in teaches]


def _rules(cycle: Cycle) -> dict[str, list[Rule]]:
    """Interaction id -> the merged rules that rest on it."""
    found: dict[str, list[Rule]] = defaultdict(list)
    for rule in cycle.board.all(Rule):
        for member in rule.interaction_ids if rule.merged_from else ():
            found[member].append(rule)
    return found


def _pairs_of(cycle: Cycle, group: Cluster) -> list[PreferencePair]:
    members = set(group.interaction_ids)
    return [pair for pair in cycle.board.all(PreferencePair) if pair.interaction_id in members]


def _users(cycle: Cycle) -> dict[str, str]:
    return {item.id: item.user or item.session or item.id for item in cycle.board.all(Interaction)}


def _prompt(item: Interaction) -> tuple[Message, ...]:
    return (*item.context, Message(role="user", content=item.query))


def _max_tokens(cycle: Cycle, item: Interaction) -> int:
    request = cycle.logs[item.log_id].request
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    return limit if isinstance(limit, int) and limit > 0 else cycle.config.evaluate.max_tokens
