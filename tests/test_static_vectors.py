"""A small copy of an embedder, made from invented queries alone, finds what the embedder finds."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.edges import static_vectors
from logtune.edges.invented import invented
from logtune.edges.static_vectors import MOST_TOKENS, READ, StaticVectors, make, tokenizer_file, vocabulary
from logtune.edges.weights import ModelFolder
from logtune.errors import ModelError
from logtune.ports import Vectors

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra local")

THINGS = ("parcel", "card", "refund", "flight", "recipe", "poem")
OTHERS = tuple(f"{first}{last}" for first in ("ba", "ku", "mi", "so", "te") for last in ("lor", "nap", "rid", "vex"))
FILLERS = ("the", "what", "how", "for", "and", "with", "please", "can", "you", "about")
WORDS = (*FILLERS, *THINGS, *OTHERS)


class MeaningEmbedder:
    """A word has a direction of its own; fillers count a twentieth: what a copy has to find out."""

    fingerprint = "meaning"

    def __init__(self, size: int = 24) -> None:
        generator = np.random.default_rng(1)
        self.directions = {word: generator.normal(size=size) for word in WORDS}
        self.unknown = generator.normal(size=size)
        self.asked = 0

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked += len(texts)
        rows = np.stack([self._sum(text) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def _sum(self, text: str) -> np.ndarray:
        known = [word for word in text.lower().split() if word in self.directions]
        total = 0.01 * self.unknown
        for word in known:
            total = total + self.directions[word] * (0.05 if word in FILLERS else 1.0)
        return total


def word_tokenizer(path: Path) -> Path:
    """A tokenizer whose tokens are WORDS, written to `path`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["[UNK]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(path))
    return path


@pytest.fixture(scope="module")
def embedder() -> MeaningEmbedder:
    return MeaningEmbedder()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, embedder: MeaningEmbedder) -> StaticVectors:
    folder = tmp_path_factory.mktemp("static")
    tokenizer = word_tokenizer(folder / "tokenizer.json")
    make(embedder, tokenizer, folder / "table", lambda _: None, count=2000)
    return StaticVectors(folder / "table", tokenizer)


def test_a_copy_is_close_to_the_embedder(copy: StaticVectors, embedder: MeaningEmbedder) -> None:
    texts = [f"please can you {one} with the {two}" for one in THINGS for two in OTHERS[:6]]
    cheap, real = copy.embed(texts), embedder.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(cheap, axis=1), 1, atol=1e-5)
    assert np.mean(np.sum(cheap * real, axis=1)) > 0.9
    pairs = np.triu_indices(len(texts), 1)
    assert np.corrcoef((cheap @ cheap.T)[pairs], (real @ real.T)[pairs])[0, 1] > 0.9


def test_words_that_mean_little_count_little(copy: StaticVectors) -> None:
    parcel, with_fillers, card = (
        copy.vector(text) for text in ("parcel", "what about the parcel please", "what about the card please")
    )
    assert parcel @ with_fillers > 0.8
    assert with_fillers @ card < 0.5


def test_what_the_embedder_read_is_kept_with_the_table(copy: StaticVectors, embedder: MeaningEmbedder) -> None:
    texts, vectors = copy.invented()
    assert vectors.shape == (len(texts), copy.dimension)
    assert 1000 < len(texts) <= 2000
    np.testing.assert_allclose(vectors[:50], embedder.embed(texts[:50]), atol=2e-3)


def test_a_text_without_a_known_token_has_no_direction(copy: StaticVectors) -> None:
    for text in ("", "   ", "zzz", "\u4f60\u597d", "\ud800"):
        assert not copy.vector(text).any()
    assert copy.embed([]).shape == (0, copy.dimension)


def test_a_long_text_is_read_up_to_where_small_models_read(copy: StaticVectors) -> None:
    assert len(copy.tokens("parcel " * 100_000)) == MOST_TOKENS
    assert len(copy.tokens(("x" * 30 + " card ") * 100_000)) == READ // 36
    assert len(copy.tokens("a " * 10 + "the " * 300)) == MOST_TOKENS
    assert copy.tokens(" " * 100_000 + "parcel") == copy.tokens("parcel")
    assert copy.tokens("x" * 1_000_000 + " parcel") == []


