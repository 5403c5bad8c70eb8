"""Training in a child process: its result, its words, its death; nothing outlives the parent."""

import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from logtune.edges.executor import LocalExecutor, RayExecutor, SystemClock, memory_to_spare
from logtune.errors import MissingExtra, TrainingError
from logtune.ports import TrainingJob, TrainingPair
from logtune.records import Json, Message
from logtune.testing import FakeExecutor

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS))


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    pair = TrainingPair(id="pair-1", prompt=(Message(role="user", content="hi"),), chosen="yes", rejected="no")
    return TrainingJob(
        cluster_id="clu-1", kind="expert", base_path="nowhere", base_fingerprint="hf@1", pairs=(pair,),
        out_dir=str(tmp_path), rank=2, settings={"epochs": 2},
    )  # fmt: skip


def train(name: str, job: TrainingJob) -> tuple[object, list[str]]:
    said: list[str] = []
    return LocalExecutor(f"training_children:{name}", niceness=3).train(job, said.append), said


def test_the_child_gives_adapters_and_tells_its_progress(job: TrainingJob) -> None:
    adapters, said = train("good", job)
    assert adapters == FakeExecutor().train(job, lambda _: None)
    assert said == ["train: epoch 1: loss 1.000", "train: epoch 2: loss 0.500"]


def test_the_child_is_niced_and_keeps_its_memory(job: TrainingJob) -> None:
    before = os.nice(0)
    _, said = train("niced", job)
    assert said == [f"train: {min(before + 3, 19)} {2**28}"]
    assert os.nice(0) == before
    assert "MALLOC_TOP_PAD_" not in os.environ


def test_the_trainers_own_words_come_back(job: TrainingJob) -> None:
    with pytest.raises(TrainingError, match=r"clu-1: the loss did not fall: 1\.0 to 1\.1\n  look at the pairs"):
        train("refuses", job)


def test_a_crash_tells_the_last_lines_of_its_stderr(job: TrainingJob, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingError, match=r"ended with code 1 and gave no result(\n    .*)*allocate 9 GB") as caught:
        train("crashes", job)
    assert len(caught.value.what.splitlines()) <= 13
    assert capfd.readouterr() == ("", "")


def test_a_killed_child_is_an_error_with_its_last_words(job: TrainingJob) -> None:
    with pytest.raises(TrainingError, match=r"was ended by SIGKILL and gave no result\n    about to die\n  .*memory"):
        train("is_killed", job)


def test_an_unknown_trainer_is_an_error(job: TrainingJob) -> None:
    with pytest.raises(TrainingError, match="no attribute 'absent'"):
        train("absent", job)


