"""The shipped noise classifiers: numbers in packed numpy files beside their model card, read without pickle."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from logtune.edges.noise_encoder import FIRST, Tuning
from logtune.edges.noise_encoder import PARTS as LAYER
from logtune.errors import ModelError
from logtune.stages import grams
from logtune.stages.noise import CLASSES, PADDED, NoiseModel, Rung

FILE = Path(__file__).resolve().parents[1] / "parameters" / "noise.npz"
TUNING_FILE = FILE.with_name("noise_encoder.npz")
FORMAT = 1  # of the files
Floats = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[np.generic]]
T = TypeVar("T")
PARTS = ("words", "unit", "inner", "shift", "outer", "bias")
STEPS = 127  # of a weight of a word: it is stored as a signed byte


@cache
def noise_model(path: Path = FILE) -> NoiseModel:
    """The classifiers in `path`; ModelError for a file that is not one of ours."""
    return _read(path, _model)


@cache
def noise_tuning(path: Path = TUNING_FILE) -> Tuning:
    """What makes the packaged embedder name noise; ModelError for a file that is not one of ours."""
    return _read(path, _tuning)


def _read(path: Path, made: Callable[[Arrays], T]) -> T:
    try:
        with np.load(path, allow_pickle=False) as found:
            return made({name: found[name] for name in found.files})
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the noise classifiers in {path} cannot be read: {error}", "pip install --force-reinstall logtune"
        ) from error


def _model(arrays: Arrays) -> NoiseModel:
    made = (int(arrays["format"]), int(arrays["buckets"]), tuple(arrays["classes"].tolist()))
    if made != (FORMAT, grams.BUCKETS, CLASSES):
        raise ValueError(f"format, buckets and classes are {made}, not {(FORMAT, grams.BUCKETS, CLASSES)}")
    return NoiseModel(
        name=str(arrays["name"]), embedder=str(arrays["embedder"]), quick=_rung(arrays, "quick"),
        full=_rung(arrays, "full"),
    )  # fmt: skip


def _rung(arrays: Arrays, name: str) -> Rung:
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


def _tuning(arrays: Arrays) -> Tuning:
    made = (int(arrays["format"]), int(arrays["first"]), tuple(arrays["classes"].tolist()))
    if made != (FORMAT, FIRST, CLASSES):
        raise ValueError(f"format, first layer and classes are {made}, not {(FORMAT, FIRST, CLASSES)}")
    part = {key: np.asarray(values, np.float32) for key, values in arrays.items() if values.dtype.kind == "f"}
    keys = [(layer, name) for layer in range(FIRST, int(arrays["last"]) + 1) for name in LAYER]
    return Tuning(
        name=str(arrays["name"]), embedder=str(arrays["embedder"]), head=part["head"], bias=part["bias"],
        down={(layer, name): part[f"down_{layer}_{name}"] for layer, name in keys},
        up={(layer, name): part[f"up_{layer}_{name}"] for layer, name in keys}, line=part["line"],
    )  # fmt: skip


def save_tuning(tuning: Tuning, path: Path = TUNING_FILE) -> None:
    """Write the changes; `noise_tuning` reads them."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "format": np.array(FORMAT), "first": np.array(FIRST), "last": np.array(max(layer for layer, _ in tuning.down)),
        "classes": np.array(CLASSES), "name": np.array(tuning.name), "embedder": np.array(tuning.embedder),
        "head": tuning.head.astype(np.float16), "bias": tuning.bias, "line": tuning.line,
    }  # fmt: skip
    for side, changes in (("down", tuning.down), ("up", tuning.up)):
        arrays |= {f"{side}_{layer}_{part}": value.astype(np.float16) for (layer, part), value in changes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
