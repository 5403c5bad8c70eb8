"""The child process beside a gateway that leads its live tests: it reads the store, decides, and writes steps down."""

import sys
from collections.abc import Sequence

from logtune.app.sidecar import Task


def task(arguments: Sequence[str], every_s: float) -> Task:
    """`logtune experiments look --every ...`, with the settings that `arguments` give."""
    look = ["experiments", "look", "--json", "--leash", "--every", f"{every_s:g}"]
    return Task(what="what leads live tests", command=[sys.executable, "-m", "logtune.app.cli", *look, *arguments])
