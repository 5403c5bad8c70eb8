"""The number format of models in this process: bfloat16 where it is computed natively, since it is slower elsewhere."""

from collections.abc import Container
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CPU_FLAGS = ("amx_bf16", "avx512_bf16")  # instructions that compute bfloat16


def pick_dtype(wanted: str = "auto", *, on_gpu: bool = True) -> "tuple[torch.dtype, str]":
    """The number format and why; `on_gpu`: the model goes to a GPU where there is one."""
    import torch

    if wanted != "auto":
        return (torch.bfloat16 if wanted == "bfloat16" else torch.float32), "set in the settings"
    if on_gpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return torch.bfloat16, "the GPU computes it natively"
    found = bf16_flags(cpu_flags())
    if found:
        return torch.bfloat16, f"the processor has {', '.join(found)}"
    return torch.float32, f"the processor has neither {' nor '.join(CPU_FLAGS)}"


def bf16_flags(flags: Container[str]) -> list[str]:
    """Those of the processor's instructions that compute bfloat16."""
    return [flag for flag in CPU_FLAGS if flag in flags]


def cpu_flags(source: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the processor says it can do; empty where the system does not say."""
    try:
        lines = source.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    told = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(chain.from_iterable(told))
