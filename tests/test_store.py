"""The store: records come back as they were, nothing committed is lost, several processes may write."""

import importlib.util
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from logtune.edges.schema import KINDS, NAMES, TABLES, parents_of
from logtune.edges.store import CycleRow, Reject, Store, UnitResult
from logtune.errors import MissingExtra, StoreError
from logtune.ids import PREFIX, identified
from logtune.records import (
    Cluster,
    Decision,
    Deployment,
    Evaluation,
    Failure,
    Feedback,
    FollowUp,
    Gap,
    Interaction,
    LogRecord,
    Message,
    Record,
    Rule,
)

BIN = Path("/usr/lib/postgresql")
INITDB = shutil.which("initdb") or next((str(path) for path in sorted(BIN.glob("*/bin/initdb"))), None)
MISSING = (
    "psycopg is not installed: pip install 'logtune[postgres]'"
    if importlib.util.find_spec("psycopg") is None
    else ("" if INITDB else "no PostgreSQL server is installed here")
)
ON_DISK = ["file"] if MISSING else ["file", "postgres"]
NUMBERS = count()
ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {**os.environ, "PYTHONPATH": str(ROOT)}  # for processes that tests start, from whatever folder


# every kind of record, with any text a Python string can hold

texts = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(
    ["", "\x00", "\x1a", "\x1a0041", "\ud800", "\ud83d\ude00", "😀", "naïve\r\n\t", '"\\u0000"', "\u2028", "%_'--"]
)
numbers = st.floats(allow_nan=False) | st.integers(-(2**70), 2**70)
jsons = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def strategy_for(hint: object) -> st.SearchStrategy[object]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is tuple:
        return st.lists(strategy_for(inner[0]), max_size=3).map(tuple)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, UnionType):
        return st.one_of(*map(strategy_for, inner))
    if isinstance(hint, type) and is_dataclass(hint):
        return st.builds(hint, **{item.name: strategy_for(item.type) for item in fields(hint)})
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(texts, st.floats(allow_nan=False) if inner[1] is float else jsons, max_size=3)
    simple = {str: texts, float: st.floats(allow_nan=False), int: st.integers(), bool: st.booleans()}
    return st.none() if hint is type(None) else simple[hint]  # type: ignore[index]


def records(kind: type) -> st.SearchStrategy[Record]:
    made = {item.name: strategy_for(item.type) for item in fields(kind)}
    made["id"] = st.text(st.characters(codec=None), min_size=1, max_size=8)
    if "at" in made:
        made["at"] = st.floats(0, 2e9)
    return st.builds(kind, **made)


# stores: a file, memory, and PostgreSQL where it is installed


