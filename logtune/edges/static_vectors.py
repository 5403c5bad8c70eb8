"""A small copy of an embedder: a vector for each token of its vocabulary, so that a text costs microseconds.

an embedder and its tokenizer -> `make` -> a table on disk -> StaticVectors -> estimates of the embedder's vectors

How it is made (the idea is model2vec's; here no text of anybody is needed): the embedder reads every token alone, and
some thousand invented queries. A weight for each token and one linear map are then learned so that the weighted sum of
a query's tokens comes out where the embedder puts the query.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from logtune.edges.invented import invented
from logtune.edges.weights import ModelFolder, cache_home
from logtune.errors import MissingExtra, ModelError
from logtune.ids import digest
from logtune.ports import Embedder, Vectors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Row = npt.NDArray[np.float32]  # (D,)
Numbers = npt.NDArray[np.int64]
Progress = Callable[[str], None]
VERSION = 1  # of how a table is made
MOST_TOKENS = 254  # of a text that count, as many as sentence-transformers' small models read
READ = 2048  # characters of a text that are read: about twice as many as those tokens have, so that the cost is bounded
REMEMBERED = 50_000  # words whose tokens are kept
INVENTED = 8000
KEPT = 3000  # invented queries that later fits compare with
CHUNK = 2048  # texts given to the embedder at once
STEPS = 400
BATCH = 256
RATE = 1e-3  # falls to 0; after 400 steps of this rate the copy of all-minilm-l6-v2 is as good as after 800 of more
GATE_RATE = 10  # times as much for the weights of tokens, which are far from where they begin
PAIRS = 2.0  # weight of the likeness between queries beside that of each to its own vector


class StaticVectors:
    """Estimates an embedder's vectors from a table that `make` wrote; reads nothing else, and is safe on an event loop.

    A text is its words between white space, each taken apart by the embedder's tokenizer alone.
    """

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        self.folder = folder
        self._tokenizer = _tokenizer(tokenizer)
        self._unknown = _unknown(self._tokenizer)
        try:
            self._table = np.asarray(np.load(folder / "table.npy", mmap_mode="r"))
            self.shift: Row = np.load(folder / "shift.npy")
        except (OSError, ValueError) as error:
            raise ModelError(f"the token table in {folder} cannot be read: {error}", f"rm -r {folder}") from error
        self._words: dict[str, list[int]] = {}

    @property
    def fingerprint(self) -> str:
        """Of the embedder it was made from, and of how."""
        return f"static-{self.folder.name}"

    @property
    def dimension(self) -> int:
        """D, the embedder's own."""
        return int(self._table.shape[1])

    def row(self, token: int) -> Row:
        """The vector (D,) of a token, weighted, as it is summed."""
        return cast("Row", self._table[token])

    def rows(self, count: int) -> Vectors:
        """The same of the first tokens, at most so many, shape (N, D)."""
        return cast("Vectors", self._table[:count])

    def vector(self, text: str) -> Row:
        """Unit vector (D,) of a text; zeros for a text without a known token."""
        tokens = self.tokens(text)
        if not tokens:
            return np.zeros(self.dimension, np.float32)
        row = self._table.take(tokens, axis=0).sum(axis=0) / math.sqrt(len(tokens)) + self.shift
        return cast("Row", row / max(float(np.linalg.norm(row)), 1e-12))

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape (len(texts), D)."""
        rows = [self.vector(text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def tokens(self, text: str) -> list[int]:
        """Numbers of the known tokens that count."""
        found: list[int] = []
        for word in text.lstrip()[:READ].split():
            room = MOST_TOKENS - len(found)
            if room <= 0:
                break
            known = self._words.get(word)
            found += self._taken_apart(word[:room]) if known is None else known
        return found[:MOST_TOKENS]

    def invented(self) -> tuple[list[str], Vectors]:
        """Queries that the embedder has read, and its vectors of them, shape (N, D)."""
        texts = json.loads((self.folder / "invented.json").read_text(encoding="utf-8"))
        return cast("list[str]", texts), np.load(self.folder / "invented.npy").astype(np.float32)

    def _taken_apart(self, word: str) -> list[int]:
        readable = word.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text to a tokenizer
        found = [n for n in self._tokenizer.encode(readable, add_special_tokens=False).ids if n != self._unknown]
        if len(self._words) >= REMEMBERED:
            self._words.clear()
        self._words[word] = found
        return found


def table_folder(model: ModelFolder) -> Path:
    """Where the table of an embedder lies: in the user's cache, shared by all projects, as it holds nobody's data."""
    return cache_home() / "static" / digest([VERSION, model.fingerprint], 12)


def tokenizer_file(model: ModelFolder) -> Path:
    """The embedder's tokenizer; ModelError for a model without a fast one."""
    path = model.path / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{model.path} has no tokenizer.json", "set serve.router = 'full'")
    return path


