"""The ladder of a cluster: which candidates are tried, from the cheapest on, and with which lessons.

cycle -> Plan*: held-out cases, rules in the prompt, training jobs, and why a rung is left out

The gap says which adapter is tried first; where it fails and nothing else passed, the other follows in the same cycle
(paper: what fails goes to the reflective path). The critic prompt is tried where a critic is.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import cast

from logtune import incumbents
from logtune.config import LadderSettings
from logtune.gate import Contender, Trials
from logtune.going_on import going_on
from logtune.ports import TrainingJob, TrainingPair
from logtune.records import (
    Adapter,
    AdapterKind,
    CandidateKind,
    Cluster,
    Evaluation,
    Gap,
    Interaction,
    Json,
    PreferencePair,
    Rule,
)
from logtune.runner import Cycle
from logtune.sharing import shared
from logtune.sides import cases_of, corrected, right_already, roll, sides_of, since_proof, voters
from logtune.stages import answer, budget, decay, evaluate
from logtune.stages.held_out import Split
from logtune.stages.prompted import active, in_words
from logtune.views import held, pairs_of, rules, rules_by_interaction, taught

WORDLESS = "its rules are right answers to single requests, which no prompt and no critic can pass on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is tried for a cluster, and what will decide."""

    cluster: Cluster
    trials: Trials
    baseline: Contender  # what serves now
    prompts: Mapping[CandidateKind, Contender]  # candidates without training
    jobs: Mapping[AdapterKind, TrainingJob]  # in the order in which they are tried
    lessons: Mapping[AdapterKind, tuple[str, ...]]  # ids of the pairs that each is to know in the end
    blocked: Mapping[AdapterKind, str]  # why training would be in vain
    hopeless: str | None  # why no candidate can be proven

    def kind(self, turn: int) -> AdapterKind | None:
        """The adapter tried first (0) or second (1); None: there is none."""
        return next(iter(tuple(self.jobs)[turn : turn + 1]), None)


def plans(cycle: Cycle) -> list[Plan]:
    """One a cluster with a gap; what they rest on is settled before the first row that asks."""
    if "plans" not in cycle.kept:
        cycle.kept["plans"] = _plans(cycle)
    return cast("list[Plan]", cycle.kept["plans"])


def _plans(cycle: Cycle) -> list[Plan]:
    gaps = {g.cluster_id: g for g in cycle.board.all(Gap)}
    groups = cycle.board.all(Cluster)
    rank = _ranks(cycle, groups)
    drafts = [_draft(cycle, group, gaps[group.id], rank[group.name]) for group in groups if group.id in gaps]
    together = _together(drafts)
    return [_decidable(draft, together) for draft in drafts]


def checkpoints(cycle: Cycle, plan: Plan, turn: int) -> list[Adapter]:
    """The adapters of this cycle that a cluster's first or second training gave."""
    job = plan.jobs.get(plan.kind(turn) or "expert")
    if job is None:
        return []
    lessons = {pair.id for pair in job.pairs} | set(job.learned)
    mine = (a for a in cycle.board.all(Adapter) if a.cluster_id == plan.cluster.id and a.kind == job.kind)
    return [adapter for adapter in mine if set(adapter.pair_ids) <= lessons]


def climbed(cycle: Cycle, plan: Plan) -> bool:
    """Whether what serves is what this cluster's own ladder gave, with nothing new since."""
    served = cycle.prompted.get(plan.cluster.name)
    if served is not None:  # with other rules it would be among the prompts to try
        return served.cluster_id == plan.cluster.id and served.kind not in plan.prompts
    mine = [*checkpoints(cycle, plan, 0), *checkpoints(cycle, plan, 1)]
    return plan.baseline.name in {adapter.id for adapter in mine}


def goes_on(cycle: Cycle, plan: Plan) -> bool:
    """Whether the second round is due: the first adapter failed, or could not be made, and nothing else passed."""
    mine = [e for e in cycle.board.all(Evaluation) if e.cluster_id == plan.cluster.id]
    if plan.hopeless or climbed(cycle, plan) or any(e.outcome == "passed" for e in mine):
        return False
    first = plan.kind(0)
    failed = any(e.candidate == first and e.outcome == "failed" for e in mine)
    return first is None or failed or first in plan.blocked or not checkpoints(cycle, plan, 0)


