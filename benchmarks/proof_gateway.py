"""Rows of `proof.py` that need a real gateway: who sees two arms, and how fast a breach ends a live test.

`logtune serve` with two workers before the mock upstream of the gateway benchmark, a live test in its store, and users
who come again and again; the records in the store say what they saw.

On a machine that others use too, PROOF_PRIORITY=3 (root) runs gateway, mock and users as real-time processes while a
rollback is timed, as `gateway.py --priority` does.
"""

import asyncio
import json
import os
import random
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import gateway_parts as parts
from proof import Measured

from logtune import experiments
from logtune.app import build
from logtune.config_experiment import ExperimentSettings
from logtune.edges.experiments import Experiments
from logtune.edges.store import Store, UnitResult
from logtune.ids import identified
from logtune.records import Adapter, Cluster, Evaluation, Experiment, Json
from logtune.stages.trials import standing, step_of

USERS, RATE = 1500, 60.0  # who come, and requests a second
MOST_LOST = 0.05  # of the requests of users who go on asking while the gateway is started again
BREACHES = 3
LOADED_TRIES = 30  # seconds until the candidate is loaded
RAMP = [0.05, 0.2, 0.5]
CASES = {"failing_at_50": ("failing", 0.5), "slow_at_50": ("slow", 0.5), "failing_at_5": ("failing", 0.05)}


@dataclass(slots=True)
class Answered:
    """One answer, as its client saw it."""

    at: float  # when it was asked for, of the performance counter
    user: int
    status: int
    arm: str
    adapter: str


class Traffic:
    """Users who ask, in an open loop."""

    def __init__(self, port: int, texts: list[str]) -> None:
        self.port = port  # of the gateway now; another one after a restart
        self.seen: list[Answered] = []
        self.lost = 0  # requests without an answer, as those under way when the gateway is stopped
        self.open = asyncio.Event()  # cleared while the gateway is started again: clients wait
        self.open.set()
        self._texts = texts
        self._random = random.Random(0)

    async def run(self, until: asyncio.Event, rate: float) -> None:
        """Ask until told to stop."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            due, tasks = time.perf_counter(), set[asyncio.Task[None]]()
            while not until.is_set():
                await self.open.wait()
                due = max(due, time.perf_counter() - 1.0)  # who waited does not come all at once
                task = asyncio.create_task(self._ask(session))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += 1 / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await asyncio.gather(*tasks)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        user, text = self._random.randrange(USERS), self._random.choice(self._texts)
        body = {"model": "base", "user": f"u{user}", "messages": [{"role": "user", "content": text}]}
        at = time.perf_counter()
        try:
            async with session.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body) as answer:
                await answer.read()
                head = answer.headers
                arm, adapter = head.get("x-logtune-arm", ""), head.get("x-logtune-adapter", "")
                self.seen.append(Answered(at, user, answer.status, arm, adapter))
        except (aiohttp.ClientError, TimeoutError):
            self.lost += 1


def mixed_users(quick: bool) -> Measured:
    """Users with records in both arms who were not moved by the ramp: two workers, three restarts, a ramp."""
    with _serving(workers=2) as (serving, texts):
        test = _begin(serving, 0)
        climbed = asyncio.run(_climb(serving, texts, test, 4.0 if quick else 12.0))
        arms, moved, mixed = _arms_of_users(serving, test)
        state = _state(serving)
    details: dict[str, Json] = {
        "users": len(arms), "requests": climbed.answered, "requests_lost": climbed.lost, "workers": 2,
        "restarts": climbed.restarts, "ramp": list(RAMP),
        "saw_two_arms": sum(len(found) > 1 for found in arms.values()), "moved_by_the_ramp": moved,
        "compared": state["units_compared"], "mixed_among_the_compared": state["mixed"],
    }  # fmt: skip
    return Measured(value=mixed, details=details, void=_void(climbed))


@dataclass(frozen=True, slots=True)
class Climbed:
    """What became of the requests while the ramp climbed."""

    answered: int
    lost: int
    restarts: int


def _void(climbed: Climbed) -> str:
    """Why nothing can be said of users' arms; "": it can."""
    asked = climbed.answered + climbed.lost
    if not asked or climbed.lost > MOST_LOST * asked:
        return f"{climbed.lost} of {asked} requests were lost: who saw what is not known"
    return ""


