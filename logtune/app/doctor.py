"""What is installed, what is missing, and the command that mends it. Nothing is downloaded, converted or trained.

A check that blocks makes `logtune doctor` end with exit code 1; a note is worth knowing and stops nothing.
"""

import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from logtune import __version__
from logtune.app.console import counted
from logtune.edges import dtypes
from logtune.errors import LogtuneError

if TYPE_CHECKING:
    from logtune.config import Config

State = Literal["ok", "note", "blocked"]
CORE = ("click", "pydantic", "sqlalchemy", "numpy", "scipy", "jinja2", "uvicorn", "aiohttp", "matplotlib")
EXTRAS = {
    "local": ("torch", "transformers", "safetensors", "tokenizers"),
    "train": ("torch", "transformers", "peft", "trl", "accelerate", "datasets"),
}
OLDEST = (3, 11)
LITTLE_DISK, NO_DISK = 2e9, 5e8  # bytes: a converted base model takes 0.6 GB, an adapter 3 MB
LITTLE_MEMORY = 3e9  # bytes: training the 135M base in float32 peaks below this
ANSWER_S = 3.0  # how long an endpoint may take to list its models


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    state: State
    found: str
    mend: str = ""  # the command or setting that mends it


def examine(config: "Config", config_file: Path | None = None) -> list[Check]:
    """Every check, in the order of what stands on what."""
    checks = [_python(), _settings(config, config_file), packages("core", CORE, blocks=True)]
    embedded = config.model.engine == "embedded"
    checks.append(packages("local", EXTRAS["local"], blocks=embedded))
    checks.append(packages("train", EXTRAS["train"], blocks=True))
    if not embedded:
        checks.append(_endpoint("model server", config.model.url or "", config.model.api_key_env))
    checks.append(_guarded("base model", lambda: _base_model(config)))
    checks.append(_guarded("embedder", lambda: _embedder(config)))
    if config.teacher.url:
        checks.append(_endpoint("teacher", config.teacher.url, config.teacher.api_key_env))
    checks.append(_guarded("store", lambda: _store(config)))
    checks.append(_spool(config))
    return [*checks, _disk(config), _cores(), _memory(), _bf16(), _gpu()]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check, or its known mistake as a check that blocks."""
    try:
        return check()
    except LogtuneError as error:
        return Check(name=name, state="blocked", found=error.what, mend=error.hint)


def _python() -> Check:
    found = f"logtune {__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST:
        return Check(name="python", state="blocked", found=found, mend="install Python 3.11 or newer")
    return Check(name="python", state="ok", found=found)


def _settings(config: "Config", config_file: Path | None) -> Check:
    path = config_file or Path("logtune.toml")
    about = f"preset {config.preset}, hash {config.config_hash}"
    if not path.exists():
        return Check(
            name="settings", state="note", found=f"no {path}: defaults, {about}", mend="logtune init writes one"
        )
    return Check(name="settings", state="ok", found=f"{path}: {about}")


def packages(extra: str, needed: Sequence[str], *, blocks: bool) -> Check:
    """Whether the packages of an extra are installed, and which versions."""
    name = "packages" if extra == "core" else f"packages for [{extra}]"
    missing = [package for package in needed if _version(package) is None]
    found = ", ".join(f"{package} {_version(package)}" for package in needed if package not in missing)
    if not missing:
        return Check(name=name, state="ok", found=found)
    mend = "pip install logtune" if extra == "core" else f"pip install 'logtune[{extra}]'"
    return Check(name=name, state="blocked" if blocks else "note", found=f"missing: {', '.join(missing)}", mend=mend)


def _base_model(config: "Config") -> Check:
    """The checksum is verified; a packaged model that is not converted yet, or a hub id, is left for its first use."""
    from logtune.edges.weights import BASES, base_model

    name = config.model.base
    if _on_hub(name):
        return Check(
            name="base model", state="note", found=f"{name} from the hub: fetched at its first use, not checked here"
        )
    if name in BASES and not on_disk(name):
        if _version(BASES[name].package) is None:
            return Check(
                name="base model", state="blocked", found=f"the package {BASES[name].package} is not installed",
                mend="pip install 'logtune[local]'",
            )  # fmt: skip
        return Check(
            name="base model", state="note", found=f"{name} is converted at its first use (about 10 s, 600 MB)"
        )
    folder = base_model(name)
    return Check(
        name="base model", state="ok",
        found=f"{name}, {folder.parameters / 1e6:,.1f} million parameters, checksum verified, {folder.path}",
    )  # fmt: skip


def on_disk(name: str) -> bool:
    """Whether the base model of that name can be loaded without fetching or converting anything."""
    from logtune.edges.weights import MARKER, cache_home

    return Path(name).is_dir() or any((cache_home() / "models").glob(f"{name}-*/{MARKER}"))


def _embedder(config: "Config") -> Check:
    from logtune.edges.weights import embedder_model

    name = config.embedder.model
    if _on_hub(name):
        return Check(
            name="embedder", state="note", found=f"{name} from the hub: fetched at its first use, not checked here"
        )
    folder = embedder_model(name)
    return Check(name="embedder", state="ok", found=f"{name}, checksum verified, {folder.path}")


def _on_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).is_dir()


def _endpoint(name: str, url: str, key_env: str | None) -> Check:
    """Whether an OpenAI-compatible endpoint lists its models."""
    if not url.startswith(("http://", "https://")):
        return Check(name=name, state="blocked", found=f"{url!r} is no URL", mend="set its url, with http:// and /v1")
    if key_env and not os.environ.get(key_env):
        return Check(name=name, state="blocked", found=f"{key_env} is not set", mend=f"export {key_env}=...")
    headers = {"Authorization": f"Bearer {os.environ[key_env]}"} if key_env else {}
    request = urllib.request.Request(url.rstrip("/") + "/models", headers=headers)  # scheme checked above
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as reply:
            return Check(name=name, state="ok", found=f"{url} answers with status {reply.status}")
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        reason = f"it answers with status {error.code}"
    except (OSError, ValueError) as error:
        reason = f"it does not answer: {error}"
    return Check(name=name, state="blocked", found=f"{url}: {reason}", mend="start it, or mend its url or key")


def _store(config: "Config") -> Check:
    """Opens the store (which migrates it) and asks for its write lock; a database that is not there is not made."""
    from logtune.app.build import store as open_store
    from logtune.edges.migrations import MIGRATIONS
    from logtune.records import Feedback, LogRecord

    file = sqlite_file(config.store.url)
    if file is not None and not file.exists():
        parent = next(folder for folder in file.absolute().parents if folder.exists())
        if os.access(parent, os.W_OK):
            return Check(name="store", state="ok", found=f"{file} is made at its first use")
        return Check(
            name="store", state="blocked", found=f"{parent} is not writable", mend="set store.url to another place"
        )
    store = open_store(config)
    try:
        store.add_logs([])
        counts = f"{counted(store.count(LogRecord), 'log')}, {store.count(Feedback):,} feedback"
        running = store.running_cycle()
    finally:
        store.close()
    size = f", {file.stat().st_size / 1e6:,.1f} MB" if file else ""
    found = (
        f"{file or 'PostgreSQL'}{size}: {counts}, writable, schema complete ({counted(len(MIGRATIONS), 'migration')})"
    )
    if running:
        return Check(
            name="store",
            state="note",
            found=f"{found}; cycle {running.id} has not ended",
            mend="logtune cycle continues it",
        )
    return Check(name="store", state="ok", found=found)


def _spool(config: "Config") -> Check:
    """Whether records wait on disk for the store, and whether the store refused any."""
    from logtune.edges.spool_files import SPOOL, waiting

    folder = Path(config.store.home) / SPOOL
    there = waiting(folder)
    if not there.records + there.rejected:
        return Check(name="spool", state="ok", found="no record waits for the store")
    found = f"{folder}: {counted(there.records, 'record')} ({there.bytes / 1e6:,.1f} MB) for the store"
    mend = "logtune serve brings them to the store" if there.records else ""
    if there.rejected:
        found += f", {counted(there.rejected, 'record')} that it refused"
        mend = mend or "rejected.jsonl says why; delete it once you have read it"
    return Check(name="spool", state="note", found=found, mend=mend)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL; None for a database in memory or on a server."""
    kind, _, path = url.partition(":///")
    return (
        Path(path.partition("?")[0]) if kind.startswith("sqlite") and path and not path.startswith(":memory:") else None
    )