def make(embedder: Embedder, tokenizer: Path, folder: Path, progress: Progress, count: int = INVENTED) -> None:
    """Write the table of `embedder` to `folder`, whole or not at all; takes a minute or two of one core."""
    reader = _tokenizer(tokenizer)
    names = _names(reader)
    progress(f"the embedder reads its {len(names)} tokens (once)")
    alone = _read(embedder, names, progress)
    alone -= alone.mean(axis=0)
    alone /= np.linalg.norm(alone, axis=1).mean()
    texts = invented(vocabulary(reader), count)
    progress(f"the embedder reads {len(texts)} invented queries")
    wanted = _read(embedder, texts, progress)
    progress("learning how much each token counts")
    unknown = _unknown(reader)
    split = [[n for n in reader.encode(text, add_special_tokens=False).ids if n != unknown] for text in texts]
    kept = [row for row, tokens in enumerate(split) if tokens]
    learned = _learn(alone, [split[row] for row in kept], wanted[kept])
    rows = kept[:KEPT]
    _write(folder, {
        "table": learned.table(alone), "shift": learned.shift, "invented": wanted[rows].astype(np.float16),
    }, [texts[row] for row in rows])  # fmt: skip


def made(model: ModelFolder, embedder: Callable[[], Embedder], progress: Progress) -> StaticVectors:
    """The small copy of an embedder, made if this machine has none yet."""
    folder, tokenizer = table_folder(model), tokenizer_file(model)
    if not (folder / "table.npy").exists():
        make(embedder(), tokenizer, folder, progress)
    return StaticVectors(folder, tokenizer)


def vocabulary(tokenizer: "Tokenizer") -> list[str]:
    """Whole words of the vocabulary in its own order, in which frequent ones come first; all tokens if it has none."""
    numbers = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    marks = "\u0120\u2581"  # how byte-level and sentencepiece vocabularies mark the begin of a word
    words = [token.lstrip(marks) for token, _ in numbers]
    return [word for word in dict.fromkeys(words) if word.isalpha() and word.isascii() and len(word) > 2] or words


def _tokenizer(path: Path) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("tokenizers", "local") from error
    made = Tokenizer.from_file(str(path))
    made.no_padding()
    made.no_truncation()
    return made


def _unknown(tokenizer: "Tokenizer") -> int | None:
    """Number of the token for what is not in the vocabulary."""
    name = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(name) if isinstance(name, str) else None


def _names(tokenizer: "Tokenizer") -> list[str]:
    """What each token stands for, by number."""
    size = tokenizer.get_vocab_size()
    return [(tokenizer.id_to_token(n) or "").lstrip("\u0120\u2581").removeprefix("##") for n in range(size)]


def _read(embedder: Embedder, texts: Sequence[str], progress: Progress) -> Vectors:
    parts: list[Vectors] = []
    for start in range(0, len(texts), CHUNK):
        parts.append(embedder.embed(texts[start : start + CHUNK]))
        progress(f"{min(start + CHUNK, len(texts))} of {len(texts)} read")
    return np.concatenate(parts)


