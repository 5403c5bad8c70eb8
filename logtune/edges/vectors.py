"""Texts to unit vectors, and how far rules are covered by others: the models behind routing, filter, clusters and gap."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from logtune.edges.weights import ModelFolder
from logtune.ports import Embedder, Vectors


class LocalEmbedder:
    """A sentence-transformers model in this process: mean pooling over tokens, normalised."""

    def __init__(self, folder: ModelFolder, *, batch: int = 64) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(str(folder.path))
        self._model = AutoModel.from_pretrained(str(folder.path)).eval()
        self._batch = batch
        self.fingerprint = folder.fingerprint

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (N, D) float32."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[Vectors] = [np.zeros(0, np.float32)] * len(texts)
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            inputs = self._tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            with torch.no_grad():
                states = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].float()
            mean = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)
            for i, row in zip(part, mean.numpy(), strict=True):
                rows[i] = row.astype(np.float32)
        dimension = int(self._model.config.hidden_size)
        return cast("Vectors", np.stack(rows) if rows else np.zeros((0, dimension), np.float32))


class EmbeddingCoverage:
    """Coverage by the nearest known text."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.fingerprint = f"embedding:{embedder.fingerprint}"

    def covered(self, rule: str, known: Sequence[str]) -> float:
        """The highest cosine similarity, from 0."""
        if not known:
            return 0.0
        vectors = self._embedder.embed([rule, *known])
        return float(np.clip((vectors[1:] @ vectors[0]).max(), 0, 1))
