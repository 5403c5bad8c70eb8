"""The STAGES table, read top to bottom; and one cycle over it.

interactions -> signals -> filter -> distill -> pairs -> trust -> cluster -> gap -> train -> evaluate -> experiment
-> deploy

Trust comes once more after the clusters are known, for what one user may teach each.
A cluster whose first adapter fails goes through train and evaluate once more, with the other kind.
"""

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, replace
from typing import cast

from logtune import candidates, experiments, holdings, incumbents, lessons, pruning, rebasing, silent, trusting, undone
from logtune.config import Config
from logtune.edges.experiments import Experiments
from logtune.edges.ledger import RuleLedger
from logtune.edges.pruned import Pruned
from logtune.edges.spending import Spending
from logtune.edges.store import CycleRow, Store, UnitResult
from logtune.ids import new_id
from logtune.ports import Tools
from logtune.prompts import VERSION as PROMPTS
from logtune.receipts import CycleReceipt, as_json, receipt_of
from logtune.records import (
    DAY_S,
    Adapter,
    CandidateKind,
    Cluster,
    Decision,
    Deployment,
    Derived,
    Evaluation,
    Failure,
    Feedback,
    Gap,
    Interaction,
    Json,
    LogRecord,
    PreferencePair,
    Rule,
    Signal,
    Standing,
    Verdict,
)  # fmt: skip
from logtune.runner import Board, Counts, Cycle, Prompted, Stage, run_stage
from logtune.served import accepted_lessons, aged_lessons, read_voted, served_rules, voted
from logtune.sides import settled
from logtune.stages.budget import Limits
from logtune.stages.deploy import live_adapters
from logtune.stages.plan import Serving, no_room, plan

TRAIN = Stage(
    name="train", version=f"2.{PROMPTS}", reads=(Cluster, PreferencePair, Gap), writes=(Adapter,), stops=False,
    together=1, settings=lambda c: (c.train, c.evaluate), phases=(),
)  # fmt: skip
EVALUATE = Stage(
    name="evaluate", version=f"4.{PROMPTS}", reads=(Cluster, Rule, Adapter, Interaction, Signal),
    writes=(Adapter, Evaluation, Failure),
    together=1, settings=lambda c: (c.evaluate, c.guards), phases=(),
)  # fmt: skip
TRUST = Stage(
    name="trust", version="1", reads=(Interaction, Signal, Decision, Rule, PreferencePair), writes=(Standing,),
    settings=lambda c: (c.trust, c.embedder), phases=(),
)  # fmt: skip
PAIRS = Stage(
    name="pairs", version=f"5.{PROMPTS}", reads=(Interaction, Signal, Decision, Rule), writes=(PreferencePair,),
    settings=lambda c: (c.pairs, c.teacher), phases=(),
)  # fmt: skip
STAGES: tuple[Stage, ...] = (
    Stage(name="interactions", version="3", reads=(LogRecord, Feedback), writes=(Interaction,),
          settings=lambda c: (), phases=(lessons.interactions,)),
    Stage(name="signals", version="5", reads=(Interaction, Feedback), writes=(Signal,),
          settings=lambda c: (c.signals,), phases=(lessons.signals, lessons.acts)),
    Stage(name="filter", version="4", reads=(Interaction, Signal), writes=(Decision,),
          settings=lambda c: (c.filter, c.embedder), phases=(lessons.filter_noise,)),
    Stage(name="distill", version=f"2.{PROMPTS}", reads=(Interaction, Signal, Decision), writes=(Rule,),
          settings=lambda c: (c.distill, c.teacher), phases=(lessons.distill_rules, lessons.merge_rules)),
    replace(PAIRS, phases=(lessons.make_pairs,)),
    replace(TRUST, phases=(trusting.weigh,)),
    replace(PAIRS, reads=(Interaction, Decision, Rule, PreferencePair, Standing), phases=(lessons.share_answers,)),
    Stage(name="cluster", version="3", reads=(Interaction, Rule), writes=(Cluster,),
          settings=lambda c: (c.cluster, c.trust, c.embedder), phases=(lessons.cluster,)),
    replace(TRUST, phases=(trusting.cap,)),
    Stage(name="gap", version=f"2.{PROMPTS}", reads=(Cluster, Rule, PreferencePair), writes=(Standing, Gap, Failure),
          settings=lambda c: (c.gap, c.teacher), phases=(candidates.find_known, candidates.measure_gaps)),
    replace(TRAIN, phases=(candidates.train_first,)),
    replace(EVALUATE, phases=(candidates.try_rules, candidates.try_first, candidates.try_critic_prompt)),
    replace(TRAIN, phases=(candidates.train_second,)),  # what failed goes on, in the same cycle
    replace(EVALUATE, phases=(candidates.try_second,)),
    Stage(name="experiment", version="2", reads=(Evaluation,), writes=(Verdict,),
          settings=lambda c: (c.experiment, c.ladder), phases=(candidates.judge_experiments,)),
    Stage(name="deploy", version="1", reads=(Verdict, Cluster, Adapter), writes=(Deployment,),
          settings=lambda c: (c.experiment,), phases=()),
)  # fmt: skip