class Postgres:
    """A server of its own in a temporary folder, reached by a Unix socket alone."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="logtune-pg-"))
        self.user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        if self.user:
            shutil.chown(self.folder, self.user)
        self._run(str(INITDB), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        options = f"-F -k {self.folder} -c listen_addresses=''"
        self._control("start", "-w", "-l", str(self.folder / "log"), "-o", options)
        self.url = f"postgresql+psycopg://postgres@/postgres?host={self.folder}"

    def new_url(self) -> str:
        """A schema of its own, which costs far less than a database."""
        name = f"test{next(NUMBERS)}"
        engine = create_engine(self.url)
        with engine.begin() as db:
            db.execute(text(f"CREATE SCHEMA {name}"))
        engine.dispose()
        return f"{self.url}&options=-csearch_path%3D{name}"

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")
        shutil.rmtree(self.folder)

    def _control(self, *arguments: str) -> None:
        self._run(str(Path(str(INITDB)).resolve().with_name("pg_ctl")), *arguments)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            [command[0], "-D", str(self.folder / "data"), *command[1:]],
            user=self.user, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, command


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if MISSING:
        pytest.skip(MISSING)
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(params=["memory", *ON_DISK])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres").new_url())
    return "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'records.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'records.db'}"


def log(name: str, at: float = 1.0, user: str | None = "ann", session: str | None = None) -> LogRecord:
    body = {"messages": [{"role": "user", "content": f"question {name}"}]}
    return LogRecord(id=name, request=body, response=None, at=at, user=user, session=session)  # type: ignore[arg-type]


def interaction(log_id: str, follow_ups: tuple[FollowUp, ...] = (), at: float = 1.0) -> Interaction:
    return identified(
        Interaction(
            id="", log_id=log_id, context=(Message(role="system", content="be brief"),), query="q", answer="a",
            follow_ups=follow_ups, feedback_ids=("f1", "f2"), user="ann", session=None, adapter=None, at=at,
        )
    )  # fmt: skip


def decision(interaction_id: str, reason: str = "ok") -> Decision:
    return identified(
        Decision(id="", interaction_id=interaction_id, teaches="positive", reason=reason, scores={"nll": 0.5})
    )


def cluster(name: str, previous_id: str | None = None) -> Cluster:
    vectors = ((0.6, 0.8), (1.0, 0.0))
    return identified(
        Cluster(
            id="",
            interaction_ids=("i1",),
            centroids=vectors,
            radius=0.3,
            label=name,
            previous_id=previous_id,
            name=name,
        )
    )


def deployment(name: str, reason: str, at: float, previous_id: str | None = None) -> Deployment:
    return identified(
        Deployment(
            id="", cluster_id="clu-1", cluster_name=name, candidate="expert", adapter_id="ada-1", verdict_id=None,
            previous_id=previous_id, action="deploy", reason=reason, at=at,
        )
    )  # fmt: skip


def unit(key: str, *outputs: Record, stage: str = "filter", cycle_id: str = "c1", at: float = 1.0) -> UnitResult:
    return UnitResult(stage=stage, key=key, outputs=outputs, cycle_id=cycle_id, config_hash="h", at=at)  # type: ignore[arg-type]


# round trips


@pytest.fixture(scope="module")
def memory() -> Iterator[Store]:
    opened = Store("sqlite://")
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_kind_of_record_comes_back_exactly(memory: Store, kind: type, data: st.DataObject) -> None:
    drawn = data.draw(records(kind))
    record = replace(drawn, id=f"{next(NUMBERS)}-{drawn.id}")
    keep(memory, record)
    found = memory.get(record.id)
    assert found == record
    assert repr(found) == repr(record)  # the types too, since 1 == 1.0 and a list is no tuple
    assert memory.load(kind, [record.id]) == [record]
    if not isinstance(record, (LogRecord, Feedback)):
        assert memory.parents(record.id) == parents_of(record)


def keep(store: Store, record: Record) -> None:
    if isinstance(record, LogRecord):
        assert store.add_logs([record]) == 1
    elif isinstance(record, Feedback):
        assert store.put_feedback([record]) == 1
    else:
        store.commit_units([unit(record.id, record)])


def test_postgres_keeps_what_sqlite_keeps(postgres: Postgres) -> None:
    store = Store(postgres.new_url())
    nasty = "a\x00b\ud800c\x1a0041\U0001f600\u2028'"
    given = replace(log(nasty, user=nasty, session=nasty), request={nasty: [nasty, 1e308, 2**70]})
    assert store.add_logs([given]) == 1
    assert list(store.logs()) == [given]
    assert store.get(nasty[:3]) == given
    assert store.known("user", [nasty]) == {nasty}
    store.close()


def test_every_derived_kind_has_a_table_and_a_prefix() -> None:
    assert set(KINDS) == set(PREFIX) | {"LogRecord", "Feedback"}
    assert set(TABLES) == set(KINDS.values())


# what came in


def test_logs_come_by_time_then_id_and_in_chunks(store: Store) -> None:
    given = [log(f"l{number:04d}", at=number // 7) for number in range(450)]
    assert store.add_logs(list(reversed(given))) == 450
    assert list(store.logs()) == given
    assert list(store.logs(since=60)) == [record for record in given if record.at >= 60]
    assert store.count(LogRecord) == 450


def test_known_logs_are_left_alone(store: Store) -> None:
    store.add_logs([log("a"), log("b")])
    assert store.add_logs([log("b", at=9.0), log("c"), log("c")]) == 1
    assert store.load(LogRecord, ["b"]) == [log("b")]
    assert store.add_logs([]) == 0


def test_feedback_replaces_what_has_its_id(store: Store) -> None:
    first = Feedback(id="f", target="a", at=1.0, value=1.0)
    assert store.put_feedback([first, Feedback(id="g", target="a", at=2.0)]) == 2
    assert store.put_feedback([first]) == 0
    revoked = replace(first, value=None, revoked=True)
    assert store.put_feedback([first, revoked]) == 1
    assert next(store.feedback()) == revoked
    assert store.count(Feedback) == 2


def test_a_reader_may_write_while_it_streams(store: Store) -> None:
    store.add_logs([log(f"l{number:03d}") for number in range(250)])
    seen = [store.put_feedback([Feedback(id=record.id, target=record.id, at=1.0)]) for record in store.logs()]
    assert sum(seen) == 250


def test_rejected_lines_are_kept_once(store: Store) -> None:
    reject = Reject(file="a.jsonl", line=3, reason="invalid_json", excerpt="{\x00\ud800", detail="no")
    store.add_rejects([reject, reject])
    store.add_rejects([reject, replace(reject, line=2)])
    assert store.rejects() == [replace(reject, line=2), reject]
    assert store.rejects(limit=1) == [replace(reject, line=2)]


def test_targets_that_exist_are_told(store: Store) -> None:
    store.add_logs([log("a", user="ann", session="s1"), log("b", user=None)])
    assert store.known("record", ["a", "b", "s1", "b"]) == {"a", "b"}
    assert store.known("session", ["s1", "ann"]) == {"s1"}
    assert store.known("user", [f"u{number}" for number in range(1200)] + ["ann"]) == {"ann"}


# derived records


def test_a_record_is_found_by_the_other_names_its_client_knows(store: Store) -> None:
    def log(name: str, at: float, response_id: str, *traces: str) -> LogRecord:
        return LogRecord(id=name, request={}, response={"id": response_id}, at=at, traces=traces)

    store.add_logs([log("l2", 2.0, "chatcmpl-2", "t\x00"), log("l1", 1.0, "chatcmpl-l1", "t\x00", "t\x00")])
    store.add_logs([log("l2", 2.0, "chatcmpl-2", "t\x00")])
    names = ["chatcmpl-2", "t\x00", "l1", "chatcmpl-l1", "t"]
    assert store.named(names) == {"chatcmpl-2": "l2", "t\x00": "l2"}  # the newest; its own id is no other name


def test_a_record_is_found_by_a_unique_start_of_its_id(store: Store) -> None:
    store.add_logs([log("chat-1"), log("chat-10"), log("dec-mine")])
    made = decision("i1")
    store.commit_units([unit("k", made)])
    assert store.get("chat-1") == log("chat-1")
    assert store.get("chat-10") == log("chat-10")
    assert store.get(made.id[:8]) == made
    assert store.get("nothing") is None
    assert store.get("") is None
    with pytest.raises(StoreError, match=r"chat-1, chat-10\n  give more of the id"):
        store.get("chat")


def test_prefixes_are_no_patterns(store: Store) -> None:
    store.add_logs([log("ab"), log("a%")])
    assert store.get("a%") == log("a%")
    assert store.get("_b") is None


def test_records_load_in_the_order_asked(store: Store) -> None:
    made = [decision(f"i{number}") for number in range(1100)]
    store.commit_units([unit("k", *made)])
    ids = [record.id for record in reversed(made)]
    assert store.load(Decision, ids) == list(reversed(made))
    assert store.load(Decision, ids[:1] * 2) == made[-1:] * 2
    assert store.load(Decision, []) == []
    with pytest.raises(StoreError, match="no Decision with the id 'dec-none'"):
        store.load(Decision, [ids[0], "dec-none"])


def test_the_newest_are_listed_first(store: Store) -> None:
    old, new = decision("i1"), decision("i2")
    store.commit_units([unit("k1", old, at=1.0)])
    store.commit_units([unit("k2", new, at=2.0, cycle_id="c2")])
    assert store.list(Decision) == [new, old]
    assert store.list(Decision, limit=1) == [new]
    assert store.list(Rule) == []


def test_a_cycle_lists_what_it_made_and_what_it_reused(store: Store) -> None:
    old, new, other = decision("i1"), decision("i2"), decision("i3")
    store.commit_units([unit("k1", old), unit("k3", other)])
    store.commit_units([unit("k2", new, at=2.0, cycle_id="c2")])
    store.use_units("c2", [("filter", "k1"), ("filter", "k2"), ("filter", "k1")])
    assert store.list(Decision, cycle_id="c2") == [new, old]
    assert store.list(Decision, cycle_id="c3") == []
    store.deploy(deployment("n", "r", 3.0), "c2")
    assert len(store.list(Deployment, cycle_id="c2")) == 1
    with pytest.raises(StoreError, match="a LogRecord belongs to no cycle"):
        store.list(LogRecord, cycle_id="c2")


def test_lineage_names_every_parent_once(store: Store) -> None:
    follow_ups = (FollowUp(text="no", answer=None, log_id="l2"), FollowUp(text="x", answer="y", log_id="l1"))
    made = interaction("l1", follow_ups)
    grown = cluster("cards", previous_id="clu-old")
    gap = identified(
        Gap(id="", cluster_id=grown.id, rule_ids=("r2", "r1"), novelty=None, method="m", route="primary", reason="r")
    )
    failed = identified(Failure(id="", record_id="l9", stage="filter", error="ValueError", reason="no"))
    store.commit_units([unit("k", made, grown, gap, failed)])
    assert store.parents(made.id) == ["l1", "l2", "f1", "f2"]
    assert store.parents(grown.id) == ["i1", "clu-old"]
    assert store.parents(gap.id) == [grown.id, "r2", "r1"]
    assert store.parents(failed.id) == ["l9"]
    assert store.children("l2") == [made.id]
    assert store.children(grown.id) == [gap.id]
    assert store.parents("nothing") == store.children("nothing") == []


def test_a_missing_parent_is_no_parent(store: Store) -> None:
    case = Evaluation(
        id="e", cluster_id="c", candidate="base", adapter_id=None, baseline="base", interaction_ids=(), cases=0, wins=0,
        ties=0, win_rate=None, lower=None, upper=None, guards={}, outcome="not_enough_data", reason="no cases",
    )  # fmt: skip
    store.commit_units([unit("k", case)])
    assert store.parents("e") == ["c"]


# units of work


def test_a_unit_is_done_once_it_is_committed(store: Store) -> None:
    first, second = decision("i2"), decision("i1")
    assert store.unit("filter", "k") is None
    store.commit_units([unit("k", first, second), unit("empty"), unit("k", stage="gap")])
    assert store.unit("filter", "k") == (("Decision", first.id), ("Decision", second.id))
    assert store.unit("filter", "empty") == ()
    assert store.unit("gap", "k") == ()
    assert store.unit("filter", "K") is None
    assert store.units("filter", ["empty", "none"]) == {"empty": ()}
    store.commit_units([])


def test_a_unit_finished_twice_keeps_its_first_outputs(store: Store) -> None:
    first, *others = (decision(f"i{number}") for number in range(3))
    store.commit_units([unit("k", first)])
    store.commit_units([unit("k", *others, cycle_id="c2")])
    assert store.unit("filter", "k") == (("Decision", first.id),)
    assert store.load(Decision, [record.id for record in others]) == others


def test_a_record_made_again_stays_as_it_was(store: Store) -> None:
    store.commit_units([unit("k1", interaction("l1", at=1.0))])
    store.commit_units([unit("k2", interaction("l1", at=2.0))])
    assert [record.at for record in store.list(Interaction)] == [1.0]


def test_a_unit_is_kept_whole_or_not_at_all(store: Store) -> None:
    good = decision("i1")
    bad = replace(decision("i2"), scores=threading)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot hold a module"):
        store.commit_units([unit("k1", good), unit("k2", bad)])
    assert store.unit("filter", "k1") is None
    assert store.count(Decision) == 0
    assert store.parents(good.id) == []


# cycles and deployments


def test_a_cycle_is_opened_and_closed(store: Store) -> None:
    assert store.running_cycle() is None
    row = CycleRow(id="c1", config_hash="h", started_at=1.0, ended_at=None, receipt={"stages": {}})
    store.open_cycle(row)
    assert store.running_cycle() == row
    store.close_cycle("c1", 2.0, {"stages": {"filter": 3}})
    assert store.running_cycle() is None
    store.open_cycle(replace(row, id="c2", started_at=5.0))
    assert [cycle.id for cycle in store.cycles()] == ["c2", "c1"]
    assert store.cycles(limit=2)[1] == replace(row, ended_at=2.0, receipt={"stages": {"filter": 3}})
    assert [cycle.id for cycle in store.cycles(limit=1)] == ["c2"]


def test_cycles_that_cannot_be_are_errors(store: Store) -> None:
    row = CycleRow(id="c1", config_hash="h", started_at=1.0, ended_at=None, receipt={})
    store.open_cycle(row)
    with pytest.raises(StoreError, match="'c1' is already in"):
        store.open_cycle(row)
    with pytest.raises(StoreError, match="no cycle 'c9'"):
        store.close_cycle("c9", 2.0, {})


def test_the_last_deployment_of_a_cluster_holds(store: Store) -> None:
    first, second = deployment("cards", "gate", 1.0), deployment("cards", "better", 2.0)
    other = deployment("loans", "gate", 1.5)
    for made in (first, first, other, second):
        store.deploy(made, "c1")
    assert store.deployments() == {"cards": second, "loans": other}
    store.deploy(first, "c2")  # rolled back: an older record holds again
    assert store.deployments() == {"cards": first, "loans": other}
    assert store.count(Deployment) == 3


def test_a_planned_deployment_is_not_live(store: Store) -> None:
    planned = deployment("cards", "gate", 1.0)
    store.commit_units([unit("k", planned)])
    assert store.deployments() == {}
    store.deploy(planned, "c1")
    assert store.deployments() == {"cards": planned}


# several writers, killed writers

WRITER = """
import sys
from logtune.edges.store import Store, UnitResult
from logtune.ids import identified
from logtune.records import Decision, LogRecord
url, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store(url)
for at in range(number):
    key = f"{name}-{at}"
    store.add_logs([LogRecord(id=id, request={}, response=None, at=float(at)) for id in (key, f"both-{at}")])
    made = tuple(
        identified(Decision(id="", interaction_id=f"{key}-{part}", teaches="rule", reason="r", scores={}))
        for part in range(3)
    )
    store.commit_units(
        [UnitResult(stage="filter", key=key, outputs=made, cycle_id="c", config_hash="h", at=float(at))]
    )
    print(key, *(record.id for record in made), flush=True)
