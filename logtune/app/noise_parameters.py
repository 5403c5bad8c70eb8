"""The shipped noise classifiers: numbers in a packed numpy file beside their model card, read without pickle."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from logtune.errors import ModelError
from logtune.stages import grams
from logtune.stages.noise import CLASSES, PADDED, NoiseModel, Rung

FILE = Path(__file__).resolve().parents[1] / "parameters" / "noise.npz"
FORMAT = 1  # of the file
Floats = npt.NDArray[np.float32]
PARTS = ("words", "unit", "inner", "shift", "outer", "bias")
STEPS = 127  # of a weight of a word: it is stored as a signed byte


@cache
def noise_model(path: Path = FILE) -> NoiseModel:
    """The classifiers in `path`; ModelError for a file that is not one of ours."""
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        return _model(arrays)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the noise classifiers in {path} cannot be read: {error}", "pip install --force-reinstall logtune"
        ) from error


def _model(arrays: Mapping[str, npt.NDArray[np.generic]]) -> NoiseModel:
    made = (int(arrays["format"]), int(arrays["buckets"]), tuple(arrays["classes"].tolist()))
    if made != (FORMAT, grams.BUCKETS, CLASSES):
        raise ValueError(f"format, buckets and classes are {made}, not {(FORMAT, grams.BUCKETS, CLASSES)}")
    return NoiseModel(
        name=str(arrays["name"]), embedder=str(arrays["embedder"]), quick=_rung(arrays, "quick"),
        full=_rung(arrays, "full"),
    )  # fmt: skip


def _rung(arrays: Mapping[str, npt.NDArray[np.generic]], name: str) -> Rung:
    part = {key: np.asarray(arrays[f"{name}_{key}"], np.float32) for key in PARTS}
    words = np.zeros((grams.BUCKETS, PADDED), np.float32)
    words[:, : len(CLASSES)] = part["words"] * part["unit"]
    return Rung(words=words, inner=part["inner"], shift=part["shift"], outer=part["outer"], bias=part["bias"])


def save(model: NoiseModel, path: Path = FILE) -> None:
    """Write the classifiers; `noise_model` reads them."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "format": np.array(FORMAT), "buckets": np.array(grams.BUCKETS), "classes": np.array(CLASSES),
        "name": np.array(model.name), "embedder": np.array(model.embedder),
    }  # fmt: skip
    for name, rung in (("quick", model.quick), ("full", model.full)):
        words = rung.words[:, : len(CLASSES)]
        unit = np.maximum(np.abs(words).max(axis=0), 1e-9) / STEPS
        arrays |= {f"{name}_words": np.rint(words / unit).astype(np.int8), f"{name}_unit": unit}
        arrays |= {f"{name}_{key}": getattr(rung, key).astype(np.float16) for key in ("inner", "shift", "outer")}
        arrays[f"{name}_bias"] = rung.bias
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