def run_cycle(
    store: Store, tools: Tools, config: Config, progress: Callable[[str], None] = lambda line: None,
    still: Callable[[], None] = lambda: None,
) -> CycleReceipt:  # fmt: skip
    """One cycle over all stages, resumed where an earlier one was stopped; raises TooManyFailures and ModelError.

    `still` is asked before each stage and before the end: it raises where the cycle is another process's by now.
    """
    row = _open(store, tools, config)
    rebasing.retire(store, rebasing.of_cycle(row, tools.base_fingerprint), row.id, tools.clock.now())
    cycle = _cycle(store, tools, config, row, progress)
    spending = Spending(store, row.id, tools.spent)
    try:
        counts = asyncio.run(_stages(store, cycle, spending, still))
    finally:
        spending.save()
        tools.executor.close()
    still()
    receipt = receipt_of(store, cycle, row, counts, spending.total())
    store.close_cycle(row.id, tools.clock.now(), {**as_json(receipt), **_kept(row, cycle)})
    return receipt


def _kept(row: CycleRow, cycle: Cycle) -> dict[str, Json]:
    """What a cycle tells later ones beside what it did."""
    told = {name: row.receipt[name] for name in rebasing.KEPT if name in row.receipt}
    seen = max((log.at for log in cycle.logs.values()), default=0.0)
    return {**told, "voted": cast("Json", asdict(settled(cycle, seen))), "seen_until": seen}


def dry_run(store: Store, tools: Tools, config: Config) -> list[tuple[Interaction, Decision]]:
    """What the filter would decide; nothing is written."""
    row = CycleRow(id="dry", config_hash=config.config_hash, started_at=tools.clock.now(), ended_at=None, receipt={})
    cycle = _cycle(store, tools, config, row, lambda line: None)

    async def first_stages() -> None:
        for stage in STAGES[:3]:
            await run_stage(stage, cycle, lambda name, keys: {}, lambda name, done: None)

    asyncio.run(first_stages())
    board = cycle.board
    return [(board.get(Interaction, decision.interaction_id), decision) for decision in board.all(Decision)]


def _open(store: Store, tools: Tools, config: Config) -> CycleRow:
    """The cycle that was stopped, if its settings still hold; else a new one that remembers what serves now."""
    running = store.running_cycle()
    now = tools.clock.now()
    if running is not None:
        same_base = running.receipt.get("base", tools.base_fingerprint) == tools.base_fingerprint
        if running.config_hash == config.config_hash and same_base:
            return running
        store.close_cycle(running.id, now, {**running.receipt, "summary": "stopped; the settings have changed since"})
    base = rebasing.now_on(store, tools.base_fingerprint, now)
    gone = rebasing.stale(store, base)
    live = {name: row for name, row in store.deployments().items() if name not in gone}
    serving: dict[str, Json] = {name: row.adapter_id for name, row in live.items()}
    prompted: dict[str, Json] = {
        name: {
            "kind": row.candidate,
            "cluster_id": row.cluster_id,
            "rule_ids": [rule.id for rule in served_rules(store, row)],
        }
        for name, row in live.items()
        if row.candidate in UNTRAINED
    }
    finished = [row for row in store.cycles(limit=100) if row.receipt.get("clusters")]
    before = finished[0].receipt["clusters"] if finished else []
    receipt: dict[str, Json] = {
        **rebasing.receipt(store, base, gone), "serving": serving, "prompted": prompted, "before": before,
        "voted": asdict(voted(store)),
        "routes": {name: row.cluster_id for name, row in live.items()},
        "lessons": cast("Json", accepted_lessons(store, config.guards.lesson_checks)),
    }  # fmt: skip
    row = CycleRow(id=f"cyc-{new_id()}", config_hash=config.config_hash, started_at=now, ended_at=None, receipt=receipt)
    store.open_cycle(row)
    return row


