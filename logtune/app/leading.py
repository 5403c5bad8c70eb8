"""The child process beside a gateway that leads its live tests: it reads the store, decides, and writes steps down.

A process of its own, niced: however long it takes and whatever happens to it, serving goes on. It ends with the
gateway, which holds the other end of its standard input; when it dies by itself it is started again, ever later.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence

LOG = logging.getLogger(__name__)
NICE = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
END_S = 5.0


class Leader:
    """Runs `logtune experiments look --every ...` as long as it is open."""

    def __init__(self, arguments: Sequence[str], every_s: float) -> None:
        look = ["experiments", "look", "--json", "--leash", "--every", f"{every_s:g}"]
        self._command = [sys.executable, "-m", "logtune.app.cli", *look, *arguments]
        self._over = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="leader", daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        child = self._child
        if child is not None and child.stdin is not None:
            child.stdin.close()
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()
        self._thread.join(END_S)

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._over.is_set():
            try:
                code = self._once()
            except OSError as error:
                code, what = -1, str(error)
                LOG.error("live tests are not led: %s", what)
            if self._over.is_set():
                return
            LOG.error("what leads live tests ended with code %d and is started again in %g s", code, pause_s)
            self._over.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _once(self) -> int:
        self._child = child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=_modest
        )  # fmt: skip
        assert child.stdin is not None
        with child.stdin:  # it is held open as long as the child lives
            return child.wait()


def _modest() -> None:
    os.nice(NICE)
