"""Memory that programs can have now, on the machine and below the limit of their container or service.

/proc/meminfo, the cgroups of this process (v2, v1) -> available_bytes
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """Where a version of cgroups tells its numbers."""

    mount: str
    limit: str
    used: str
    cached: str  # in memory.stat: files that the kernel gives up when memory is asked for


V1 = _Version(
    mount="sys/fs/cgroup/memory", limit="memory.limit_in_bytes", used="memory.usage_in_bytes",
    cached="total_inactive_file",
)  # fmt: skip
V2 = _Version(mount="sys/fs/cgroup", limit="memory.max", used="memory.current", cached="inactive_file")


def available_bytes(root: Path = Path("/")) -> int | None:
    """The least that any limit leaves (Linux); None where the system does not tell. `root`: where /proc lies."""
    found = _numbers(root / "proc/meminfo")
    if "MemAvailable" not in found:
        return None
    return max(0, min([found["MemAvailable"] * 1024, *_left(root)]))


def _left(root: Path) -> Iterator[int]:
    """What each cgroup leaves, from this process's own up to the one that its container sees as the root."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        version = V1 if "memory" in controllers.split(",") else V2 if not controllers else None
        if version is None:
            continue
        own = PurePosixPath(name)
        for part in (own, *own.parents):
            folder = root / version.mount / str(part).lstrip("/")
            limit, used = _text(folder / version.limit).strip(), _text(folder / version.used).strip()
            if limit.isdecimal() and used.isdecimal():  # "max": it has none
                yield int(limit) - int(used) + _numbers(folder / "memory.stat").get(version.cached, 0)


def _numbers(path: Path) -> Mapping[str, int]:
    """name -> number of lines such as `MemAvailable: 12 kB`."""
    words = [line.replace(":", " ").split() for line in _text(path).splitlines()]
    return {row[0]: int(row[1]) for row in words if len(row) > 1 and row[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