def _disk(config: "Config") -> Check:
    home = Path(config.store.home).absolute()
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:,.1f} GB free for {config.store.home}"
    if not os.access(there, os.W_OK):
        return Check(
            name="disk", state="blocked", found=f"{there} is not writable", mend="set store.home to another place"
        )
    state: State = "blocked" if free < NO_DISK else "note" if free < LITTLE_DISK else "ok"
    return Check(
        name="disk", state=state, found=found, mend="" if state == "ok" else "free some space, or set store.home"
    )


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check(name="processor", state="ok", found=counted(usable, "usable core"))


def _memory() -> Check:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{size / 1e9:,.1f} GB"
    if size < LITTLE_MEMORY:
        return Check(name="memory", state="note", found=found, mend="training may not fit: lower train.batch")
    return Check(name="memory", state="ok", found=found)


def _bf16() -> Check:
    native = dtypes.bf16_flags(dtypes.cpu_flags())
    if native:
        return Check(name="bfloat16", state="ok", found=f"computed natively ({native[0]})")
    return Check(
        name="bfloat16", state="note", found="not native on this processor: float32 is used, about half as fast"
    )


def _gpu() -> Check:
    if shutil.which("nvidia-smi"):
        return Check(name="GPU", state="ok", found="an NVIDIA driver is installed")
    return Check(name="GPU", state="note", found="none found: training and serving run on the processor")
