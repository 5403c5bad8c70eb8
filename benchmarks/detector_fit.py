"""Examples -> Parameters of the feedback detector, and its predictions for examples it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from detector_data import Example
from scipy.optimize import minimize

from logtune.config import Config
from logtune.edges.static_vectors import made
from logtune.edges.vectors import LocalEmbedder
from logtune.edges.weights import embedder_model
from logtune.ports import Embedder, Vectors
from logtune.stages.detector import (
    KINDS,
    Parameters,
    calibrated,
    described,
    joined,
    likeness,
    outputs,
    scaled,
    texts_of,
)

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

# How much an example counts, by source; 1 where it is not named.
WEIGHTS = {"codechat_model_labelled": 0.25, "eurtad_no_error": 0.3, "feedbackqa": 0.1, "own": 0.3}
KIND_WEIGHT = 0.5  # of the loss of the kind beside that of "is feedback"
LEAST = 1e-4  # share of the greatest eigenvalue below which a direction of the landmarks is left out


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a network is trained."""

    landmarks: int = 500
    widths: tuple[float, float] = (0.002, 0.08)
    decay: float = 0.2
    steps: int = 80


def vectors_of(examples: Sequence[Example], embedder: Embedder) -> Vectors:
    """(N, 3, D)."""
    texts = [text for item in examples for text in texts_of(item.turn)]
    return embedder.embed(texts).reshape(len(examples), 3, -1)


PARTS = ("values", "vectors", "feedback", "kinds", "weights")


@dataclass(frozen=True)
class Table:
    """Examples as numbers."""

    names: tuple[str, ...]
    values: Floats  # (N, F)
    vectors: Vectors
    feedback: Floats  # (N,) 0 or 1
    kinds: Numbers  # (N,) index into KINDS; -1: no feedback, or unknown
    weights: Floats

    def rows(self, chosen: Numbers) -> "Table":
        """Some of them."""
        return Table(self.names, *(getattr(self, part)[chosen] for part in PARTS))


Labelled = tuple[Sequence[Example], Table]


def table(examples: Sequence[Example], vectors: Vectors) -> Table:
    """The examples as numbers; all must be clear."""
    names, values = described([item.turn for item in examples], vectors)
    kinds = [KINDS.index(item.kind) if item.kind in KINDS else -1 for item in examples]
    return Table(
        names, values, vectors, np.array([float(bool(item.is_feedback)) for item in examples], np.float32),
        np.array(kinds), np.array([WEIGHTS.get(item.source, 1.0) for item in examples], np.float32),
    )  # fmt: skip


def fit(rows: Table, course: Course, version: str = "0", embedder: str = "") -> Parameters:
    """A network trained on the rows; not calibrated yet."""
    mean = np.average(rows.values, axis=0, weights=rows.weights).astype(np.float32)
    spread = np.average((rows.values - mean) ** 2, axis=0, weights=rows.weights)
    deviation = (np.sqrt(spread) + 1e-2).astype(np.float32)
    data = joined(scaled(rows.values, mean, deviation), rows.vectors)
    chance = rows.weights / rows.weights.sum()
    drawn = np.random.default_rng(0).choice(len(data), min(course.landmarks, len(data)), replace=False, p=chance)
    size = rows.values.shape[1]
    landmarks = data[drawn].astype(np.float16).astype(np.float32)  # as they are shipped
    values, turned = np.linalg.eigh(likeness(landmarks, landmarks, size, course.widths).astype(np.float64))
    kept = values > LEAST * values.max()
    basis = turned[:, kept] / np.sqrt(values[kept])  # in it the decay is that of the kernel's own norm
    weights, bias = _minimised(likeness(data, landmarks, size, course.widths) @ basis, rows, course)
    return Parameters(
        version=version, embedder=embedder, names=rows.names, mean=mean, deviation=deviation, landmarks=landmarks,
        widths=course.widths, weights=(basis @ weights).astype(np.float32), bias=bias.astype(np.float32),
    )  # fmt: skip


def _minimised(data: Doubles, rows: Table, course: Course) -> tuple[Doubles, Doubles]:
    """Weights (inputs, 1 + kinds) and bias: logistic loss of "is feedback", cross-entropy of the kind, decay."""
    size, outs = data.shape[1], 1 + len(KINDS)
    known = rows.kinds >= 0
    one_hot = np.eye(len(KINDS))[np.maximum(rows.kinds, 0)] * known[:, None]
    weight, of_kind = rows.weights.astype(np.float64), KIND_WEIGHT * rows.weights * known

    def loss(at: Doubles) -> tuple[float, Doubles]:
        matrix, bias = at[:-outs].reshape(size, outs), at[-outs:]
        out = data @ matrix + bias
        first, kinds = out[:, 0], out[:, 1:]
        total = float(weight @ (np.logaddexp(0, first) - rows.feedback * first))
        level = np.logaddexp.reduce(kinds, axis=1)
        total += float(of_kind @ (level - (kinds * one_hot).sum(1))) + course.decay / 2 * float((matrix**2).sum())
        by_first = weight * (1 / (1 + np.exp(-first)) - rows.feedback)
        by_kinds = of_kind[:, None] * (np.exp(kinds - level[:, None]) - one_hot)
        by_out = np.hstack([by_first[:, None], by_kinds])
        return total, np.concatenate([(data.T @ by_out + course.decay * matrix).ravel(), by_out.sum(0)])

    options = {"maxiter": course.steps}
    found = minimize(loss, np.zeros((size + 1) * outs), jac=True, method="L-BFGS-B", options=options).x
    return found[:-outs].reshape(size, outs), found[-outs:]


