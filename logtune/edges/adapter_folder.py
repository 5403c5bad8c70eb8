"""Which adapter folders may be served: only our own, unchanged since training, and nothing in them that can run.

folder of all adapters, Adapter -> the folder to load, or a ModelError that says what is wrong with it

A model server loads whatever path it is told, and weights in pickle form are code. So a path never comes from outside:
it is a name inside our folder, without links that lead out of it, and holds plain files of a few known kinds.
"""

import hashlib
import json
import re
from pathlib import Path

from logtune.errors import ModelError
from logtune.records import Adapter

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
ALLOWED = frozenset({".safetensors", ".json", ".md", ".txt"})
AGAIN = "train it again with logtune cycle"


def checked(home: Path, adapter: Adapter) -> Path:
    """The adapter's folder, resolved; ModelError for one that must not be served."""
    folder = _inside(home, adapter.path)
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not entry.is_file():
            raise ModelError(f"{adapter.path}/{entry.name} is no plain file", AGAIN)
        if entry.suffix not in ALLOWED:
            raise ModelError(f"{adapter.path}/{entry.name} is of a kind that is never served", "safetensors alone are")
    _check_settings(folder)
    _check_weights(folder, adapter)
    return folder


def _inside(home: Path, name: str) -> Path:
    if not NAME.fullmatch(name) or name == "base":
        raise ModelError(f"adapter name {name!r} is not allowed", "letters, digits and . _ @ + -; not 'base'")
    if (home / name).is_symlink():
        raise ModelError(f"{name} in {home} is a link, and might lead anywhere", "put the folder itself there")
    folder = home.resolve() / name
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}", AGAIN)
    return folder


def _check_settings(folder: Path) -> None:
    try:
        settings = json.loads((folder / SETTINGS).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder.name}/{SETTINGS} cannot be read: {error}", AGAIN) from error
    kind = settings.get("peft_type") if isinstance(settings, dict) else None
    if kind != "LORA":
        raise ModelError(f"{folder.name}/{SETTINGS} says peft_type {kind!r}, not 'LORA'", AGAIN)
    if settings.get("auto_mapping"):
        raise ModelError(f"{folder.name}/{SETTINGS} names classes to import (auto_mapping)", AGAIN)


def _check_weights(folder: Path, adapter: Adapter) -> None:
    try:
        with (folder / WEIGHTS).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{folder.name}/{WEIGHTS} cannot be read: {error}", AGAIN) from error
    if found != adapter.sha256:
        what = f"{folder.name}/{WEIGHTS} has SHA-256 {found[:16]}..., its record says {adapter.sha256[:16]}..."
        raise ModelError(what, "it was changed after its training; restore it or train again")
