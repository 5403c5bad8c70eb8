"""Live tests for tests: a candidate that passed its gate, and users whom its arms please or not."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gateway_kit import adapter_for, cluster_of, write_adapter

from logtune import experiments
from logtune.app.table import Trial
from logtune.config import Config, build
from logtune.edges.experiments import Experiments
from logtune.edges.store import Store, UnitResult
from logtune.ids import identified
from logtune.records import Cluster, Evaluation, Experiment, Feedback, Json, LogRecord, Step

LATE = "where is my late parcel"
CLUSTER = cluster_of("late", LATE)
HOUR, DAY = 3600.0, 86_400.0
BEGUN = 1_000_000.0


def settings(folder: Path, **given: Json) -> Config:
    """Small tests: a ramp of few users, and thumbs that come at once."""
    chosen: dict[str, Json] = {
        "mode": "ab", "metric": "thumbs", "window_hours": 1.0, "ramp_users": [5, 20], "look_s": 1.0, **given
    }  # fmt: skip
    return build({"store": {"home": str(folder)}, "serve": {"poll_s": 0.02}, "experiment": chosen})


def passed(store: Store, home: Path, cluster: Cluster = CLUSTER) -> Evaluation:
    """An expert that passed its gate, with all that it rests on."""
    adapter = adapter_for(cluster)
    write_adapter(home, adapter)
    evaluation = identified(Evaluation(
        id="", cluster_id=cluster.id, candidate="expert", adapter_id=adapter.id, baseline="base", interaction_ids=(),
        cases=20, wins=15, ties=2, win_rate=0.8, lower=0.6, upper=0.92, guards={}, outcome="passed", reason="won 15",
    ))  # fmt: skip
    outputs = (cluster, adapter, evaluation)
    unit = UnitResult(stage="t", key=evaluation.id, outputs=outputs, cycle_id="c", config_hash="h", at=1.0)
    store.commit_units([unit])
    return evaluation


def begin(store: Store, config: Config, now: float = BEGUN) -> Experiment:
    """A test that runs."""
    evaluation = passed(store, Path(config.store.home))
    test, reason = experiments.begin(store, evaluation, "late", config, now)
    assert test is not None, reason
    return test


def steps(store: Store) -> tuple[Step, ...]:
    """All steps of the newest test of the cluster."""
    return Experiments(store).of_cluster("late")[-1][1]


def visit(
    store: Store, test: Experiment, users: Sequence[int], at: float, likes: Callable[[bool], float], seed: int = 0
) -> list[LogRecord]:
    """One request of each user, a second after the other, with a thumb; `likes`: chance of a good one, by arm."""
    rng, made = random.Random(seed), []
    trial = Trial(experiment=test.id, steps=Experiments(store).led(test))
    for number, user in enumerate(users):
        when = at + number
        drawn = trial.draw(f"user:u{user}", when)
        assert drawn is not None, "the test has not begun"
        ours, draw = drawn
        made.append(LogRecord(
            id=f"log-{when}-{user}", request={"messages": [{"role": "user", "content": LATE}]},
            response={"choices": [{"index": 0, "message": {"role": "assistant", "content": "It comes tomorrow."}}]},
            at=when, arm="candidate" if ours else "base", cluster="late", user=f"u{user}", draw=draw, latency_ms=100.0,
        ))  # fmt: skip
    store.add_logs(made)
    thumbs = [1.0 if rng.random() < likes(log.arm == "candidate") else -1.0 for log in made]
    store.put_feedback([
        Feedback(id=f"f-{log.id}", target=log.id, at=log.at + 1, kind="rating", value=value, user=log.user)
        for log, value in zip(made, thumbs, strict=True)
    ])  # fmt: skip
    return made


def changed(store: Store, record: LogRecord, **fields: object) -> LogRecord:
    """A further request like another one."""
    made = replace(record, id=f"{record.id}-more", **fields)  # type: ignore[arg-type]
    store.add_logs([made])
    return made
