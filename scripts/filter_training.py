"""Fitting the noise classifiers: Text* -> features -> weights, out-of-fold scores, and where the line is drawn.

A weight a class for every n-gram, and a small hidden layer over the rest, learned together by Adam. The line of each
class is put where, over texts that the model has not seen, recall is highest while no more benign texts are flagged
than the limits allow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse
import torch
from filter_data import BENIGN, OWN, Text, columns

from logtune.edges.vectors import LocalEmbedder
from logtune.edges.weights import embedder_model
from logtune.ids import digest
from logtune.stages import grams, noise
from logtune.stages.noise import BLOCK, CLASSES, PADDED, Rung, doubtful, joined

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FOLDS = 5
HIDDEN, EPOCHS, BATCH = 128, 10, 512
RATE, WORD_RATE = 3e-3, 3e-2  # highest learning rates; they rise for a fifth of the steps, then fall
DECAY, WORD_DECAY = 0.01, 0.02
DROPPED, WORDS_DROPPED = 0.3, 0.3  # shares of the hidden layer and of a text's n-grams that a step does not see
POSITIVE = 0.5  # weight of a class's texts together, as a share of all the others'
OWN_WEIGHT = 0.5  # of the project's own texts
HARD_WEIGHT = 3.0  # of benign texts that look harmful
LIMITS = {"benign": 0.018, "benign_hard": 0.072, "benign_other_language": 0.018}  # below the aims: 2%, 8%, 2%
SOURCE_LIMIT = 0.05  # of the benign texts of one source: no deployment is like all of them together


@dataclass(frozen=True, slots=True)
class Features:
    """What the models are fitted on, row i of text i."""

    words: "sparse.csr_matrix"  # (N, grams.BUCKETS), divided by the root of the number of features
    shape: Floats
    clues: Floats
    vectors: Floats

    def rest(self, full: bool) -> Floats:
        """(N, X): what a rung reads beside the words."""
        return np.concatenate([self.shape, self.clues, self.vectors], axis=1) if full else self.shape


def features(rows: Sequence[Text], vectors: Floats) -> Features:
    """Everything that is read of the texts."""
    texts = [row.text for row in rows]
    blocks = [texts[at : at + BLOCK] for at in range(0, len(texts), BLOCK)]
    return Features(
        words=sparse.vstack([_words(block) for block in blocks]).tocsr(),
        shape=np.concatenate([grams.shape(block) for block in blocks]),
        clues=noise.clues(texts), vectors=vectors,
    )  # fmt: skip


def _words(texts: Sequence[str]) -> "sparse.csr_matrix":
    read = grams.batch(texts)
    rows: list[npt.NDArray[np.int64]] = []
    found: list[npt.NDArray[np.uint32]] = []
    for run in grams.runs(read):
        counts = run.stops - run.begins
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found.append(grams.buckets(run.hashes)[np.repeat(run.begins, counts) + within])
        rows.append(np.repeat(np.arange(len(texts)), counts))
    where = (np.concatenate(rows), np.concatenate(found))
    matrix = sparse.csr_matrix((np.ones(len(where[0]), np.float32), where), shape=(len(texts), grams.BUCKETS))
    total = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1)
    return sparse.diags(1 / np.sqrt(total)) @ matrix


def embedded(texts: Sequence[str], cache: Path | None = None) -> tuple[Floats, str]:
    """(vectors of the packaged embedder, its fingerprint); those in `cache` are not made again."""
    embedder = LocalEmbedder(embedder_model("all-minilm-l6-v2"))
    known: dict[str, Floats] = {}
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            known = dict(zip(kept["keys"].tolist(), kept["vectors"].astype(np.float32), strict=True))
    keys = [digest(text) for text in texts]
    fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    known |= dict(zip(fresh, embedder.embed(list(fresh.values())), strict=True))
    if cache is not None and fresh:
        np.savez(cache, keys=np.array(list(known)), vectors=np.stack(list(known.values())).astype(np.float16))
    return np.stack([known[key] for key in keys]), embedder.fingerprint


# --- fitting ---


def weights_of(rows: Sequence[Text], wanted: Floats) -> Floats:
    """(N, C): how much each text counts for each class."""
    each = np.array([OWN_WEIGHT if row.source == OWN else 1.0 for row in rows], np.float32)
    each *= np.where([row.label == "benign_hard" and row.source != OWN for row in rows], HARD_WEIGHT, 1.0)
    table = np.repeat(each[:, None], wanted.shape[1], axis=1)
    for column in range(wanted.shape[1]):
        positive = wanted[:, column] == 1
        if positive.any():
            raised = POSITIVE * table[~positive, column].sum() / table[positive, column].sum()
            table[positive, column] *= max(1.0, raised)
    return table


def fit(words: "sparse.csr_matrix", rest: Floats, wanted: Floats, counts: Floats, seed: int = 0) -> Rung:
    """The rung that `noise.logits` reads, learned from these rows."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    table = torch.zeros(words.shape[1], wanted.shape[1], requires_grad=True)
    inner, outer = torch.nn.Linear(rest.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, wanted.shape[1])
    net = torch.nn.Sequential(torch.nn.Dropout(0.1), inner, torch.nn.ReLU(), torch.nn.Dropout(DROPPED), outer)
    groups = [
        {"params": [*net.parameters()], "lr": RATE, "weight_decay": DECAY},
        {"params": [table], "lr": WORD_RATE, "weight_decay": WORD_DECAY},
    ]
    adam, steps = torch.optim.AdamW(groups), max(1, len(wanted) // BATCH)
    course = torch.optim.lr_scheduler.OneCycleLR(adam, [RATE, WORD_RATE], total_steps=EPOCHS * steps + 1, pct_start=0.2)
    given, aim, each = (torch.from_numpy(array) for array in (rest, wanted, counts / counts.mean(axis=0)))
    for _ in range(EPOCHS):
        for rows in np.array_split(draw.permutation(len(wanted)), steps):
            odds = _summed(words[rows], table, draw) + net(given[rows])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, aim[rows], reduction="none")
            adam.zero_grad()
            (each[rows] * loss).mean().backward()
            adam.step()
            course.step()
    return _as_rung(table, inner, outer)