async def _climb(serving: parts.Serving, texts: list[str], test: Experiment, pause_s: float) -> Climbed:
    """Users ask all the time; the ramp climbs twice, and each time the gateway is started again."""
    traffic, over = Traffic(serving.port, texts), asyncio.Event()
    asking, restarts = asyncio.create_task(traffic.run(over, RATE / 2)), 0
    for share in (*RAMP[1:], None):
        await asyncio.sleep(pause_s)
        traffic.open.clear()
        await asyncio.to_thread(serving.stop)
        await asyncio.to_thread(serving.start)
        traffic.port, restarts = serving.port, restarts + 1
        traffic.open.set()
        if share is not None:
            await asyncio.sleep(pause_s / 2)
            await asyncio.to_thread(_ramp, serving, test, share)
    await asyncio.sleep(pause_s)
    over.set()
    await asking
    return Climbed(answered=len(traffic.seen), lost=traffic.lost, restarts=restarts)


def _ramp(serving: parts.Serving, test: Experiment, share: float) -> None:
    """As the loop takes a step of the ramp."""
    config, store = serving.config(), build.store(serving.config())
    try:
        at = standing(test, Experiments(store).led(test), (), (), time.time())
        since = time.time() + config.serve.poll_s + experiments.AHEAD_S
        step = step_of(at, "ramp", share, since, by="benchmark", reason="", now=time.time())
        assert Experiments(store).take(step)
    finally:
        store.close()


