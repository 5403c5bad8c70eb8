"""Cycles that begin by themselves: real processes, a real store, and gates that are looked at again and again."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from logtune.app.console import Console
from logtune.app.scheduler import Child, Ended, Scheduler
from logtune.app.unattended import WHILE_OPEN, follow
from logtune.config import Config, build
from logtune.edges.experiments import Control, Experiments
from logtune.edges.lease import CYCLE, Lease
from logtune.edges.runs import Runs, failures
from logtune.edges.store import CycleRow, Store
from logtune.errors import INTERRUPTED
from logtune.testing import sample_logs

HOUR = 3600.0
WAIT_S = 60


class Time:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    logs, feedback = sample_logs(users=20, per_user=1)
    found.add_logs(logs)
    found.put_feedback(feedback)
    return found


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return build({
        "schedule": {"every": "7d", "min_disk_gb": 0, "min_memory_gb": 0}, "store": {"home": str(tmp_path / "home")}
    })  # fmt: skip


def ends(code: int, words: str = "done") -> Callable[[threading.Event], Ended]:
    return lambda stop: Ended(exit_code=code, detail=words)


def test_a_cycle_begins_when_it_may_and_its_end_is_remembered(store: Store, config: Config) -> None:
    time, said = Time(), list[str]()
    scheduler = Scheduler(store, config, ends(0), said.append, time)
    run = scheduler.step(threading.Event())
    assert run is not None
    ended = Runs(store).recent()
    assert [(row.id, row.exit_code, row.detail) for row in ended] == [(run.id, 0, "done")]
    assert scheduler.step(threading.Event()) is None
    assert scheduler.look().reason == "not_due"
    time.now += 7 * 24 * HOUR
    assert scheduler.look().reason == "not_enough_new"  # nothing has come since
    logs, _ = sample_logs(users=60, per_user=1)
    store.add_logs(logs)
    assert scheduler.look().ready


def test_the_same_decision_is_told_once(store: Store, config: Config) -> None:
    said: list[str] = []
    scheduler = Scheduler(store, config, ends(0), said.append, Time())
    for _ in range(4):
        scheduler.step(threading.Event())
    assert [line.partition(":")[0] for line in said] == ["ready", "the cycle ended with exit code 0", "not_due"]


def test_failures_wait_longer_each_time_and_success_ends_that(store: Store, config: Config) -> None:
    time = Time()
    code = [1]
    scheduler = Scheduler(store, config, lambda stop: Ended(exit_code=code[0], detail="x"), lambda line: None, time)
    for hours in (1.0, 2.0, 4.0):
        assert scheduler.step(threading.Event()) is not None
        time.now += hours * HOUR - 1
        assert scheduler.look().reason == "backing_off"
        time.now += 2
        assert scheduler.look().ready
    code[0] = 3  # no candidate passed its gate, which is no failure
    assert scheduler.step(threading.Event()) is not None
    assert failures(Runs(store).recent()) == 0
    assert scheduler.look().reason == "not_due"


class Died(BaseException):
    """The end of a scheduler together with what it runs."""


def dies(stop: threading.Event) -> Ended:
    raise Died


def test_a_run_whose_scheduler_died_is_continued_at_once_the_first_time(store: Store, config: Config) -> None:
    time = Time()
    scheduler = Scheduler(store, config, dies, lambda line: None, time)
    for hours in (0.0, 1.0, 2.0, 4.0):
        with pytest.raises(Died):
            scheduler.step(threading.Event())
        if hours:
            time.now += hours * HOUR - 1
            assert scheduler.look().reason == "backing_off"
        time.now += 2
        assert scheduler.look().ready
    with Lease(store, CYCLE).held():
        assert scheduler.facts().failures == 2  # the newest of the four is under way
    again = Scheduler(store, config, ends(0), lambda line: None, time)
    again.step(threading.Event())
    assert again.facts().failures == 0


def test_the_wait_after_a_failure_counts_from_its_end(store: Store, config: Config) -> None:
    time = Time()

    def takes_a_day(stop: threading.Event) -> Ended:
        store.open_cycle(CycleRow(id="cyc-1", config_hash="", started_at=time.now, ended_at=None, receipt={}))
        time.now += 24 * HOUR
        return Ended(exit_code=INTERRUPTED, detail="stopped, it was too long")

    scheduler = Scheduler(store, config, takes_a_day, lambda line: None, time)
    assert scheduler.step(threading.Event()) is not None
    time.now += HOUR - 1
    assert scheduler.look().reason == "backing_off"
    time.now += 2
    assert scheduler.look().ready


def test_what_was_stopped_with_its_scheduler_goes_on_at_once(store: Store, config: Config) -> None:
    time = Time()
    scheduler = Scheduler(store, config, ends(0), lambda line: None, time)
    Runs(store).end(Runs(store).begin(time.now, 40), time.now + 1, None, "stopped with the scheduler")
    time.now += 2
    assert scheduler.look().ready


def test_a_run_that_cannot_be_started_has_failed_with_its_reason(store: Store, config: Config) -> None:
    said: list[str] = []
    nowhere = Child(command=["/no/such/python"], niceness=7, threads=1, timeout_s=WAIT_S, tell=said.append)
    scheduler = Scheduler(store, config, nowhere, said.append)
    assert scheduler.step(threading.Event()) is not None
    (run,) = Runs(store).recent()
    assert run.exit_code == 1
    assert "could not be started: [Errno 2] No such file or directory" in run.detail
    assert scheduler.look().reason == "backing_off"


def test_a_look_that_the_system_refuses_is_made_again(store: Store, config: Config, tmp_path: Path) -> None:
    settings = settings_file(tmp_path)
    (tmp_path / "home").write_text("a file where the folder should be")
    stop, said = threading.Event(), list[str]()

    class Told(Console):
        def progress(self, line: str) -> None:
            said.append(line)
            stop.set()

    say = Told(as_json=False, config_file=settings, settings=(f"store.home={tmp_path / 'home'}",))
    follow(say, say.config(), (None, None), stop)
    assert "cannot be looked at now" in said[0]


@pytest.mark.parametrize("every", ["", "7d", "0 3 * * 1"])
def test_a_timer_that_asks_now_and_then_begins_the_first_cycle_and_then_waits(
    store: Store, config: Config, every: str
) -> None:
    time = Time()
    due = config.model_copy(update={"schedule": config.schedule.model_copy(update={"every": every, "min_new": 0})})

    def asked() -> bool:
        scheduler = Scheduler(store, due, ends(0), lambda line: None, time, timer=True)
        return scheduler.step(threading.Event()) is not None

    assert asked()
    begun = 0
    for _ in range(14 * 24):
        time.now += HOUR
        begun += asked()
    assert begun == (2 if every else 14 * 24)


YEARS = 3 * 365 * 24 * HOUR


def test_times_of_a_clock_that_was_years_ahead_say_nothing(store: Store, config: Config) -> None:
    time = Time()
    scheduler = Scheduler(store, config, ends(1), lambda line: None, time)
    time.now += YEARS
    scheduler.step(threading.Event())  # it fails
    store.open_cycle(CycleRow(id="cyc-1", config_hash="", started_at=time.now, ended_at=None, receipt={}))
    store.close_cycle("cyc-1", time.now, {})
    time.now -= YEARS
    assert scheduler.look().ready
    assert scheduler.facts().failures == 0
    good = Scheduler(store, config, ends(0), lambda line: None, time)
    assert good.step(threading.Event()) is not None
    assert good.look().next_at == time.now + 7 * 24 * HOUR


@pytest.mark.parametrize("every", ["7d", "0 3 * * *"])
def test_a_schedule_begun_with_a_clock_years_ahead_does_not_wait_for_it(
    store: Store, config: Config, every: str
) -> None:
    time = Time()
    time.now += YEARS
    settings = config.schedule.model_copy(update={"every": every})
    scheduler = Scheduler(
        store, config.model_copy(update={"schedule": settings}), ends(0), lambda line: None, time
    )  # fmt: skip
    time.now -= YEARS
    scheduler.look()
    time.now += 24 * HOUR
    assert scheduler.look().ready


def test_another_machines_clock_may_be_a_little_ahead(store: Store, config: Config) -> None:
    time = Time()
    scheduler = Scheduler(store, config, ends(0), lambda line: None, time)
    Runs(store).begin(time.now + 20, 40)
    Runs(store).begin(time.now + 30, 40)
    assert scheduler.look().reason == "backing_off"
    assert scheduler.facts().last_began == time.now


def test_an_unended_run_between_failures_neither_counts_nor_ends_their_row(store: Store, config: Config) -> None:
    for code in (1, None, 1):
        run = Runs(store).begin(len(Runs(store).recent()), 40)
        if code is not None:
            Runs(store).end(run, run.began_at, code, "x")
    assert failures(Runs(store).recent()) == 2


def test_a_cycle_by_hand_holds_the_schedule_back(store: Store, config: Config) -> None:
    scheduler = Scheduler(store, config, ends(0), lambda line: None)
    with Lease(store, CYCLE).held():
        look = scheduler.look()
        assert look.reason == "running"
        assert "process" in look.detail
    assert scheduler.look().ready


def test_what_was_paused_by_hand_begins_nothing(store: Store, config: Config) -> None:
    scheduler = Scheduler(store, config, ends(0), lambda line: None)
    Experiments(store).pause(Control(name="one-cluster", at=1.0, by="ann", reason="its texts change"))
    assert scheduler.look().ready
    Experiments(store).pause(Control(name="", at=1.0, by="ann", reason="holiday"))
    assert (scheduler.look().reason, scheduler.look().detail) == ("paused", "ann paused everything: holiday")
    Experiments(store).resume("")
    assert scheduler.look().ready


# the child


def child(code: str, timeout_s: float = WAIT_S, told: Callable[[str], None] = lambda line: None) -> Child:
    return Child(command=[sys.executable, "-c", code], niceness=7, threads=1, timeout_s=timeout_s, tell=told)


def test_a_child_is_nice_has_its_threads_and_its_last_words_are_kept() -> None:
    said: list[str] = []
    code = (
        "import os, sys, time\n"
        "while os.getpriority(os.PRIO_PROCESS, 0) != 7: time.sleep(0.01)\n"
        "print('threads', os.environ['OMP_NUM_THREADS'], file=sys.stderr)\n"
        "print('what came of it')\n"
        "sys.exit(3)"
    )
    ended = child(code, told=said.append)(threading.Event())
    assert ended == Ended(exit_code=3, detail="what came of it")
    assert said == ["threads 1"]


def test_a_child_is_told_to_end() -> None:
    stop = threading.Event()
    said: list[str] = []

    def told(line: str) -> None:
        said.append(line)
        stop.set()

    code = "import sys, time\nprint('at work', file=sys.stderr, flush=True)\ntime.sleep(1000)"
    ended = child(code, told=told)(stop)
    assert ended.exit_code is None
    assert "stopped with the scheduler" in ended.detail
    assert said[0] == "at work"


def test_a_child_that_takes_too_long_is_stopped_and_says_so() -> None:
    ended = child("import time\ntime.sleep(1000)", timeout_s=0.2)(threading.Event())
    assert ended.exit_code not in (0, 3)
    assert "too long" in ended.detail


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process is Linux's")
def test_a_child_that_wants_more_memory_than_it_may_have_fails_alone() -> None:
    code = "import time\ntime.sleep(0.5)\nwant = bytearray(2**30)\nprint('had it')"
    limited = replace(child(code), memory_bytes=2**28)
    ended = limited(threading.Event())
    assert (ended.exit_code, ended.detail) == (1, "MemoryError")
    assert child(code)(threading.Event()) == Ended(exit_code=0, detail="had it")


# the command


def settings_file(folder: Path) -> Path:
    path = folder / "logtune.toml"
    path.write_text(
        f'[store]\nhome = "{folder}"\nurl = "sqlite:///{folder}/logtune.db"\n'
        '[schedule]\nevery = "1s"\nmin_new = 0\ncooldown_h = 0\nmin_disk_gb = 0\nmin_memory_gb = 0\n'
    )
    return path


@pytest.mark.slow  # starts real processes, of which one loads what a cycle needs
def test_the_command_begins_cycles_and_ends_with_its_input(tmp_path: Path) -> None:
    path = settings_file(tmp_path)
    command = [sys.executable, "-m", "logtune.app.cli", "cycle", "--config", str(path), "--every", "1s"]
    lines: list[str] = []
    beside = {**os.environ, WHILE_OPEN: "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=beside) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "exit code 0" in line:
                break
        process.stdin.close()
        assert process.wait(WAIT_S) == 0, lines
    shown = subprocess.run(
        [sys.executable, "-m", "logtune.app.cli", "schedule", "--config", str(path), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(shown.stdout)
    assert found["runs"][-1]["exit_code"] == 0
    assert "Nothing to learn from" in "".join(lines)


@pytest.mark.slow  # starts real processes
def test_the_command_ends_with_a_signal_and_needs_a_time(tmp_path: Path) -> None:
    path = settings_file(tmp_path)
    command = [sys.executable, "-m", "logtune.app.cli", "cycle", "--config", str(path)]
    refused = subprocess.run([*command, "--every", ""], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "say when" in refused.stderr
    with subprocess.Popen([*command, "--every", "7d"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "schedule" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