@given(st.text())
@settings(max_examples=200)
def test_every_text_has_a_unit_vector_or_none(copy: StaticVectors, text: str) -> None:
    vector = copy.vector(text)
    assert vector.dtype == np.float32
    assert float(np.linalg.norm(vector)) == pytest.approx(1 if vector.any() else 0, abs=1e-4)
    np.testing.assert_array_equal(vector, copy.vector(text))


def test_words_are_remembered_within_bounds(copy: StaticVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_vectors, "REMEMBERED", 3)
    before = copy.vector("parcel card refund")
    for number in range(20):
        copy.vector(f"word{number}")
        assert len(copy._words) <= 3
    np.testing.assert_array_equal(before, copy.vector("parcel card refund"))


def test_the_gradients_are_those_of_the_loss() -> None:
    generator = np.random.default_rng(0)
    alone = generator.normal(size=(9, 5))
    texts = [[1, 2, 3], [4], [5, 6, 7, 8, 0], [2, 2]]
    wanted = generator.normal(size=(4, 5))
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    learned = static_vectors._Learned(
        turn=np.eye(5) + 0.1 * generator.normal(size=(5, 5)), shift=0.1 * generator.normal(size=5),
        gate=0.1 * generator.normal(size=5), rare=np.array([0.3]),
    )  # fmt: skip

    def loss() -> float:
        table = alone * np.exp(alone @ learned.gate + learned.rare * np.log1p(np.arange(9)) / 10)[:, None]
        out = np.stack([table[text].sum(axis=0) / math.sqrt(len(text)) for text in texts]) @ learned.turn
        unit = (out + learned.shift) / np.linalg.norm(out + learned.shift, axis=1, keepdims=True)
        near = np.mean(1 - np.sum(unit * wanted, axis=1))
        return float(near + static_vectors.PAIRS * np.mean((unit @ unit.T - wanted @ wanted.T) ** 2))

    gradients = static_vectors._gradients(learned, alone, texts, wanted)
    for value, gradient in zip(learned.parameters(), gradients, strict=True):
        for place in np.ndindex(value.shape):
            before = value[place]
            value[place] = before + 1e-4
            high = loss()
            value[place] = before - 1e-4
            slope = (high - loss()) / 2e-4
            value[place] = before
            assert gradient[place] == pytest.approx(slope, abs=1e-4)


def test_invented_queries_use_the_vocabulary_and_are_the_same_each_time(copy: StaticVectors) -> None:
    words = vocabulary(copy._tokenizer)
    assert set(words) == set(WORDS)
    found = invented(words, 300)
    assert found == invented(words, 300)
    assert found != invented(words, 300, seed=1)
    assert len(set(found)) > 200
    assert all(text.strip() and "{" not in text for text in found)


def test_a_damaged_table_says_what_to_do(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="cannot be read"):
        StaticVectors(tmp_path, tokenizer)
    (tmp_path / "table.npy").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        StaticVectors(tmp_path, tokenizer)
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        tokenizer_file(ModelFolder(path=tmp_path / "none", fingerprint="x", parameters=1))


def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path, embedder: MeaningEmbedder) -> None:
    tokenizer = word_tokenizer(tmp_path / "tokenizer.json")

    class Failing(MeaningEmbedder):
        def embed(self, texts: Sequence[str]) -> Vectors:
            if self.asked:
                raise ModelError("out of memory")
            return super().embed(texts)

    with pytest.raises(ModelError, match="out of memory"):
        make(Failing(), tokenizer, tmp_path / "table", lambda _: None, count=50)
    assert not (tmp_path / "table").exists()
    make(embedder, tokenizer, tmp_path / "table", lambda _: None, count=50)
    before = (tmp_path / "table" / "table.npy").read_bytes()
    make(embedder, tokenizer, tmp_path / "table", lambda _: None, count=60)  # another process was first
    assert (tmp_path / "table" / "table.npy").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table", "tokenizer.json"]
    assert len(json.loads((tmp_path / "table" / "invented.json").read_text())) <= 50
