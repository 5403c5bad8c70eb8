"""What runs beside serving: started again when it dies, ended with its parent; cycles and live tests alike."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from logtune.app.console import Console
from logtune.app.leading import task as leading
from logtune.app.sidecar import Sidecar, Task, running
from logtune.app.unattended import WHILE_OPEN, beside
from logtune.config import build

WAIT_S = 60.0
CHILD = """
import os, pathlib, sys
with pathlib.Path(sys.argv[1]).open("a") as file:
    file.write(f"{os.getpid()} {os.nice(0)} {os.environ.get('SAID', '')}\\n")
sys.stdin.read()
"""


def task(folder: Path, what: str = CHILD, niceness: int = 3) -> Task:
    command = [sys.executable, "-S", "-c", what, str(folder / "children")]
    return Task(what="a child", command=command, environment={"SAID": "hello"}, niceness=niceness, end_s=20.0)


def children(folder: Path) -> list[str]:
    path = folder / "children"
    return path.read_text().splitlines() if path.exists() else []


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_is_killed_is_started_again_and_ends_with_its_parent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sidecar = Sidecar(task(tmp_path), first_pause_s=0.05)
    sidecar.start()
    for number in (1, 2):
        until(lambda number=number: len(children(tmp_path)) == number)
        os.kill(int(children(tmp_path)[-1].split()[0]), signal.SIGKILL)
    until(lambda: len(children(tmp_path)) == 3)
    sidecar.close()
    pids = [int(line.split()[0]) for line in children(tmp_path)]
    assert len(set(pids)) == 3
    assert not any(map(alive, pids))
    lower = str(min(19, os.nice(0) + 3))
    assert [line.split()[1:] for line in children(tmp_path)] == [[lower, "hello"]] * 3
    said = [record.message for record in caplog.records]
    assert said == [f"a child ended with code -9 and is started again in {pause} s" for pause in ("0.05", "0.1")]


def test_one_that_does_not_start_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sidecar = Sidecar(Task(what="nothing", command=[str(tmp_path / "nowhere")]), first_pause_s=0.01)
    sidecar.start()
    until(lambda: len(caplog.records) >= 2)
    sidecar.close()
    assert "nothing does not start: " in caplog.records[0].message


def test_one_that_does_not_end_in_order_is_killed(tmp_path: Path) -> None:
    stubborn = CHILD.replace("sys.stdin.read()", "import time; time.sleep(600)")
    made = task(tmp_path, stubborn)
    sidecar = Sidecar(Task(what="a child", command=made.command, end_s=0.1))
    sidecar.start()
    until(lambda: len(children(tmp_path)) == 1)
    sidecar.close()
    assert not alive(int(children(tmp_path)[0].split()[0]))


def test_it_runs_beside_what_is_done_meanwhile(tmp_path: Path) -> None:
    with running(task(tmp_path)):
        until(lambda: len(children(tmp_path)) == 1)
    assert not alive(int(children(tmp_path)[0].split()[0]))
    with running(None):
        pass


def test_cycles_and_live_tests_run_in_it() -> None:
    say = Console(as_json=False, config_file=Path("a.toml"), settings=("train.epochs=5",))
    assert beside(say, build({})) is None
    cycles = beside(say, build({"schedule": {"every": "7d"}}))
    assert cycles is not None
    assert list(cycles.command[3:]) == ["cycle", "--config", "a.toml", "--set", "train.epochs=5", "--every", "7d"]
    assert cycles.environment == {WHILE_OPEN: "1"}
    tests = leading(say.arguments(), 60.0)
    assert list(tests.command[3:6]) == ["experiments", "look", "--json"]
    assert list(tests.command[-4:]) == ["--config", "a.toml", "--set", "train.epochs=5"]
