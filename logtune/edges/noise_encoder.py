"""Texts -> log odds of noise by the packaged embedder, its upper layers changed so that they name noise.

The changes are two thin matrices a layer's weight, added to it once when the model is loaded; the embedder that makes
vectors is another copy and stays as it is. Of a long text the beginning and the end are read.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from logtune.edges.late import Late
from logtune.edges.vectors import load_embedder, of_like_length, padded
from logtune.edges.weights import ModelFolder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Floats = npt.NDArray[np.float32]

FIRST = 3  # layers below are the embedder's own
PARTS = ("asked", "attended", "inner", "outer")  # of a layer: query, key and value together; after attention; the rest
HEAD, TAIL = 64, 32  # tokens that are read of a text, with the marks of its beginning and end
MOST = 20_000  # characters that are split into tokens at all


@dataclass(frozen=True, slots=True)
class Tuning:
    """The shipped changes: weight of part p in layer l, plus up[l, p] . down[l, p]."""

    name: str
    embedder: str  # fingerprint of the only embedder that they change
    down: Mapping[tuple[int, str], Floats]  # (R, inputs)
    up: Mapping[tuple[int, str], Floats]  # (outputs, R)
    head: Floats  # (C, 2D): over the mean and the maximum of a text's tokens
    bias: Floats  # (C,)
    line: Floats  # (C,): log odds of both readings together from which on a class is named


class NoiseEncoder:
    """The tuned copy of the embedder in this process."""

    def __init__(self, folder: ModelFolder, tuning: Tuning, *, batch: int = 64, dtype: str = "auto") -> None:
        self._model, self._tokenizer = load_embedder(folder.path, dtype)
        self._tuning, self._batch = tuning, batch
        self._lock = threading.Lock()  # the tokenizer refuses a second thread
        for (layer, part), down in tuning.down.items():
            _add(self._model, layer, part, tuning.up[layer, part] @ down)

    def odds(self, texts: Sequence[str]) -> Floats:
        """(N, C) log odds by class."""
        import torch

        with self._lock:
            ids = token_ids(self._tokenizer, texts)
        found = np.zeros((len(texts), len(self._tuning.bias)), np.float32)
        for part in of_like_length([len(tokens) for tokens in ids], self._batch):
            given, mask = padded([ids[number] for number in part])
            with torch.inference_mode():
                states = self._model(input_ids=given, attention_mask=mask).last_hidden_state
                found[part] = pooled(states, mask).numpy() @ self._tuning.head.T + self._tuning.bias
        return found


class LateEncoder:
    """A tuned encoder that is made when the first text comes."""

    def __init__(self, make: Callable[[], NoiseEncoder]) -> None:
        self._encoder = Late(make)

    def odds(self, texts: Sequence[str]) -> Floats:
        """As the encoder's."""
        return self._encoder().odds(texts)


def token_ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Each text's tokens: all of a short one, the first and the last of a long one."""
    begin, end = cast("int", tokenizer.cls_token_id), cast("int", tokenizer.sep_token_id)
    if not texts:
        return []
    split = tokenizer([text[:MOST] for text in texts], add_special_tokens=False, truncation=False, verbose=False)
    return [
        [begin, *(ids if len(ids) <= HEAD + TAIL - 2 else [*ids[: HEAD - 1], *ids[-(TAIL - 1) :]]), end]
        for ids in cast("list[list[int]]", split["input_ids"])
    ]


def pooled(states: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """(N, 2D): mean and maximum of each text's tokens."""
    import torch

    states, seen = states.float(), mask[..., None].float()
    mean = (states * seen).sum(1) / seen.sum(1)
    return torch.cat([mean, states.masked_fill(seen == 0, -1e4).max(1).values], dim=1)


def weights_of(layer: Any, part: str) -> "list[torch.nn.Linear]":
    """The embedder's own weights that a part of a layer stands for."""
    attention = layer.attention
    return {
        "asked": [attention.self.query, attention.self.key, attention.self.value],
        "attended": [attention.output.dense], "inner": [layer.intermediate.dense], "outer": [layer.output.dense],
    }[part]  # fmt: skip


def _add(model: Any, layer: int, part: str, change: Floats) -> None:
    import torch

    weights = weights_of(model.encoder.layer[layer], part)
    with torch.no_grad():
        for linear, piece in zip(weights, np.split(change, len(weights)), strict=True):
            changed = linear.weight.float() + torch.from_numpy(np.ascontiguousarray(piece))
            linear.weight.copy_(changed.to(linear.weight.dtype))
