"""Live tests in the store: begun once a cluster, led step by step, ended; and what was paused by hand.

Experiment, Step -> Experiments.begin, take        Experiments.running -> cluster name -> its test with all its steps

A step's id is its experiment and its number, so that of two processes which lead a test the first one wins, and the
other one finds out. A step goes in with its verdict and with the deployment that it brings, or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import Connection, delete, select

from logtune.edges import schema
from logtune.edges.database import insert_new, insert_or_replace
from logtune.edges.schema import TABLES, decode
from logtune.edges.store import Store, hold, insert_derived
from logtune.records import Deployment, Experiment, Step, Verdict

ENDS = ("stop", "rollback", "end")  # actions after which a test is over
LIVE = "live-test"  # in place of the cycle
Led: TypeAlias = tuple[Experiment, tuple[Step, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Something that was paused by hand."""

    name: str  # of a cluster; "": everything
    at: float
    by: str
    reason: str


class Experiments:
    """The live tests of a store; StoreError as the store raises it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self, experiment: Experiment, first: Step) -> bool:
        """Begin a test; False: one of this cluster runs already, or this very one has run."""
        with self._store.transaction(write=True) as db:
            names = [test.cluster_name for test in _tests(db, _running(db))]
            if experiment.cluster_name in names or _known(db, first.id):
                return False
            origin = (LIVE, experiment.config_hash, experiment.at)
            insert_derived(db, [(experiment, origin), (first, origin)])
            insert_new(db, schema.running, [{"experiment_id": experiment.id}])
            return True

    def take(self, step: Step, verdict: Verdict | None = None, deployments: Sequence[Deployment] = ()) -> bool:
        """Lead a running test one step on.

        False: another step has that number, the test is over, or a deployment would replace another one than it names.
        """
        with self._store.transaction(write=True) as db:
            if step.experiment_id not in _running(db) or _known(db, step.id):
                return False
            if any(_serving(db, made.cluster_name) != made.previous_id for made in deployments):
                return False
            (test,) = _tests(db, [step.experiment_id])
            origin = (LIVE, test.config_hash, step.at)
            insert_derived(db, [(record, origin) for record in (verdict, step) if record is not None])
            for deployment in deployments:
                hold(db, deployment, origin)
            if step.action in ENDS:
                db.execute(delete(schema.running).where(schema.running.c.experiment_id == test.id))
            return True

    def running(self) -> dict[str, Led]:
        """The tests that are not over, by cluster name."""
        with self._store.transaction() as db:
            found = _tests(db, _running(db))
            return {test.cluster_name: (test, _steps(db, test.id)) for test in found}

    def led(self, experiment: Experiment) -> tuple[Step, ...]:
        """All steps of a test, in order."""
        with self._store.transaction() as db:
            return _steps(db, experiment.id)

    def of_cluster(self, name: str) -> list[Led]:
        """The tests that a cluster ever had, in order."""
        table = TABLES[Experiment]
        with self._store.transaction() as db:
            rows = db.execute(select(table.c.body).where(table.c.cluster_name == name).order_by(table.c.at, table.c.id))
            found = [decode(Experiment, row.body) for row in rows]
            return [(test, _steps(db, test.id)) for test in found]

    def paused(self) -> list[Control]:
        """What is paused: everything, or single clusters."""
        with self._store.transaction() as db:
            return [Control(**row._mapping) for row in db.execute(select(schema.controls))]

    def pause(self, control: Control) -> None:
        """Let nothing change by itself in a cluster, or anywhere, until `resume`."""
        row = {"name": control.name, "at": control.at, "by": control.by, "reason": control.reason}
        with self._store.transaction(write=True) as db:
            insert_or_replace(db, schema.controls, [row])

    def resume(self, name: str) -> bool:
        """Undo `pause`; False: it was not paused."""
        with self._store.transaction(write=True) as db:
            return bool(db.execute(delete(schema.controls).where(schema.controls.c.name == name)).rowcount)


def _running(db: Connection) -> list[str]:
    return list(db.execute(select(schema.running.c.experiment_id)).scalars())


def _known(db: Connection, step_id: str) -> bool:
    table = TABLES[Step]
    return db.execute(select(table.c.id).where(table.c.id == step_id)).first() is not None


def _serving(db: Connection, cluster_name: str) -> str | None:
    """Id of the deployment that holds for a cluster name."""
    live = schema.live
    query = select(live.c.deployment_id).where(live.c.cluster_name == cluster_name).order_by(live.c.number.desc())
    return db.execute(query.limit(1)).scalar()


def _tests(db: Connection, ids: Sequence[str]) -> list[Experiment]:
    table = TABLES[Experiment]
    rows = db.execute(select(table.c.body).where(table.c.id.in_(ids)).order_by(table.c.at, table.c.id))
    return [decode(Experiment, row.body) for row in rows]


def _steps(db: Connection, experiment_id: str) -> tuple[Step, ...]:
    table = TABLES[Step]
    rows = db.execute(select(table.c.body).where(table.c.experiment_id == experiment_id))
    return tuple(sorted((decode(Step, row.body) for row in rows), key=lambda step: step.number))