def _cycle(store: Store, tools: Tools, config: Config, row: CycleRow, progress: Callable[[str], None]) -> Cycle:
    serving = cast("dict[str, str | None]", row.receipt.get("serving") or {})
    routes = cast("dict[str, str]", row.receipt.get("routes") or {})
    earlier = cast("list[str]", row.receipt.get("before") or [])
    clusters = store.load(Cluster, sorted({*earlier, *routes.values()}))
    adapters = store.load(Adapter, sorted({name for name in serving.values() if name}))
    before: dict[str, Derived] = {}
    before.update((record.id, record) for record in clusters)
    before.update((record.id, record) for record in adapters)
    since = rebasing.since(row, config.cycle.window_days * DAY_S)
    logs = {log.id: log for log in store.logs(since)}
    lessons = {
        name: tuple(store.load(PreferencePair, ids))
        for name, ids in cast("dict[str, list[str]]", row.receipt.get("lessons") or {}).items()
    }
    taught = {pair.id for pairs in lessons.values() for pair in pairs} | {n for a in adapters for n in a.pair_ids}
    pruned = Pruned(store).every()
    return Cycle(
        id=row.id, config=config, tools=tools, board=Board(), logs=logs,
        feedback={item.id: item for item in store.feedback()}, serving=serving,
        before=before, earlier=tuple(earlier), routes=routes, progress=progress, prompted=_prompted(store, row),
        ledger=RuleLedger(store).every(), lessons=lessons, aged=aged_lessons(store, taught, logs),
        base_since=rebasing.of_cycle(row, tools.base_fingerprint).since,
        pruned=pruned, passed=_passed(store) & pruned.keys() if pruned else frozenset(),
        voted=read_voted(row.receipt.get("voted") or {}),
    )  # fmt: skip


def _passed(store: Store) -> frozenset[str]:
    """Ids of the adapters that have ever passed a gate."""
    judged = store.list(Evaluation, limit=None)
    return frozenset(row.adapter_id for row in judged if row.adapter_id and row.outcome == "passed")


def _prompted(store: Store, row: CycleRow) -> dict[str, Prompted]:
    found = cast("dict[str, dict[str, Json]]", row.receipt.get("prompted") or {})
    return {
        name: Prompted(
            kind=cast("CandidateKind", what["kind"]),
            cluster_id=str(what["cluster_id"]),
            rules=tuple(store.load(Rule, cast("list[str]", what["rule_ids"]))),
        )
        for name, what in found.items()
    }


async def _stages(
    store: Store, cycle: Cycle, spending: Spending, still: Callable[[], None]
) -> dict[str, Counts]:  # fmt: skip
    def load(stage: str, keys: Sequence[str]) -> dict[str, Sequence[Derived]]:
        found = store.units(stage, keys)
        store.use_units(cycle.id, [(stage, key) for key in found])
        return {key: records(store, outputs) for key, outputs in found.items()}

    def commit(stage: str, done: Sequence[tuple[str, Sequence[Derived]]]) -> None:
        now = cycle.tools.clock.now()
        store.commit_units(
            [
                UnitResult(
                    stage=stage,
                    key=key,
                    outputs=tuple(outputs),
                    cycle_id=cycle.id,
                    config_hash=cycle.config.config_hash,
                    at=now,
                )
                for key, outputs in done
            ]
        )
        spending.save()

    counts: dict[str, Counts] = {}
    for stage in STAGES:
        still()
        cycle.progress(f"{stage.name} ...")
        deploys = stage.name == "deploy"
        count = await _deploy(store, cycle) if deploys else await run_stage(stage, cycle, load, commit)
        counts[stage.name] = counts.get(stage.name, Counts()) + count
        failed = f", {count.failed} failed" if count.failed else ""
        cycle.progress(f"{stage.name}: {count.done} done, {count.unchanged} unchanged{failed}")
    return counts


