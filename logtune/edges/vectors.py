"""Texts to unit vectors: what routing, filter, clusters and gap stand on."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from logtune.edges.dtypes import pick_dtype
from logtune.edges.late import Late
from logtune.edges.weights import ModelFolder
from logtune.errors import MissingExtra, ModelError
from logtune.ports import Embedder, Vectors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REMEMBERED = 32_768  # texts whose vectors are kept: 50 MB at 384 dimensions
SPLIT_TOGETHER = 1024  # texts whose tokens are held at once
PADDING = 64  # tokens of padding that cost about as much as one more pass (docs/log.md, 2026-11-27)


class LocalEmbedder:
    """A sentence-transformers model in this process: mean pooling over tokens, normalised; vectors are remembered."""

    def __init__(self, folder: ModelFolder, *, batch: int = 64, dtype: str = "float32") -> None:
        self.fingerprint = folder.fingerprint
        self._batch = batch
        self._max_tokens = _max_tokens(folder.path)
        self._model, self._tokenizer = load_embedder(folder.path, dtype)
        self._known: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()  # the tokenizer refuses a second thread

    @property
    def dimension(self) -> int:
        """D of the vectors."""
        return int(self._model.config.hidden_size)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape (len(texts), D); texts beyond the model's length are read up to there."""
        with self._lock:
            fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
            found = dict(zip(fresh, self._vectors(fresh), strict=True))
            vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
            for row, text in enumerate(texts):
                vectors[row] = found[text] if text in found else self._known[text]
            self._known.update(found)
            for text in texts:
                self._known.move_to_end(text)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return vectors

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        import torch

        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        filler = cast("int | None", self._tokenizer.pad_token_id) or 0
        for start in range(0, len(texts), SPLIT_TOGETHER):
            some = list(texts[start : start + SPLIT_TOGETHER])
            split = self._tokenizer(some, truncation=True, max_length=self._max_tokens)
            ids = cast("list[list[int]]", split["input_ids"])
            for part in of_like_length([len(tokens) for tokens in ids], self._batch):
                given, mask = padded([ids[number] for number in part], filler)
                with torch.inference_mode():
                    states = self._model(input_ids=given, attention_mask=mask).last_hidden_state.float()
                seen = mask[..., None].float()
                mean = (states * seen).sum(1) / seen.sum(1)
                rows[start + np.array(part)] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return rows


def of_like_length(tokens: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Indices of texts with so many `tokens` in batches of at most `batch`, hardly any of a batch being padding."""
    part: list[int] = []
    held = 0
    for number in sorted(range(len(tokens)), key=tokens.__getitem__):
        longest = tokens[number]
        if part and (len(part) == batch or longest * len(part) - held > PADDING):
            yield part
            part, held = [], 0
        part.append(number)
        held += longest
    if part:
        yield part


def padded(ids: Sequence[Sequence[int]], filler: int = 0) -> "tuple[torch.Tensor, torch.Tensor]":
    """(N, T) tokens and their mask."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    given = pad_sequence([torch.tensor(tokens) for tokens in ids], batch_first=True, padding_value=filler)
    lengths = torch.tensor([len(tokens) for tokens in ids])
    mask = (torch.arange(given.shape[1]) < lengths[:, None]).long()
    return given, mask


class LateEmbedder:
    """An embedder that is made when the first text comes, or never: a gateway with nothing deployed needs none."""

    def __init__(self, make: Callable[[], Embedder]) -> None:
        self._embedder = Late(make)

    @property
    def fingerprint(self) -> str:
        """As the embedder's; makes it."""
        return self._embedder().fingerprint

    def embed(self, texts: Sequence[str]) -> Vectors:
        """As the embedder; what making it raises comes at every call."""
        return self._embedder().embed(texts)


def _max_tokens(folder: Path) -> int:
    """As sentence-transformers reads it; ModelError for a folder that pools in another way."""
    pooling = _settings(folder / "1_Pooling" / "config.json")
    if not pooling.get("pooling_mode_mean_tokens", pooling.get("pooling_mode", "mean") == "mean"):
        raise ModelError(f"{folder} does not pool by the mean of its tokens", "use all-minilm-l6-v2 or one that does")
    length = _settings(folder / "sentence_bert_config.json").get("max_seq_length")
    return length if isinstance(length, int) else 512


def _settings(path: Path) -> dict[str, object]:
    return cast("dict[str, object]", json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def load_embedder(folder: Path, dtype: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model and its tokenizer; ModelError where the folder holds none."""
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra("transformers", "local") from error
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(folder, dtype=pick_dtype(dtype, on_gpu=False)[0], use_safetensors=True)
        return cast("PreTrainedModel", model).eval(), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the embedding model in {folder} cannot be loaded: {error}", "check embedder.model"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