def _summed(words: "sparse.csr_matrix", table: "torch.Tensor", draw: np.random.Generator) -> "torch.Tensor":
    """(rows, C): the weights of each row's n-grams, some of them left out."""
    kept = (draw.random(len(words.data), dtype=np.float32) >= WORDS_DROPPED) / np.float32(1 - WORDS_DROPPED)
    return torch.nn.functional.embedding_bag(
        torch.from_numpy(words.indices.astype(np.int64)), table, torch.from_numpy(words.indptr[:-1].astype(np.int64)),
        mode="sum", per_sample_weights=torch.from_numpy((words.data * kept).astype(np.float32)),
    )  # fmt: skip


def _as_rung(table: "torch.Tensor", inner: "torch.nn.Linear", outer: "torch.nn.Linear") -> Rung:
    padded = np.zeros((len(table), PADDED), np.float32)
    padded[:, : table.shape[1]] = table.detach().numpy()
    return Rung(
        words=padded, inner=inner.weight.detach().numpy().T.copy(), shift=inner.bias.detach().numpy(),
        outer=outer.weight.detach().numpy().T.copy(), bias=outer.bias.detach().numpy(),
    )  # fmt: skip


def applied(rung: Rung, words: "sparse.csr_matrix", rest: Floats) -> Floats:
    """(N, C) log odds, as `noise.logits` computes them from the texts."""
    hidden = np.maximum(rest @ rung.inner + rung.shift, 0.0)
    found = np.asarray(words @ rung.words)[:, : len(CLASSES)]
    return np.asarray(found + hidden @ rung.outer + rung.bias, np.float32)


def learns(rows: Sequence[Text]) -> Mask:
    """Rows that a model may learn from: those of a class, and benign ones."""
    return np.array([row.label in CLASSES or row.label in BENIGN for row in rows])