def _arms_of_users(serving: parts.Serving, test: Experiment) -> tuple[Mapping[str, set[str]], int, int]:
    """Arms by user; users whom the ramp moved, once, from the base to the candidate; users mixed otherwise."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    database = sqlite3.connect(serving.home / "logtune.db")
    for (body,) in database.execute("select body from logs order by at"):
        record = json.loads(body)
        if record["draw"] and record["draw"]["experiment"] == test.id:
            found[record["user"]].append((record["draw"]["lot"], record["arm"]))
    database.close()
    moved = mixed = 0
    for seen in found.values():
        arms, lot = [arm for _, arm in seen], seen[0][0]
        first = arms.index("candidate") if "candidate" in arms else len(arms)
        once = "base" not in arms[first:]
        if len(set(arms)) > 1:
            moved += once and RAMP[0] <= lot < RAMP[-1]
            mixed += not (once and RAMP[0] <= lot < RAMP[-1])
    return {user: {arm for _, arm in seen} for user, seen in found.items()}, moved, mixed


def _state(serving: parts.Serving) -> dict[str, int]:
    store = build.store(serving.config())
    try:
        ((test, steps),) = Experiments(store).running().values()
        at = standing(test, steps, list(store.logs(test.at)), (), time.time())
        return {"mixed": at.state.mixed, "units_compared": at.state.waiting + sum(at.state.units.values())}
    finally:
        store.close()


def rollback_s(quick: bool) -> Measured:
    """Seconds from the moment at which the candidate breaks to the last request that got it: the worst, by case."""
    waits: dict[str, list[float]] = defaultdict(list)
    bad: dict[str, list[int]] = defaultdict(list)
    priority = parts.Priority(level=int(os.environ.get("PROOF_PRIORITY", "0")))
    with _serving(workers=2) as (serving, texts):
        for number in range(1 if quick else BREACHES):
            for place, (name, (how, share)) in enumerate(CASES.items()):
                test = _begin(serving, 10 * number + place, share)
                with priority.raised(os.getpid(), *_processes(serving)):
                    wait, count = asyncio.run(_breach(serving, texts, test, how))
                waits[name].append(round(wait, 3))
                bad[name].append(count)
                _over(serving, test)
    details: dict[str, Json] = {
        "seconds": {name: list(found) for name, found in waits.items()}, "requests_a_second": RATE, "workers": 2,
        "users": USERS, "requests_that_met_the_broken_candidate": {name: list(found) for name, found in bad.items()},
        "machine": parts.machine(), "priority": priority.level,
    }  # fmt: skip
    return Measured(value={name: max(found) for name, found in waits.items()}, details=details)


def _processes(serving: parts.Serving) -> list[int]:
    """The gateway's, and the model server's before which it stands."""
    assert serving.mock is not None
    return [*serving.process.family(), serving.mock.pid]


async def _breach(serving: parts.Serving, texts: list[str], test: Experiment, how: str) -> tuple[float, int]:
    """Seconds until nobody got the candidate any more, and how many got it after it broke."""
    store = build.store(serving.config())
    (adapter,) = store.load(Adapter, [str(test.adapter_id)])
    store.close()
    traffic, over = Traffic(serving.port, texts), asyncio.Event()
    asking = asyncio.create_task(traffic.run(over, RATE))
    for _ in range(LOADED_TRIES):
        await asyncio.sleep(1.0)
        if _had(traffic, adapter.id):
            break
    await asyncio.sleep(4.0)
    broke = time.perf_counter()
    await _mock(serving, adapter.path, how)
    await asyncio.sleep(10.0)
    over.set()
    await asking
    late = [seen.at - broke for seen in _had(traffic, adapter.id) if seen.at > broke]
    return max(late, default=0.0), len(late)


def _had(traffic: Traffic, adapter: str) -> list[Answered]:
    return [seen for seen in traffic.seen if seen.adapter == adapter]


async def _mock(serving: parts.Serving, adapter: str, how: str) -> None:
    """Say how an adapter does from now on."""
    upstream = str(serving.config().model.url).removesuffix("/v1")
    async with aiohttp.ClientSession() as session, session.get(f"{upstream}/adapter/{adapter}/{how}") as answer:
        assert answer.status == 200


# --- what is served ---


@contextmanager
def _serving(workers: int) -> Iterator[tuple[parts.Serving, list[str]]]:
    rows = parts.questions()
    with tempfile.TemporaryDirectory(prefix="logtune-proof-") as folder:
        home = Path(folder)
        with parts.mock(home / "mock.log", 10.0, 10.0) as (upstream, port):
            settings: dict[str, Json] = {"serve.workers": workers, "experiment.backoff_days": 0}
            serving = parts.Serving(home, port, settings)
            serving.mock = upstream
            kept = parts.deploy(serving.config(), rows)
            texts = _near(serving, [row["text"] for row in rows])
            try:
                serving.start()
                serving.wait_for_router(kept)
                yield serving, texts
            finally:
                serving.stop()


def _near(serving: parts.Serving, texts: list[str]) -> list[str]:
    """Questions that belong to the tested cluster, by the embedder."""
    from logtune.stages.cluster import Routes

    config = serving.config()
    store = build.store(config)
    try:
        clusters = store.load(Cluster, [row.cluster_id for row in store.deployments().values()])
    finally:
        store.close()
    routes, some = Routes(tuple(clusters)), texts[:600]
    places = [routes.nearest(vector) for vector in build.embedder(config).embed(some)]
    near = (text for text, place in zip(some, places, strict=True) if place.cluster and place.cluster.name == NAME)
    return list(near)


NAME = "topics-0"


def _begin(serving: parts.Serving, number: int, share: float = RAMP[0]) -> Experiment:
    """A live test of another adapter for the cluster."""
    config = serving.config()
    ramp = ExperimentSettings(
        mode="ab",
        backoff_days=0,
        max_waiting=1_000_000,  # the shares are those of the benchmark, whatever the traffic
        ramp=tuple(step for step in RAMP if step >= share),
        ramp_users=(20, 80)[-sum(step > share for step in RAMP) :] if share < RAMP[-1] else (),
    )
    config = config.model_copy(update={"experiment": ramp})
    store = build.store(config)
    try:
        evaluation = _passed(store, serving, number)
        test, reason = experiments.begin(store, evaluation, NAME, config, time.time() - experiments.LOADING_S)
        assert test is not None, reason
        return test
    finally:
        store.close()


def _passed(store: Store, serving: parts.Serving, number: int) -> Evaluation:
    deployment = store.deployments()[NAME]
    (cluster,) = store.load(Cluster, [deployment.cluster_id])
    adapter: Adapter = parts.adapter_record(serving.config(), cluster.id, NAME, 100 + number)
    evaluation = identified(Evaluation(
        id="", cluster_id=cluster.id, candidate="expert", adapter_id=adapter.id,
        baseline=deployment.adapter_id or "base", interaction_ids=(), cases=20, wins=15, ties=2, win_rate=0.8,
        lower=0.6, upper=0.92, guards={},
        outcome="passed", reason=f"benchmark {time.time()}",
    ))  # fmt: skip
    unit = UnitResult(
        stage="bench", key=evaluation.id, outputs=(adapter, evaluation), cycle_id="bench", config_hash="", at=0.0
    )  # fmt: skip
    store.commit_units([unit])
    return evaluation


def _over(serving: parts.Serving, test: Experiment) -> None:
    """The guard has ended the test, and the store knows."""
    store, end = build.store(serving.config()), time.monotonic() + 60
    try:
        while Experiments(store).running() and time.monotonic() < end:
            time.sleep(0.1)
        last = Experiments(store).led(test)[-1]
        assert (last.action, last.by) == ("rollback", "guard"), replace(last, reason="")
    finally:
        store.close()