UNTRAINED = ("rules", "critic_prompt")
KINDS: Mapping[str, type[Derived]] = {
    kind.__name__: kind for stage in STAGES for kind in cast("tuple[type[Derived], ...]", stage.writes)
}


def records(store: Store, outputs: Sequence[tuple[str, str]]) -> list[Derived]:
    """The records that a finished unit wrote; `outputs`: (kind, id)*."""
    by_kind: dict[str, list[str]] = {}
    for kind, record_id in outputs:
        by_kind.setdefault(kind, []).append(record_id)
    found = {row.id: row for kind, ids in by_kind.items() for row in store.load(KINDS[kind], ids)}
    return [found[record_id] for _, record_id in outputs]


async def _deploy(store: Store, cycle: Cycle) -> Counts:
    """Write the plan down; gateways follow it by themselves. A second run finds nothing left to change."""
    limits = holdings.in_cycle(store, cycle)
    names = {cluster.id: cluster.name for cluster in cycle.board.all(Cluster)}
    verdicts = cycle.board.all(Verdict)
    barred = undone.barred(store, verdicts, names)
    cycle.kept["skipped"] = [f"{names[row.cluster_id]}: {barred[row.id]}." for row in verdicts if row.id in barred]
    at = replace(_serving(store, cycle, limits), barred=barred, leaving=silent.leaving(store, cycle))
    planned = plan(verdicts, cycle.board.all(Cluster), at)
    for deployment in planned:
        store.deploy(deployment, cycle.id)
    _test_live(store, cycle, limits, barred)
    current, tested = store.deployments(), Experiments(store).running().values()
    serving = [*(row.adapter_id for row in current.values()), *(test.adapter_id for test, _ in tested)]
    await candidates.unload_tried(cycle, [adapter for adapter in serving if adapter])
    pruning.after(store, cycle)
    return Counts(done=len(planned), unchanged=len(current) - len(planned))


def _serving(store: Store, cycle: Cycle, limits: Limits) -> Serving:
    """What serves and what is tested now, as a plan needs it."""
    current, running = store.deployments(), Experiments(store).running()
    tested = {name: test.adapter_id for name, (test, _) in running.items() if test.adapter_id}
    loaded = store.load(Adapter, sorted({*live_adapters(current), *tested.values()}))
    return Serving(
        current=current, adapters={each.id: each for each in (*cycle.board.all(Adapter), *loaded)},
        now=cycle.tools.clock.now(), limits=limits, moved=incumbents.moves(cycle),
        live=incumbents.live_clusters(cycle), tested=tested,
    )  # fmt: skip


def _test_live(store: Store, cycle: Cycle, limits: Limits, barred: Container[str]) -> None:
    """Begin a live test of each candidate that passed its gate and may not serve without one."""
    evaluations = {found.id: found for found in cycle.board.all(Evaluation) if found.outcome == "passed"}
    said: list[str] = []
    for verdict in cycle.board.all(Verdict):
        may = verdict.decision == "extend" and verdict.id not in barred
        if may and verdict.evaluation_id in evaluations:
            name = cycle.board.get(Cluster, verdict.cluster_id).name
            evaluation = evaluations[verdict.evaluation_id]
            test, reason = None, no_room(verdict, name, _serving(store, cycle, limits))
            if not reason:
                test, reason = experiments.begin(store, evaluation, name, cycle.config, cycle.tools.clock.now())
            began = f"live test {test.id} begins" if test else f"no live test begins: {reason}"
            said.append(f"{name}, {evaluation.candidate}: passed its gate; {began}.")
            cycle.progress(f"deploy: {said[-1]}")
    cycle.kept["live_tests"] = said