def predict(rows: Table, learned: Parameters) -> Floats:
    """(N, 1 + kinds)."""
    return outputs(joined(scaled(rows.values, learned.mean, learned.deviation), rows.vectors), learned)


def calibrate(output: Floats, feedback: Floats, learned: Parameters) -> Parameters:
    """The slope, offset and threshold that fit outputs for examples that were not trained on (Platt 1999)."""

    def loss(at: npt.NDArray[np.float64]) -> float:
        logits = at[0] * output + at[1]
        return float(np.mean(np.logaddexp(0, logits) - feedback * logits)) + 1e-3 * float((at[0] - 1) ** 2)

    slope, offset = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    fitted = replace(learned, slope=float(slope), offset=float(offset))
    return replace(fitted, threshold=best_threshold(calibrated(output, fitted), feedback))


def best_threshold(shares: Floats, feedback: Floats) -> float:
    """The middle of the range of thresholds whose F1 is within 0.5 points of the best."""
    tried = np.arange(0.2, 0.7, 0.01)
    scores = np.array([f1(feedback, shares >= at) for at in tried])
    return round(float(np.mean(tried[scores >= scores.max() - 0.005])), 3)


def f1(truth: npt.NDArray[np.generic], found: npt.NDArray[np.generic]) -> float:
    """Harmonic mean of precision and recall; 0 when nothing is right."""
    first, second = truth.astype(bool), found.astype(bool)
    right = int(np.logical_and(first, second).sum())
    return 2 * right / max(1, int(first.sum()) + int(second.sum()))


def folds(examples: Sequence[Example], count: int, seed: int) -> Numbers:
    """The fold of each example: groups stay whole, and every fold has about as much feedback of each source."""
    draw = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for number, item in enumerate(examples):
        members.setdefault(item.group, []).append(number)
    names = sorted(members, key=lambda name: (-len(members[name]), draw.random()))
    strata = [f"{item.source.split('_')[0]}-{item.is_feedback}" for item in examples]
    filled: list[dict[str, int]] = [{} for _ in range(count)]
    where = np.zeros(len(examples), dtype=np.int64)
    for name in names:
        own = [strata[number] for number in members[name]]
        load = [sum(fold.get(stratum, 0) for stratum in own) + 1e-6 * sum(fold.values()) for fold in filled]
        least = int(np.argmin(load))
        where[members[name]] = least
        for stratum in own:
            filled[least][stratum] = filled[least].get(stratum, 0) + 1
    return where


def joined_tables(first: Table, second: Table) -> Table:
    """The rows of both."""
    return Table(first.names, *(np.concatenate([getattr(first, part), getattr(second, part)]) for part in PARTS))


def out_of_fold(
    measured: Labelled, extra: Labelled, course: Course, seed: int = 0, count: int = 5
) -> tuple[Floats, Numbers]:
    """Outputs for each measured example by a network that saw nothing of its group; and its fold."""
    examples, rows = measured
    where = folds(examples, count, seed)
    found = np.zeros((len(examples), 1 + len(KINDS)), np.float32)
    both = joined_tables(rows, extra[1])
    groups = [item.group for item in (*examples, *extra[0])]
    for fold in range(count):
        held = np.flatnonzero(where == fold)
        out = {groups[number] for number in held}
        train = np.array([number for number, group in enumerate(groups) if group not in out])
        found[held] = predict(rows.rows(held), fit(both.rows(train), course))
    return found, where


def nested_shares(
    output: Floats, where: Numbers, feedback: Floats, learned: Parameters
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Calibrated shares and decisions: slope, offset and threshold of each fold come from the other folds."""
    shares, decided = np.zeros(len(output), np.float32), np.zeros(len(output), bool)
    for fold in np.unique(where):
        held = where == fold
        fitted = calibrate(output[~held], feedback[~held], learned)
        shares[held] = calibrated(output[held], fitted)
        decided[held] = shares[held] >= fitted.threshold
    return shares, decided


def load_embedder(fast: bool = False) -> Embedder:
    """The packaged embedder, or the small copy of it."""
    model = embedder_model(Config().embedder.model, lambda line: None)
    return made(model, lambda: LocalEmbedder(model), print) if fast else LocalEmbedder(model)
