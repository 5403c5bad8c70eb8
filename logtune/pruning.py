"""Adapter folders that nothing needs any more: which go, and that they are gone.

store, folder of all adapters -> Plan -> apply: marked in the store, removed from the disk

What serves stays, what a live test has or would bring back, what a rollback may restore, and what has just passed a
gate. Records of all adapters stay; should one be proven again, it is trained again. Only under the lease of the cycle.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from logtune.edges import pruned
from logtune.edges.experiments import Experiments
from logtune.edges.pruned import TRAINING, Pruned
from logtune.edges.store import Store
from logtune.ladder import plans
from logtune.records import Adapter, Deployment, Evaluation
from logtune.runner import Cycle
from logtune.stages.deploy import restorable
from logtune.stages.train import work_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes."""

    adapters: Mapping[str, tuple[str, ...]]  # name of a folder -> ids of the adapters in it
    training: tuple[str, ...]  # names of folders that trainings have left behind
    sizes: Mapping[str, int]  # name of a folder -> bytes
    back: tuple[str, ...] = ()  # ids of adapters that are marked, and there again

    @property
    def bytes(self) -> int:
        """Of all together."""
        return sum(self.sizes.values())


def plan(store: Store, home: Path, keep: int, passed: Collection[str], training: Collection[str] | None) -> Plan:
    """What nothing needs.

    `keep`: past adapters of each cluster that a rollback may restore; `passed`: ids of adapters that may serve next;
    `training`: folders of trainings that may go on, None: all may.
    """
    here = pruned.folders(home)
    by_path: dict[str, list[str]] = defaultdict(list)
    for adapter in store.list(Adapter, limit=None):
        by_path[adapter.path].append(adapter.id)
    needed = _needed(store, keep) | set(passed)
    gone = {name: tuple(ids) for name in here if (ids := by_path.get(name)) and not needed & set(ids)}
    left = [] if training is None else [name for name in here if name.startswith(TRAINING) and name not in training]
    marked, there = Pruned(store).every(), {name for path in here for name in by_path.get(path, ())}
    return Plan(
        adapters=gone, training=tuple(left), back=tuple(sorted(marked.keys() & there)),
        sizes={name: pruned.size(home / name) for name in (*gone, *left)},
    )  # fmt: skip


def after(store: Store, cycle: Cycle) -> None:
    """Remove what nothing needs once a cycle has deployed; it is no worse where that fails."""
    if not cycle.config.store.prune:
        return
    home = Path(cycle.tools.adapters_dir)
    jobs = [work_folder(job).name for each in plans(cycle) for job in each.jobs.values()]  # one that died goes on
    passed = {row.adapter_id for row in cycle.board.all(Evaluation) if row.adapter_id and row.outcome == "passed"}
    try:
        found = plan(store, home, cycle.config.store.keep_past, passed, jobs)
        apply(store, home, found, cycle.tools.clock.now())
    except OSError as error:
        cycle.progress(f"deploy: not all that nothing needs could be removed: {error}")
        return
    if found.sizes:
        cycle.progress(f"deploy: {len(found.sizes)} folders that nothing needs were removed, {found.bytes:,} bytes")


def by_hand(store: Store, home: Path, keep: int) -> Plan:
    """What nothing needs between two cycles; one that was stopped needs all that it has."""
    running, cycles = store.running_cycle(), store.cycles(1)
    passed = of_cycle(store, cycles[0].id) if cycles else set()
    if running is not None:
        passed |= {adapter.id for adapter in store.list(Adapter, limit=None, cycle_id=running.id)}
    return plan(store, home, keep, passed, None if running else ())


def of_cycle(store: Store, cycle_id: str) -> set[str]:
    """Ids of the adapters that passed a gate in a cycle."""
    judged = store.list(Evaluation, limit=None, cycle_id=cycle_id)
    return {row.adapter_id for row in judged if row.adapter_id and row.outcome == "passed"}


def apply(store: Store, home: Path, found: Plan, now: float) -> None:
    """Mark, then remove: what is interrupted is done by the next one."""
    marks = Pruned(store)
    marks.unmark(found.back)
    marks.mark({name for ids in found.adapters.values() for name in ids}, now)
    for name in found.sizes:
        pruned.remove(home / name)


def _needed(store: Store, keep: int) -> set[str]:
    """Ids of the adapters that serve, that are tested or held back, and that a rollback may restore."""
    rows = store.list(Deployment, limit=None)
    by_name: dict[str, list[Deployment]] = defaultdict(list)
    for row in rows:
        by_name[row.cluster_name].append(row)
    found = {row.adapter_id for row in store.deployments().values()}
    for history in by_name.values():
        states = [state[1] for state in restorable(history) if state[1]]
        found.update(list(dict.fromkeys(states))[:keep])
    by_id = {row.id: row for row in rows}
    for test, _ in Experiments(store).running().values():
        baseline = by_id.get(test.baseline_id or "")
        found |= {test.adapter_id, baseline.adapter_id if baseline else None}
    return {name for name in found if name}