def _draft(cycle: Cycle, group: Cluster, measured: Gap, rank: int) -> Plan:
    config = cycle.config
    members = [cycle.board.get(Interaction, member) for member in group.interaction_ids]
    sides = sides_of(cycle, members)
    learners = {item.id for item in sides.train}
    mine = [p for p in pairs_of(cycle, group) if p.interaction_id in learners]
    pairs = [pair for pair in _to_learn(cycle, group, mine) if shared(cycle).trains(pair)]
    voting, earlier = since_proof(cycle, group, cases_of(cycle, sides.confirmation))
    served = incumbents.of_requests(cycle, [item.query for item in (*sides.confirmation, *sides.selection)])
    baseline = incumbents.main_of(incumbents.of_name(cycle, group.name), served[: len(sides.confirmation)])
    places = zip((*sides.confirmation, *sides.selection), served, strict=True)
    worded = _worded(cycle, learners)
    prompts, not_tried = _prompts(config.ladder, worded, baseline, _wordless(cycle, learners))
    kinds = _adapters(config.ladder, measured, _kind_of(baseline, group), worded=bool(worded))
    lessons = {kind: _lessons(cycle, kind, pairs) for kind in kinds}
    jobs = {kind: going_on(cycle, _job(cycle, group, kind, lessons[kind], rank)) for kind in kinds}
    blocked = {kind: reason for kind, job in jobs.items() if (reason := _blocked(cycle, job))}
    return Plan(
        cluster=group, baseline=baseline, prompts=prompts, jobs=jobs, hopeless=None, blocked=blocked,
        lessons={kind: tuple(pair.id for pair in found) for kind, found in lessons.items()},
        trials=Trials(
            cluster=group, selection=cases_of(cycle, _choosers(cycle, sides)),
            confirmation=voting, earlier=earlier, settings=roll(cycle).settings, not_tried=not_tried,
            incumbents={item.id: other for item, other in places if other.key != baseline.key},
        ),
    )  # fmt: skip


def _choosers(cycle: Cycle, sides: Split) -> Sequence[Interaction]:
    """Who chooses the checkpoint; the paper chooses by what it reports."""
    return sides.confirmation if cycle.config.evaluate.rule == "rate" and not sides.selection else sides.selection


# --- the error of a cycle, spent before anything is trained ---


def _together(drafts: Sequence[Plan]) -> int:
    """How many tests share the error of a cycle: those of the clusters that can be decided even so, the largest first.

    What can't be decided is not tested and spends nothing. Sizes alone choose, so no result can.
    """
    total = 0
    for draft in sorted(drafts, key=_voters, reverse=True):
        if _too_few(draft, total + _tests(draft)) is None:
            total += _tests(draft)
    return total


def _decidable(draft: Plan, together: int) -> Plan:
    """The plan with its share of the error; where its users are too few for that, why nothing is tried."""
    hopeless = _too_few(draft, together)
    if hopeless is None:
        settings = corrected(draft.trials.settings, together)
        return replace(draft, trials=replace(draft.trials, settings=settings, sharing=together))
    return replace(draft, hopeless=hopeless, blocked=dict.fromkeys(draft.jobs, hopeless) | dict(draft.blocked))


def _too_few(draft: Plan, tests: int) -> str | None:
    settings = corrected(draft.trials.settings, max(tests, _tests(draft)))
    asked = draft.trials.confirmation
    return evaluate.too_few(_voters(draft), len(asked), settings, right_already(asked))


def _tests(draft: Plan) -> int:
    """Candidates of a cluster that may be put to the test."""
    return len(draft.jobs) - len(draft.blocked) + len(draft.prompts)


def _voters(draft: Plan) -> int:
    return voters(draft.trials.confirmation)


def _kind_of(baseline: Contender, group: Cluster) -> AdapterKind | None:
    """The kind of what serves, where it was made for just these interactions."""
    adapter = baseline.adapter
    return adapter.kind if adapter is not None and adapter.cluster_id == group.id else None


# --- the rungs ---


def _worded(cycle: Cycle, learners: Set[str]) -> tuple[Rule, ...]:
    """Active rules that say how to answer, and that users who have no vote at the gate stand behind too."""
    mine = [rule for rule in rules(cycle) if learners & set(rule.interaction_ids)]
    return active(mine, cycle.config.trust.min_users)


def _prompts(
    settings: LadderSettings, worded: tuple[Rule, ...], baseline: Contender, wordless: str
) -> tuple[dict[CandidateKind, Contender], dict[str, str]]:
    """The candidates without training, and why the others of the settings are left out."""
    wanted = (Contender(kind="rules", rules=worded), Contender(kind="critic_prompt"))
    found: dict[CandidateKind, Contender] = {}
    left_out: dict[str, str] = {}
    for contender in wanted:
        if contender.kind not in settings.rungs:
            continue
        if not worded:
            left_out[contender.kind] = wordless
        elif _said(contender) == _said(baseline):
            left_out[contender.kind] = "it serves already"
        else:
            found[contender.kind] = contender
    return found, left_out


