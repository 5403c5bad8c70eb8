"""`logtune experiments`, `pause`, `resume` and `simulate` as a user types them."""

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from live_kit import LATE, begin, settings, visit

from logtune.app import cli, leading
from logtune.app.sidecar import Sidecar
from logtune.edges.experiments import Experiments
from logtune.edges.store import Store
from logtune.records import Json


def run(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.main([*arguments, *options(folder)])
    return code, capsys.readouterr().out


def options(folder: Path) -> Sequence[str]:
    home, url = f"store.home={folder}", f"store.url=sqlite:///{folder / 'logtune.db'}"
    return "--set", home, "--set", url, "--set", "experiment.mode=ab"


@pytest.fixture
def began(tmp_path: Path) -> Path:
    """A store with a test that is an hour old, and its users."""
    config, now = settings(tmp_path, ramp=[0.5], ramp_users=[]), time.time()
    store = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    test = begin(store, config, now - 4 * 3600)
    visit(store, test, range(200), now - 3.9 * 3600, lambda ours: 0.9 if ours else 0.4)
    store.close()
    return tmp_path


def test_a_test_is_listed_shown_and_drawn(began: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(began, capsys, "experiments")
    assert code == 0
    assert "late" in out
    assert "the gate was passed" in out
    picture = began / "late.png"
    code, out = run(began, capsys, "experiments", "show", "late", "--png", str(picture))
    assert code == 0
    for part in (
        "thumbs, at 95% confidence",
        "200 drawn",
        "0 who saw two arms",
        "as it should be",
        "errors: 0.0%",
        "==",
    ):
        assert part in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(run(began, capsys, "experiments", "show", "late", "--json")[1])
    assert document["state"]["mixed"] == 0
    assert document["sequence"][-1]["users"] == 200
    assert document["sequence"][-1]["low"] > 0


def test_a_look_promotes_what_is_better(began: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(began, capsys, "experiments", "look")
    assert code == 0
    assert "promote, the candidate is better, surely" in out
    assert "Nothing is due." in run(began, capsys, "experiments", "look")[1]
    code, out = run(began, capsys, "verdicts")
    assert "promote" in out


def test_decisions_by_hand_need_a_reason_and_end_a_test_once(began: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["experiments", "stop", "late", *options(began)]) == 2
    code, out = run(began, capsys, "experiments", "stop", "late", "--reason", "new texts")
    assert code == 0
    assert ": stop, by " in out
    assert cli.main(["experiments", "rollback", "late", "--reason", "again", *options(began)]) == 1
    assert "is over: stop" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["experiments stop late", "experiments promote late", "pause"])
def test_a_blank_is_no_reason(command: str, began: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--reason", " \t", *options(began)]) == 2
    assert "say why" in capsys.readouterr().err
    assert run(began, capsys, *command.split(), "--reason", " the fair ")[0] == 0
    assert "the fair " not in run(began, capsys, "experiments", "--json")[1]


def test_pause_and_resume(began: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(began, capsys, "pause", "--reason", "holidays")
    assert code == 0
    assert "everything (holidays)" in out
    assert "Nothing is due." in run(began, capsys, "experiments", "look")[1]
    assert "Paused by" in run(began, capsys, "experiments")[1]
    assert run(began, capsys, "resume")[0] == 0
    assert cli.main(["resume", *options(began)]) == 1
    assert "everything is not paused" in capsys.readouterr().err


def test_without_tests_the_next_step_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "logtune simulate tells" in run(tmp_path, capsys, "experiments")[1]


def test_a_simulation_is_told_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--runs", "40", "--set", "experiment.max_users=1500", "--world", "traffic=100", "--world", "every=10")
    code, out = run(tmp_path, capsys, "simulate", "--effect", "0", "--effect", "-20", *quick)
    assert code == 0
    head, none, worse, *_ = out.splitlines()
    assert head.split()[:3] == ["effect", "promoted", "rolled"]
    assert none.startswith("+0 points")
    assert worse.startswith("-20 points")
    assert "decide by mistake" in out
    document = json.loads(run(tmp_path, capsys, "simulate", "--effect", "-20", *quick, "--json")[1])
    (played,) = document["tests"]
    assert played["played"]["rolled_back"] > 0.8
    assert played["fixed_horizon_users"] < 400


@pytest.mark.parametrize("world", ["mean=2", "mean=x", "kind=odd", "colour=red", "every=0"])
def test_an_impossible_world_is_an_error(world: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", "--world", world, *options(tmp_path)]) == 1
    assert f"--world {world} is not allowed" in capsys.readouterr().err


def test_users_of_the_logs_are_drawn_and_too_few_are_told(began: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--from-logs", "--runs", "20", "--set", "experiment.max_users=400", "--effect", "-30")
    document = json.loads(run(began, capsys, "simulate", *quick, "--set", "experiment.metric=thumbs", "--json")[1])
    world: dict[str, Json] = document["tests"][0]["played"]["world"]
    assert len(world["logged"]) == 200  # type: ignore[arg-type]
    assert cli.main(["simulate", *quick, "--set", "experiment.metric=edit", *options(began)]) == 1
    assert "of 0 users of 30 needed" in capsys.readouterr().err


@pytest.mark.slow
def test_the_child_that_leads_tests_promotes_is_started_again_and_ends(began: Path) -> None:
    leader = Sidecar(leading.task(options(began), 1.0))
    leader.start()
    store = Store(f"sqlite:///{began / 'logtune.db'}")
    try:
        _wait(lambda: leader._child is not None)
        first = leader._child
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        _wait(lambda: leader._child is not first)
        _wait(lambda: Experiments(store).of_cluster("late")[0][1][-1].action == "promote")
    finally:
        store.close()
        leader.close()
    assert leader._child is not None
    assert leader._child.poll() is not None


def _wait(holds) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, LATE
        time.sleep(0.1)
