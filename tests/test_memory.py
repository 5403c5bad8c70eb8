"""How much memory there is: never more than the container's limit leaves."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from logtune.edges.memory import available_bytes

GB = 2**30
MACHINE = {"proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable:   {32 * 2**20} kB\nHugePages_Total: 0\n"}
V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"

CASES: list[tuple[str, Mapping[str, str], int]] = [
    ("no limit", {"proc/self/cgroup": "0::/a.slice\n", f"{V2}/a.slice/memory.max": "max\n"}, 32 * GB),
    ("v2, a container's own root", {
        "proc/self/cgroup": "0::/\n", f"{V2}/memory.max": f"{4 * GB}\n", f"{V2}/memory.current": f"{3 * GB}\n",
    }, GB),
    ("v2, files that are only cached are no use of memory", {
        "proc/self/cgroup": "0::/\n", f"{V2}/memory.max": f"{4 * GB}\n", f"{V2}/memory.current": f"{4 * GB}\n",
        f"{V2}/memory.stat": f"anon 1\ninactive_file {2 * GB}\nactive_file {GB}\n",
    }, 2 * GB),
    ("v2, the limit of a slice above", {
        "proc/self/cgroup": "0::/a.slice/b.service\n", f"{V2}/a.slice/memory.max": f"{2 * GB}\n",
        f"{V2}/a.slice/memory.current": f"{GB}\n", f"{V2}/a.slice/b.service/memory.max": "max\n",
        f"{V2}/a.slice/b.service/memory.current": f"{GB}\n",
    }, GB),
    ("v1, a container that sees its machine's path", {
        "proc/self/cgroup": "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n",
        f"{V1}/memory.limit_in_bytes": f"{8 * GB}\n", f"{V1}/memory.usage_in_bytes": f"{5 * GB}\n",
    }, 3 * GB),
    ("v1, no limit", {
        "proc/self/cgroup": "4:memory:/\n", f"{V1}/memory.limit_in_bytes": "9223372036854771712\n",
        f"{V1}/memory.usage_in_bytes": f"{5 * GB}\n",
    }, 32 * GB),
    ("beyond its limit", {
        "proc/self/cgroup": "0::/\n", f"{V2}/memory.max": f"{GB}\n", f"{V2}/memory.current": f"{2 * GB}\n",
    }, 0),
]  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_least_that_a_limit_leaves(tmp_path: Path, files: Mapping[str, str], expected: int) -> None:
    for name, text in {**MACHINE, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == expected


def test_a_system_that_does_not_tell_its_memory(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    assert Path("/proc/meminfo").exists() == (available_bytes() is not None)