def fold_of(group: int) -> int:
    """The fold of a group; the same in every run."""
    return int(digest(["fold", group], 8), 16) % FOLDS


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model, to be learned again and again."""

    known_by: str  # equal: the same odds
    score: Callable[[Mask], Floats]  # log odds of the rows of a mask by a model that learned from all others


def networks(rows: Sequence[Text], read: Features) -> dict[str, Kind]:
    """The rungs `quick` and `full`."""
    course = [FOLDS, HIDDEN, EPOCHS, BATCH, RATE, WORD_RATE, DECAY, WORD_DECAY, DROPPED, WORDS_DROPPED, POSITIVE]
    texts = digest([[row.text, row.label, row.source, row.group] for row in rows])
    numbers = [float(np.abs(array).sum()) for array in (read.words.data, read.shape, read.clues, read.vectors)]
    known_by = digest([*course, OWN_WEIGHT, HARD_WEIGHT, texts, numbers], 8)

    def score(full: bool, out: Mask) -> Floats:
        there, rung = np.flatnonzero(out), learned(rows, read, full, out)
        return applied(rung, read.words[there], read.rest(full)[there])

    return {name: Kind(known_by, partial(score, name == "full")) for name in ("quick", "full")}


class Unseen:
    """Log odds of rows by models that learned from none of them; what is in the folder `kept` is not done again."""

    def __init__(self, rows: Sequence[Text], kinds: Mapping[str, Kind], kept: Path | None = None) -> None:
        self.rows, self._kinds, self._kept = rows, kinds, kept

    def out_of_fold(self, name: str, say: Callable[[str], None]) -> Floats:
        """(N, C): each row by a model of a kind that learned from no row of its fold."""
        folds = np.array([fold_of(row.group) for row in self.rows])
        found = np.zeros((len(self.rows), len(CLASSES)), np.float32)
        for fold in range(FOLDS):
            found[folds == fold] = self._odds(name, str(fold), folds == fold)
            say(f"{name}: fold {fold + 1} of {FOLDS}")
        return found

    def without_source(self, name: str, source: str) -> tuple[Mask, Floats]:
        """(measured rows of a source, their log odds by a model that saw nothing of it or of its near copies)."""
        measured = np.array([row.source == source and row.measured for row in self.rows])
        kin = {row.group for row in self.rows if row.source == source}
        out = np.array([row.source == source or row.group in kin for row in self.rows])
        return measured, self._odds(name, f"without-{source}", out)[measured[out]]

    def _odds(self, name: str, part: str, out: Mask) -> Floats:
        kind = self._kinds[name]
        file = None if self._kept is None else self._kept / f"{kind.known_by}-{name}-{part}.npy"
        if file is not None and file.exists():
            return np.asarray(np.load(file), np.float32)
        found = kind.score(out)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, found)
        return found


def learned(rows: Sequence[Text], read: Features, full: bool, out: Mask) -> Rung:
    """A rung that learned from all rows but those of `out`."""
    into = np.flatnonzero(~out & learns(rows))
    seen = [rows[int(row)] for row in into]
    wanted = columns(seen)
    return fit(read.words[into], read.rest(full)[into], wanted, weights_of(seen, wanted))


# --- where the line is drawn ---


def lines(rows: Sequence[Text], odds: Floats) -> Floats:
    """(C,): log odds from which on each class is named, by coordinate ascent from several starts.

    What exceeds a limit costs more and more; of the lines within all limits the worthiest are taken.
    """
    measured = np.array([row.measured for row in rows])
    labels, sources = np.array([row.label for row in rows]), np.array([row.source for row in rows])
    benign = {name: odds[(labels == name) & measured] for name in LIMITS}
    limits = dict(LIMITS)
    for source in sorted({row.source for row in rows if row.label == "benign" and row.measured}):
        benign[source] = odds[(labels == "benign") & measured & (sources == source)]
        limits[source] = SOURCE_LIMIT
    caught = [odds[(labels == name) & measured] for name in CLASSES]
    draw = np.random.default_rng(0)
    steps = [_steps(column, [benign[name] for name in LIMITS], caught) for column in range(odds.shape[1])]

    def over(line: Floats) -> float:
        return sum(max(0.0, _reached(rows_, line) / limits[name] - 1) for name, rows_ in benign.items())

    def worth(line: Floats) -> float:
        recall = np.array([_reached(rows_, line) for rows_ in caught])
        return float(np.minimum(recall, 0.95).sum() + 1.5 * min(recall.min(), 0.9))

    best, value = np.max(np.concatenate(list(benign.values())), axis=0) + 1e-3, -np.inf
    for _ in range(STARTS):
        line = np.array([np.quantile(benign["benign"][:, c], 1 - draw.choice(RATES)) for c in range(len(steps))])
        for dear in COSTS:
            for column in draw.permutation(len(steps)):
                tried = [np.where(np.arange(len(line)) == column, step, line) for step in steps[column]]
                line = max(tried, key=lambda one, dear=dear: worth(one) - dear * over(one))  # type: ignore[misc]
        if over(line) <= 0 and worth(line) > value:
            best, value = line, worth(line)
    return np.asarray(best, np.float32)


STARTS, RATES = 4, (0.002, 0.005, 0.01)
COSTS = (1, 1, 3, 3, 10, 10, 30, 30, 100, 100)  # of exceeding a limit, pass after pass


def _reached(odds: Floats, line: Floats) -> float:
    return float((odds > line).any(axis=1).mean())


def _steps(column: int, benign: Sequence[Floats], caught: Sequence[Floats]) -> Floats:
    """Values that a class's line may take."""
    near = [np.quantile(rows[:, column], np.linspace(0.8, 1, 60)) for rows in benign]
    within = np.quantile(caught[column][:, column], np.linspace(0, 0.6, 60))
    return np.asarray(np.unique(np.concatenate([*near, within])) + 1e-4, np.float32)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A reading's log odds out of fold, and its lines."""

    odds: Floats  # (N, C)
    line: Floats  # (C,)


def drawn(unseen: Unseen, say: Callable[[str], None]) -> dict[str, Drawn]:
    """Every reading; `tuned`: the full reading, 0 on its own line as it ships, and the tuned embedder together."""
    found: dict[str, Drawn] = {}
    for name in ("quick", "full"):
        odds = unseen.out_of_fold(name, say)
        found[name] = Drawn(odds, lines(unseen.rows, odds))
    full, tuned = found["full"].odds - found["full"].line, unseen.out_of_fold("tuned", say)
    line = lines(unseen.rows, joined(full, tuned))
    return found | {"tuned": Drawn(asked_in_doubt(full, tuned, line), line)}


def asked_in_doubt(full: Floats, tuned: Floats, line: Floats) -> Floats:
    """(N, C): both readings where the full one leaves a doubt, as it ships, else the full one."""
    return np.where(doubtful(full, line)[:, None], joined(full, tuned), full)
