"""`logtune cycle --every`, and the process beside `logtune serve`: the schedules of all projects, until told to end.

settings -> a Scheduler a project -> one look after the other, one cycle at a time
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from logtune.app import build
from logtune.app.console import Console, one_line
from logtune.app.due import GB
from logtune.app.projects import for_project, known
from logtune.app.scheduler import Child, Scheduler
from logtune.app.sidecar import Task
from logtune.config import Config
from logtune.edges.project_scope import DEFAULT
from logtune.errors import OK, ConfigError, LogtuneError

Limits: TypeAlias = tuple[int | None, float | None]  # --max-calls, --max-cost

WHILE_OPEN = "_LOGTUNE_WHILE_OPEN"  # in the environment: end when standard input does
LOOK_S = 30.0  # between two looks
END_S = 40.0  # for the process beside serve, which may have a child to end


def go_on(say: Console, every: str, limits: Limits) -> int:
    """Look at the schedules until a signal, or beside a gateway until that ends."""
    config = say.config(schedule__every=every)
    if not config.schedule.every:
        raise ConfigError("schedule.every is empty", "say when, such as logtune cycle --every 7d")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if WHILE_OPEN in os.environ:
        threading.Thread(target=_until_closed, args=(stop,), daemon=True).start()
    follow(say, config, limits, stop)
    return OK


def follow(say: Console, config: Config, limits: Limits, stop: threading.Event) -> None:
    """Look at the schedules until `stop` is set; what cannot be looked at now is looked at again."""
    schedulers: dict[str, Scheduler] = {}
    names: Sequence[str] = ()
    while not stop.is_set():
        with _told(say, "all projects"):
            names = _projects(say, config)
        for name in names:
            with _told(say, name):
                if name not in schedulers:
                    schedulers[name] = _scheduler(say, config, name, limits)
                schedulers[name].step(stop)
            if stop.is_set():
                break
        stop.wait(LOOK_S)


def beside(say: Console, config: Config) -> Task | None:
    """The schedules, for a process of their own beside serving; None where schedule.every is empty."""
    every = config.schedule.every
    if not every:
        return None
    line = [*command(say), "--every", every]
    return Task(what="what begins cycles", command=line, environment={WHILE_OPEN: "1"}, end_s=END_S, niceness=0)


def command(say: Console, project: str | None = None) -> list[str]:
    """`logtune cycle` with this command's settings."""
    found = [sys.executable, "-m", "logtune.app.cli", "cycle"]
    found += ["--config", str(say.config_file)] if say.config_file else []
    for setting in say.settings:
        found += ["--set", setting]
    return found + (["--project", project] if project else [])


def _scheduler(say: Console, config: Config, name: str, limits: Limits) -> Scheduler:
    own = for_project(config, name)
    label = "schedule" if name == DEFAULT else f"schedule of {name}"

    def tell(line: str) -> None:
        say.progress(f"{label}: {one_line(line)}")

    given = zip(("--max-calls", "--max-cost"), limits, strict=True)
    options = [word for option, value in given if value is not None for word in (option, str(value))]
    settings = own.schedule
    child = Child(
        command=[*command(say, None if name == DEFAULT else name), *options], niceness=settings.niceness,
        threads=settings.threads, timeout_s=3600 * settings.timeout_h, tell=tell,
        memory_bytes=int(settings.max_memory_gb * GB),
    )  # fmt: skip
    Path(own.store.home).mkdir(parents=True, exist_ok=True)
    return Scheduler(build.store(own), own, child, tell)


def _projects(say: Console, config: Config) -> Sequence[str]:
    return [say.project] if say.project else known(config)


@contextmanager
def _told(say: Console, name: str) -> Iterator[None]:
    """What fails within is told, and ends nothing."""
    try:
        yield
    except (LogtuneError, OSError) as error:  # a store that is away, a disk that is full
        what = error.what if isinstance(error, LogtuneError) else str(error)
        say.progress(f"schedule of {name}: it cannot be looked at now: {one_line(what)}")


def _until_closed(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()
