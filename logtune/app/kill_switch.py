"""The kill switch: the base model answers everything, at once, whatever else is broken.

LOGTUNE_KILL=1 when the gateway starts, or a file named KILL in `store.home` while it runs -> KillSwitch.on()

A thread of its own looks for the file, so neither the store, nor a model server, nor a busy event loop is in its way.
"""

import logging
import os
import threading
from pathlib import Path

LOG = logging.getLogger(__name__)
VARIABLE, FILE = "LOGTUNE_KILL", "KILL"
LOOK_S = 0.2


def forced() -> bool:
    """Whether the environment says that it is on."""
    return os.environ.get(VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def asked(home: Path) -> bool:
    """Whether it is on for whoever starts now: by the environment, or by its file in `home`."""
    try:
        return forced() or (home / FILE).exists()
    except OSError:  # a disk on which it cannot be looked for
        return False


class KillSwitch:
    """Whether the base model answers everything; for all projects of a process."""

    def __init__(self, home: Path) -> None:
        self._file = home / FILE
        self._forced = forced()
        self._on = self._forced or self._file.exists()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="kill-switch", daemon=True)

    def on(self) -> bool:
        """Whether it is on; asked for every request."""
        return self._on

    def start(self) -> None:
        """Look for the file from now on."""
        if self._on:
            LOG.warning("the kill switch is on: the base model answers everything")
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()

    def _watch(self) -> None:
        failing = False
        while not self._stop.wait(LOOK_S):
            try:
                on = self._forced or self._file.exists()
            except OSError as error:  # a disk that fails for a moment must not end this thread
                if not failing:
                    LOG.warning("the kill switch stays as it is, its file cannot be looked for: %s", error)
                failing = True
                continue
            failing = False
            if on != self._on:
                self._on = on
                what = "on: the base model answers everything" if on else "off: deployments serve again"
                LOG.warning("the kill switch is %s", what)
