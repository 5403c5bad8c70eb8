"""The learned numbers of the feedback detector as a file: named arrays without pickle, and a header of JSON."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from logtune.errors import ModelError
from logtune.records import Json

PACKAGED = Path(__file__).with_name("feedback_detector.npz")
PACKAGED_FAST = Path(__file__).with_name("feedback_detector_fast.npz")  # over a small copy of the embedder
Arrays = Mapping[str, npt.NDArray[np.float32]]


def load(path: Path = PACKAGED) -> tuple[dict[str, Json], Arrays]:
    """Header and arrays; ModelError when the file cannot be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            header = json.loads(str(found["header"]))
            return header, {name: found[name].astype(np.float32) for name in found.files if name != "header"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"the feedback detector in {path} cannot be read: {error}", "install logtune again") from error


def save(header: Mapping[str, Json], arrays: Arrays, path: Path = PACKAGED) -> None:
    """Write them, large arrays in half precision."""
    half = {name: array.astype(np.float16) if array.size > 1e5 else array for name, array in arrays.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, header=np.array(json.dumps(header)), **half)
