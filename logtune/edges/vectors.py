"""Texts to unit vectors, and how far rules are covered by others: what routing, filter, clusters and gap stand on."""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from logtune.edges.weights import ModelFolder, base_model
from logtune.errors import MissingExtra, ModelError
from logtune.ports import Embedder, Vectors
from logtune.records import digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REMEMBERED = 32_768  # texts whose vectors are kept: 50 MB at 384 dimensions


class LocalEmbedder:
    """A sentence-transformers model in this process: mean pooling over tokens, normalised; vectors are remembered."""

    def __init__(self, folder: ModelFolder, *, batch: int = 64) -> None:
        self.fingerprint = folder.fingerprint
        self._batch = batch
        self._max_tokens = _max_tokens(folder.path)
        self._model, self._tokenizer = _load(folder.path)
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
        """Batches of similar length, so that little is computed for padding."""
        import torch

        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            inputs = self._tokenizer(
                [texts[number] for number in part], padding=True, truncation=True, max_length=self._max_tokens,
                return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode():
                states = self._model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None].float()
            mean = (states * mask).sum(1) / mask.sum(1)
            rows[part] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return rows


class LateEmbedder:
    """An embedder that is made when the first text comes, or never: a gateway with nothing deployed needs none."""

    def __init__(self, make: Callable[[], Embedder]) -> None:
        self._make = make
        self._made: Embedder | None = None
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """As the embedder's; makes it."""
        return self._there().fingerprint

    def embed(self, texts: Sequence[str]) -> Vectors:
        """As the embedder; what making it raises comes at every call."""
        return self._there().embed(texts)

    def _there(self) -> Embedder:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


def _max_tokens(folder: Path) -> int:
    """As sentence-transformers reads it; ModelError for a folder that pools in another way."""
    pooling = _settings(folder / "1_Pooling" / "config.json")
    if not pooling.get("pooling_mode_mean_tokens", pooling.get("pooling_mode", "mean") == "mean"):
        raise ModelError(f"{folder} does not pool by the mean of its tokens", "use all-minilm-l6-v2 or one that does")
    length = _settings(folder / "sentence_bert_config.json").get("max_seq_length")
    return length if isinstance(length, int) else 512


def _settings(path: Path) -> dict[str, object]:
    return cast("dict[str, object]", json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _load(folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra("transformers", "local") from error
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(folder, dtype="float32", use_safetensors=True)
        return cast("PreTrainedModel", model).eval(), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the embedding model in {folder} cannot be loaded: {error}", "check embedder.model"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()


# Pairs of rules that say the same in other words; a rule and the next pair's have nothing to do with each other.
PARAPHRASES = (
    ("Answer with the topic of the message and nothing else.", "Reply only with the message's topic."),
    ("Give all prices in euros.", "State every amount of money in EUR."),
    ("Keep the answer under three sentences.", "Use at most two or three sentences."),
    ("Write the code in Python.", "The program must be in Python."),
    ("Do not apologise in the answer.", "Leave out any apology."),
    ("Name the train's platform and departure time.", "Say when the train leaves and from which platform."),
    ("Ask for the order number before promising a refund.", "Request the order's number before offering money back."),
    ("Use the user's first name in the greeting.", "Greet the user by first name."),
    ("Explain medical words in plain language.", "Put technical terms of medicine into simple words."),
    ("List the ingredients before the steps of a recipe.", "In recipes, put what is needed ahead of the instructions."),
    ("Translate the text into formal German.", "Give a German translation in a formal tone."),
    ("Cite the paragraph of the law you rely on.", "Mention which section of the statute supports the answer."),
)  # fmt: skip


class EmbeddingCoverage:
    """Coverage by the most similar known rule.

    The cosine similarity is mapped so that the mean of unrelated rules is 0 and the mean of paraphrases is 1, linear
    between and cut outside. Both means are measured with the embedder itself on PARAPHRASES (for all-minilm-l6-v2:
    0.13 and 0.70), so that a gap threshold means the same with any embedder.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def fingerprint(self) -> str:
        """Method, calibration texts and embedder."""
        return f"embedding-{digest(PARAPHRASES, 6)}:{self._embedder.fingerprint}"

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Mean cosine similarity of unrelated rules and of paraphrases."""
        left = self._embedder.embed([pair[0] for pair in PARAPHRASES])
        right = self._embedder.embed([pair[1] for pair in PARAPHRASES])
        similar = left @ right.T
        unrelated = similar[~np.eye(len(similar), dtype=bool)]
        return float(unrelated.mean()), float(similar.diagonal().mean())

    def covered(self, rule: str, known: Sequence[str]) -> float:
        """0 no closer than unrelated rules are .. 1 as close as a paraphrase; 0 when `known` is empty."""
        if not known:
            return 0.0
        vectors = self._embedder.embed([rule, *known])
        low, high = self.scale
        nearest = float((vectors[1:] @ vectors[0]).max())
        return min(1.0, max(0.0, (nearest - low) / max(high - low, 1e-6)))


JUDGE = 'The Instruct says what to decide about the Query and the Document. Say only "yes" or "no".'
TASK = "Does the Document, a list of rules, already ask for what the rule in the Query asks for?"
YesNo = Callable[[str, str], tuple[float, float]]  # system and user message -> logits of yes and of no


class RerankerCoverage:
    """Coverage as a causal yes/no reranker such as Qwen3-Reranker sees it: p(yes) as next token (paper, section 3.3).

    `model`: a folder, a hub id, or a function that gives the two logits.
    """

    def __init__(self, model: str | YesNo) -> None:
        if isinstance(model, str):
            folder = base_model(model)
            self._ask: YesNo = _YesNoModel(folder.path)
            self._name = folder.fingerprint
        else:
            self._ask, self._name = model, "function"

    @property
    def fingerprint(self) -> str:
        """Method, wording and model."""
        return f"reranker-{digest([JUDGE, TASK], 6)}:{self._name}"

    def covered(self, rule: str, known: Sequence[str]) -> float:
        """p(yes) that the known rules, together, cover the rule; 0 when there are none."""
        if not known:
            return 0.0
        rules = "\n".join(f"- {other}" for other in known)
        yes, no = self._ask(JUDGE, f"<Instruct>: {TASK}\n\n<Query>: {rule}\n\n<Document>: {rules}")
        return yes_share(yes, no)


def yes_share(yes: float, no: float) -> float:
    """Softmax over two logits, its first part."""
    return 1 / (1 + math.exp(min(max(no - yes, -700.0), 700.0)))


class _YesNoModel:
    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True).eval()
        self._answers = [self._tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no")]

    def __call__(self, system: str, user: str) -> tuple[float, float]:
        import torch

        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        tokens = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, enable_thinking=False, return_dict=False
        )
        with torch.inference_mode():
            last = self._model(torch.tensor([tokens]), logits_to_keep=1).logits[0, -1].float()
        return float(last[self._answers[0]]), float(last[self._answers[1]])