"""


def writer(url: str, name: str, number: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, url, name, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=OUTSIDE)


@pytest.mark.parametrize("url", ON_DISK, indirect=True)
def test_two_processes_open_a_new_database_and_write_at_once(url: str) -> None:
    both = [writer(url, name, 30) for name in ("a", "b")]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert len(out.splitlines()) == 30
    store = Store(url)
    assert store.count(LogRecord) == 90
    assert len(store.units("filter", [f"{name}-{at}" for name in "ab" for at in range(30)])) == 60
    assert store.count(Decision) == 180
    store.close()


@pytest.mark.parametrize("url", ON_DISK, indirect=True)
def test_a_killed_writer_loses_nothing_it_committed(url: str) -> None:
    process = writer(url, "a", 10_000)
    assert process.stdout is not None
    told = [process.stdout.readline().split() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    told += [line.split() for line in rest.splitlines() if len(line.split()) == 4]
    store = Store(url)
    for key, *ids in told:
        assert store.unit("filter", key) == tuple(("Decision", name) for name in ids)
        assert [record.id for record in store.load(Decision, ids)] == ids
        assert [store.parents(name) for name in ids] == [[f"{key}-{part}"] for part in range(3)]
        assert store.get(key) is not None
    assert store.count(Decision) % 3 == 0  # the unit under way is there whole or not at all
    store.close()


def test_threads_share_a_store(store: Store) -> None:
    def work(name: str) -> None:
        for number in range(10):
            store.add_logs([log(f"{name}{number}")])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count(LogRecord) == 40


def test_the_file_is_kept_in_write_ahead_mode(file_url: str) -> None:
    store = Store(file_url)
    with sqlite3.connect(file_url.removeprefix("sqlite:///")) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()
    store.close()


# what cannot be opened


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("records.db", "no database URL: 'records.db'\n  use sqlite:///FILE"),
        ("nosuch://x", "no database URL"),
        ("mysql://host/db", "mysql"),
        ("sqlite:////dev/null/records.db", "unable to open database file\n  check that the folder exists"),
        ("sqlite:////no/such/folder/records.db", "unable to open database file\n  check that the folder exists"),
    ],
)
def test_a_store_that_cannot_be_opened_says_what_to_do(url: str, message: str) -> None:
    with pytest.raises((StoreError, MissingExtra)) as caught:
        Store(url)
    assert message in str(caught.value)


def test_the_postgres_driver_is_an_extra() -> None:
    if importlib.util.find_spec("psycopg") is not None:
        pytest.skip("psycopg is installed here")
    with pytest.raises(MissingExtra, match=r"'psycopg' is not installed\n  pip install 'logtune\[postgres\]'"):
        Store("postgresql+psycopg://localhost/x")


def test_a_password_is_not_told(postgres: Postgres) -> None:
    with pytest.raises(StoreError) as caught:
        Store("postgresql+psycopg://ann:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)
    assert "check that the server" in str(caught.value)


def test_a_file_that_is_no_database_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes " * 100)
    with pytest.raises(StoreError, match=r"file is not a database\n  set store.url to another file"):
        Store(f"sqlite:///{path}")
    assert path.read_text() == "these are my notes " * 100


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE migrations (id INTEGER, migration TEXT)")
    db.close()
    with pytest.raises(StoreError, match="database of another program: it holds migrations"):
        Store(f"sqlite:///{path}")


def test_a_damaged_row_is_an_error_with_a_next_step(file_url: str) -> None:
    store = Store(file_url)
    store.add_logs([log("a")])
    with sqlite3.connect(file_url.removeprefix("sqlite:///")) as db:
        db.execute("""UPDATE logs SET body = '{"id": "a"}'""")
    db.close()
    with pytest.raises(StoreError, match=r"LogRecord 'a' in the store cannot be read: .*\n  it was written by another"):
        store.get("a")
    store.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user who may not write")
def test_a_folder_that_may_not_be_written_says_what_to_do(tmp_path: Path) -> None:
    Store(f"sqlite:///{tmp_path / 'records.db'}").close()
    commands = [
        [sys.executable, "-c", READER, f"sqlite:///{tmp_path / name}", str(tmp_path)]
        for name in ("records.db", "new.db")
    ]
    found = [subprocess.run(command, text=True, capture_output=True, env=OUTSIDE) for command in commands]
    assert all("write" in done.stdout for done in found), found


READER = """
import os, sys
from logtune.edges.store import Store
from logtune.errors import StoreError
from logtune.records import LogRecord
folder = sys.argv[2]
while folder != "/":
    os.chmod(folder, 0o755)
    folder = os.path.dirname(folder) if "pytest" in folder else "/"
os.setuid(65534)
try:
    Store(sys.argv[1]).add_logs([LogRecord(id="a", request={}, response=None, at=1.0)])
except StoreError as error:
    print(error)
"""
