"""A process that leaves no core dump: its memory holds what users say, before and after it was redacted.

nothing -> RLIMIT_CORE 0, and on Linux not dumpable, which also holds where a program collects the dumps
"""

import ctypes
import logging
import resource
import sys

LOG = logging.getLogger(__name__)
PR_SET_DUMPABLE = 4  # of <linux/prctl.h>


def forbid() -> None:
    """Forbid core dumps of this process and those it forks, for good. Other users' debuggers are shut out too."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            LOG.warning("core dumps can be switched off by their size alone: errno %d", ctypes.get_errno())