def _write(folder: Path, arrays: dict[str, npt.NDArray[np.generic]], texts: Sequence[str]) -> None:
    """Beside `folder`, then renamed; of two at once one wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, array in arrays.items():
            np.save(fresh / f"{name}.npy", array)
        (fresh / "invented.json").write_text(json.dumps(texts), encoding="utf-8")
        fresh.chmod(0o755)
        fresh.rename(folder)
    except OSError:
        if not (folder / "table.npy").exists():
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


# --- learning ---


@dataclass
class _Learned:
    """vector of tokens t1..tn = normalise(turn' . sum_i exp(gate . x_i + rare * log rank_i) x_i / sqrt(n) + shift)."""

    turn: npt.NDArray[np.float32]  # (D, D)
    shift: Row
    gate: Row
    rare: Row  # (1,)
    steps: int = 0
    means: list[npt.NDArray[np.float32]] = field(default_factory=list)
    squares: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def parameters(self) -> list[npt.NDArray[np.float32]]:
        return [self.turn, self.shift, self.gate, self.rare]

    def weights(self, alone: Vectors, numbers: Numbers) -> Row:
        rank = np.log1p(numbers).astype(np.float32) / 10
        return cast("Row", np.exp(np.clip(alone @ self.gate + self.rare * rank, -8, 8)))

    def table(self, alone: Vectors) -> Vectors:
        weights = self.weights(alone, np.arange(len(alone)))
        return cast("Vectors", ((alone * weights[:, None]) @ self.turn).astype(np.float32))

    def adam(self, gradients: Sequence[npt.NDArray[np.float32]], rate: float) -> None:
        """One step (Kingma and Ba 2015)."""
        rates = (rate, rate, GATE_RATE * rate, GATE_RATE * rate)
        self.means = self.means or [np.zeros_like(value) for value in gradients]
        self.squares = self.squares or [np.zeros_like(value) for value in gradients]
        self.steps += 1
        for value, gradient, mean, square, step in zip(
            self.parameters(), gradients, self.means, self.squares, rates, strict=True
        ):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            scale = np.sqrt(square / (1 - 0.999**self.steps)) + 1e-8
            value -= (step * (mean / (1 - 0.9**self.steps)) / scale).astype(np.float32)


def _learn(alone: Vectors, texts: Sequence[Sequence[int]], wanted: Vectors) -> _Learned:
    """By Adam on 1 - cosine of each text, and on the squared error of the cosines between texts of a batch."""
    size = alone.shape[1]
    learned = _Learned(
        turn=np.eye(size, dtype=np.float32), shift=np.zeros(size, np.float32), gate=np.zeros(size, np.float32),
        rare=np.zeros(1, np.float32),
    )  # fmt: skip
    generator = np.random.default_rng(0)
    for step in range(STEPS):
        rows = generator.choice(len(texts), min(BATCH, len(texts)), replace=False)
        learned.adam(_gradients(learned, alone, [texts[row] for row in rows], wanted[rows]), RATE * (1 - step / STEPS))
    return learned


def _gradients(
    learned: _Learned, alone: Vectors, texts: Sequence[Sequence[int]], wanted: Vectors
) -> list[npt.NDArray[np.float32]]:
    """Of turn, shift, gate and rare."""
    lengths = np.array([len(tokens) for tokens in texts])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    numbers = np.concatenate([np.asarray(tokens) for tokens in texts])
    rows = alone[numbers]
    weights = learned.weights(rows, numbers)
    root = np.sqrt(lengths).astype(np.float32)[:, None]
    pooled = np.add.reduceat(rows * weights[:, None], starts, axis=0) / root
    out = pooled @ learned.turn + learned.shift
    norms = np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)
    unit = out / norms
    count = len(texts)
    by_unit = -wanted / count + (4 * PAIRS / count**2) * ((unit @ unit.T - wanted @ wanted.T) @ unit)
    by_out = (by_unit - unit * (unit * by_unit).sum(axis=1, keepdims=True)) / norms
    by_pooled = np.repeat((by_out @ learned.turn.T) / root, lengths, axis=0)
    by_log_weight = (rows * by_pooled).sum(axis=1) * weights
    rank = np.log1p(numbers).astype(np.float32) / 10
    return [pooled.T @ by_out, by_out.sum(axis=0), rows.T @ by_log_weight, np.array([rank @ by_log_weight], np.float32)]