def test_an_interrupt_ends_the_child(job: TrainingJob, tmp_path: Path) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalExecutor("training_children:runs_for_ever").train(job, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_script_without_main_guard_trains_and_a_killed_parent_takes_its_child_along(
    job: TrainingJob, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(TESTS)!r})
        from logtune.edges.executor import LocalExecutor
        from logtune.ports import TrainingJob
        job = TrainingJob(cluster_id="c", kind="expert", base_path="", base_fingerprint="", pairs=(),
                          out_dir={str(tmp_path)!r}, rank=1, settings={{}})
        LocalExecutor("training_children:runs_for_ever").train(job, lambda line: print(line, flush=True))
    """)
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"train: started\n"
        parent.send_signal(signal.SIGKILL)
    child = int((tmp_path / "pid").read_text())
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        descriptor = os.pidfd_open(child)
        ready, _, _ = select.select([descriptor], [], [], 60)
        os.close(descriptor)
        assert ready, "the child outlived its parent"


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_one_child_does_job_after_job_until_it_dies(job: TrainingJob) -> None:
    executor = LocalExecutor("training_children:by_id")
    pids: list[int] = []

    def run(name: str) -> None:
        executor.train(replace(job, cluster_id=name), lambda line: pids.append(int(line.removeprefix("train: "))))

    run("first")
    run("second")
    with pytest.raises(TrainingError, match="fails: the loss did not fall"):
        run("fails")
    run("third")
    with pytest.raises(TrainingError, match=r"was ended by SIGKILL and gave no result\n    words of dies\n  SIGKILL"):
        run("dies")
    run("fourth")
    first, second, fails, third, dies, fourth = pids
    assert first == second == fails == third == dies  # what it has loaded is as good as before
    assert fourth != first
    assert ended(first)
    assert not ended(fourth)
    executor.close()
    assert ended(fourth)
    run("fifth")
    assert pids[-1] != fourth
    executor.close()
    executor.close()


def told(job: TrainingJob, tmp_path: Path, **settings: Json) -> list[dict[str, str | None]]:
    """What each process of a training finds in its environment."""
    executor = LocalExecutor("training_children:surroundings")
    executor.train(replace(job, settings=settings), lambda line: None)
    executor.close()
    return [json.loads(file.read_text()) for file in sorted(tmp_path.glob("process-*"))]


@pytest.mark.parametrize(("seen", "given"), [(None, "0"), ("2,3", "2"), ("", "")])
def test_one_process_trains_on_one_gpu(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str | None, given: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    (found,) = told(job, tmp_path)
    assert (found["CUDA_VISIBLE_DEVICES"], found["WORLD_SIZE"]) == (given, None)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


def test_several_processes_know_of_each_other_and_see_all_gpus(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    first, second = told(job, tmp_path, processes=2)
    assert [(each["RANK"], each["LOCAL_RANK"], each["WORLD_SIZE"]) for each in (first, second)] == [
        ("0", "0", "2"), ("1", "1", "2")
    ]  # fmt: skip
    assert first["CUDA_VISIBLE_DEVICES"] == second["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert first["MASTER_PORT"] == second["MASTER_PORT"] is not None
    assert "RANK" not in os.environ


def test_where_one_of_several_dies_none_is_left(job: TrainingJob) -> None:
    with pytest.raises(TrainingError, match="was ended by SIGKILL"):
        LocalExecutor("training_children:second_dies").train(replace(job, settings={"processes": 2}), lambda line: None)
    assert ended(int(Path(job.out_dir, "pid").read_text()))


def test_where_one_of_several_fails_the_others_are_not_waited_for(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logtune.edges.executor.OTHERS_S", 0.1)
    with pytest.raises(TrainingError, match="clu-1: the second failed"):
        LocalExecutor("training_children:second_fails").train(
            replace(job, settings={"processes": 2}), lambda line: None
        )
    assert ended(int(Path(job.out_dir, "pid").read_text()))


def test_a_child_killed_while_idle_is_replaced(job: TrainingJob) -> None:
    executor, pids = LocalExecutor("training_children:by_id"), list[str]()
    executor.train(job, pids.append)
    pid = int(pids[0].removeprefix("train: "))
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([descriptor], [], [], 60)[0]
    os.close(descriptor)
    executor.train(job, pids.append)
    assert pids[1] != pids[0]
    executor.close()


@pytest.mark.parametrize("how", ["idle", "forgotten"])
def test_an_idle_child_ends_by_itself(job: TrainingJob, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logtune.edges.executor.memory_to_spare", lambda pids: False)
    executor, pids = LocalExecutor("training_children:by_id", idle_s=0.0 if how == "idle" else 1e6), list[str]()
    executor.train(job, pids.append)
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(int(pids[0].removeprefix("train: ")))
        if how == "forgotten":
            del executor
            gc.collect()
        ready, _, _ = select.select([descriptor], [], [], 60)
        os.close(descriptor)
        assert ready, "it still runs"


def test_an_idle_child_waits_while_nobody_needs_its_memory(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, spare = threading.Semaphore(0), [True, True, True, False]

    def free(pids: object) -> bool:
        asked.release()
        return spare.pop(0)

    monkeypatch.setattr("logtune.edges.executor.memory_to_spare", free)
    executor, pids = LocalExecutor("training_children:by_id", idle_s=0.01), list[str]()
    executor.train(job, pids.append)
    descriptor = os.pidfd_open(int(pids[0].removeprefix("train: ")))
    for _ in range(4):
        assert asked.acquire(timeout=60)
    assert select.select([descriptor], [], [], 60)[0], "it still runs"
    os.close(descriptor)


def test_what_a_small_process_holds_can_be_spared() -> None:
    assert memory_to_spare([os.getpid()])
    assert not memory_to_spare([None])


def test_the_clock_tells_seconds() -> None:
    assert SystemClock().now() > 1_700_000_000


def test_ray_is_an_extra() -> None:
    with contextlib.suppress(ImportError):
        import ray  # noqa: F401

        pytest.skip("ray is installed")
    with pytest.raises(MissingExtra, match=r"'ray' is not installed\n.*logtune\[ray\]"):
        RayExecutor("training_children:good")


@pytest.mark.slow  # starts a local Ray
def test_ray_trains_tells_and_fails_as_a_child_does(job: TrainingJob) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    ray.init(num_cpus=1, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}})
    try:
        said: list[str] = []
        adapters = RayExecutor("training_children:good").train(job, said.append)
        assert adapters == FakeExecutor().train(job, lambda _: None)
        assert said == ["train: epoch 1: loss 1.000", "train: epoch 2: loss 0.500"]
        with pytest.raises(TrainingError, match="the loss did not fall"):
            RayExecutor("training_children:refuses").train(job, said.append)
        with pytest.raises(TrainingError, match="the Ray task of clu-1 failed"):
            RayExecutor("training_children:is_killed").train(job, said.append)
    finally:
        ray.shutdown()