def _said(contender: Contender) -> tuple[str, list[str]]:
    return contender.kind, [rule.text for rule in contender.rules]


def _wordless(cycle: Cycle, learners: Set[str]) -> str:
    """Why no rule can be told."""
    few = [r for r in cycle.board.all(Rule) if r.merged_from and in_words(r) and learners & set(r.interaction_ids)]
    return f"no rule has {cycle.config.trust.min_users} users behind it" if few else WORDLESS


def _adapters(
    settings: LadderSettings, measured: Gap, serving: AdapterKind | None, *, worded: bool
) -> tuple[AdapterKind, ...]:
    """The kinds of adapters, in the order in which they are tried; what serves already comes first."""
    reflective = measured.route == "reflective"
    order: tuple[AdapterKind, ...] = ("critic", "expert") if reflective else ("expert", "critic")
    if reflective and settings.route == "strict":
        order = ("critic",)
    order = tuple(kind for kind in order if kind in settings.rungs)
    # What an expert could not learn from right answers, a critic can say no better.
    order = tuple(kind for number, kind in enumerate(order) if kind != "critic" or not number or worded)
    return tuple(sorted(order, key=lambda kind: kind != serving))


# --- training ---


def _ranks(cycle: Cycle, groups: Sequence[Cluster]) -> dict[str, int]:
    """Rank of each cluster's adapter, by name."""
    settings, tools = cycle.config.train, cycle.tools
    own = {name: incumbents.of_name(cycle, name).adapter for name in {*cycle.routes, *(g.name for g in groups)}}
    current = {group.name: group.id for group in groups}
    gone = [name for name, adapter in own.items() if adapter is not None and name not in current]
    wishes = [
        budget.Wish(name=name, serving=adapter.rank, settled=adapter.cluster_id == current.get(name))
        if (adapter := own[name]) is not None
        else budget.Wish(name=name)
        for name in (*current, *sorted(gone))
    ]
    affordable = settings.budget * tools.base_parameters / tools.lora_sizes.get(settings.target_modules, 1)
    return budget.ranks(wishes, affordable, settings.max_rank)


def _to_learn(cycle: Cycle, group: Cluster, pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The pairs that train: what has not faded, and of the rest what the guard of earlier lessons asks for.

    Of earlier lessons too only those of users without a vote: rules were taught by users on all sides of the gate.
    """
    settings, out = cycle.config.train, held(cycle)
    said_at = {pair.id: cycle.board.get(Interaction, pair.interaction_id).at for pair in pairs}
    kept = decay.unfaded(
        said_at, cycle.config.trust.half_life_days, always=settings.unfaded_pairs, most=settings.max_pairs
    )
    earlier = [pair for pair in taught(cycle, group) if pair.id not in kept and pair.id not in out]
    aged = [cycle.aged[pair.id] for pair in earlier if pair.id in cycle.aged]
    here = {*group.interaction_ids, *(pair.interaction_id for pair in earlier if pair.id not in cycle.aged)}
    learners = {i.id for i in sides_of(cycle, [*aged, *(cycle.board.get(Interaction, name) for name in here)]).train}
    return [*(pair for pair in pairs if pair.id in kept), *(p for p in earlier if p.interaction_id in learners)]


def _job(cycle: Cycle, group: Cluster, kind: AdapterKind, pairs: tuple[TrainingPair, ...], rank: int) -> TrainingJob:
    settings, tools = cycle.config.train, cycle.tools
    return TrainingJob(
        cluster_id=group.id, name=group.name, kind=kind, base_path=tools.base_path,
        base_fingerprint=tools.base_fingerprint, pairs=pairs, out_dir=tools.adapters_dir,
        rank=rank, seed=settings.seed, settings=cast("Mapping[str, Json]", settings.model_dump(mode="json")),
        template=cycle.config.model.template or {},
    )  # fmt: skip


def _blocked(cycle: Cycle, job: TrainingJob) -> str | None:
    """Why training would be in vain; known before it is paid for."""
    settings = cycle.config.train
    if not job.rank:
        return f"a budget of {settings.budget:.2%} of the base model does not afford an adapter of rank 1"
    if len(job.pairs) < settings.min_pairs:
        return f"{len(job.pairs)} pairs to learn from, train.min_pairs is {settings.min_pairs}"
    return None


def _lessons(cycle: Cycle, kind: AdapterKind, pairs: Sequence[PreferencePair]) -> tuple[TrainingPair, ...]:
    if kind == "expert":  # away from what the base model says, not from an earlier adapter's near misses (docs/log.md)
        return tuple(
            TrainingPair(id=p.id, prompt=p.prompt, chosen=p.chosen, rejected=p.contrast or p.rejected) for p in pairs
        )
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
