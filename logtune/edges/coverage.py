"""How far rules are covered by what a model knew: the measures of the gap, behind one port.

EmbeddingCoverage      the most similar known rule, by cosine                      (default: needs no other model)
RerankerCoverage       p(yes) of a causal model, such as Qwen3-Reranker            (paper, section 3.3)
CrossEncoderCoverage   a model that reads rule and known rule side by side
LikelihoodCoverage     how much the rule in the prompt helps the model to say the better answer
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from logtune.edges.weights import base_model
from logtune.errors import ModelError
from logtune.ids import digest
from logtune.ports import Embedder, Example, Likelihood
from logtune.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = npt.NDArray[np.float32]

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


def scaled(value: float, scale: tuple[float, float]) -> float:
    """Linear from the first number of the scale (0) to the second (1), cut outside."""
    low, high = scale
    return min(1.0, max(0.0, (value - low) / max(high - low, 1e-6)))


def _means(similar: Floats) -> tuple[float, float]:
    """Mean of unrelated rules and of paraphrases; (n, n), row i column i are PARAPHRASES[i]."""
    unrelated = similar[~np.eye(len(similar), dtype=bool)]
    return float(unrelated.mean()), float(similar.diagonal().mean())


class EmbeddingCoverage:
    """Coverage by the most similar known rule.

    The cosine similarity is mapped so that the mean of unrelated rules is 0 and the mean of paraphrases is 1, linear
    between and cut outside. Both means are measured with the embedder itself on PARAPHRASES (for all-minilm-l6-v2:
    0.13 and 0.70), so that a gap threshold means the same with any embedder.
    """

    on_answers = False

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def fingerprint(self) -> str:
        """Method, calibration texts and embedder."""
        return f"embedding-{digest(PARAPHRASES, 6)}:{self._embedder.fingerprint}"

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Mean cosine similarity of unrelated rules and of paraphrases."""
        left, right = (self._embedder.embed([pair[side] for pair in PARAPHRASES]) for side in (0, 1))
        return _means(left @ right.T)

    def covered(self, rule: str, known: Sequence[str], example: Example | None = None) -> float:
        """0 no closer than unrelated rules are .. 1 as close as a paraphrase; 0 when `known` is empty."""
        if not known:
            return 0.0
        vectors = self._embedder.embed([rule, *known])
        return scaled(float((vectors[1:] @ vectors[0]).max()), self.scale)


# --- a causal model that says yes or no ---

JUDGE = 'The Instruct says what to decide about the Query and the Document. Say only "yes" or "no".'
TASK = "Does the Document, a list of rules, already ask for what the rule in the Query asks for?"
YesNo = Callable[[str, str], tuple[float, float]]  # system and user message -> logits of yes and of no


class RerankerCoverage:
    """Coverage as a causal yes/no reranker such as Qwen3-Reranker sees it: p(yes) as next token (paper, section 3.3).

    `model`: a folder, a hub id, a packaged model's name, or a function that gives the two logits.
    """

    on_answers = False

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

    def covered(self, rule: str, known: Sequence[str], example: Example | None = None) -> float:
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
    """The next token of a causal model, in its chat format where it has one."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True).eval()
        space = "" if self._tokenizer.chat_template else " "  # how a word begins after "Answer:"
        yes, no = (self._tokenizer(f"{space}{word}", add_special_tokens=False)["input_ids"] for word in ("yes", "no"))
        same = next((at for at, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), 0)
        self._begun = yes[:same]  # a space of its own, where the tokenizer has it so
        self._answers = yes[same], no[same]

    def __call__(self, system: str, user: str) -> tuple[float, float]:
        import torch

        with torch.inference_mode():
            tokens = torch.tensor([[*self._tokens(system, user), *self._begun]])
            last = self._model(tokens, logits_to_keep=1).logits[0, -1].float()
        return float(last[self._answers[0]]), float(last[self._answers[1]])

    def _tokens(self, system: str, user: str) -> list[int]:
        if not self._tokenizer.chat_template:
            return cast("list[int]", self._tokenizer(f"{system}\n\n{user}\n\nAnswer:")["input_ids"])
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return cast(
            "list[int]",
            self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, enable_thinking=False, return_dict=False
            ),
        )


# --- a model that reads two texts at once ---

Pairs = Callable[[Sequence[tuple[str, str]]], Sequence[float]]  # (rule, known rule)* -> score 0..1 each


class CrossEncoderCoverage:
    """Coverage by the known rule that a cross-encoder scores highest, mapped as in `EmbeddingCoverage`.

    `model`: a folder, a hub id, or a function. One output is a relevance, as rerankers have it; of several the one
    called entailment counts, of the known rule for the rule.
    """

    on_answers = False

    def __init__(self, model: str | Pairs) -> None:
        if isinstance(model, str):
            folder = base_model(model)
            self._score: Pairs = _PairModel(folder.path)
            self._name = folder.fingerprint
        else:
            self._score, self._name = model, "function"

    @property
    def fingerprint(self) -> str:
        """Method, calibration texts and model."""
        return f"cross-encoder-{digest(PARAPHRASES, 6)}:{self._name}"

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Mean score of unrelated rules and of paraphrases."""
        pairs = [(left, right) for left, _ in PARAPHRASES for _, right in PARAPHRASES]
        return _means(np.array(self._score(pairs), dtype=np.float32).reshape(len(PARAPHRASES), -1))

    def covered(self, rule: str, known: Sequence[str], example: Example | None = None) -> float:
        """0 as unrelated rules .. 1 as a paraphrase; 0 when `known` is empty."""
        if not known:
            return 0.0
        return scaled(max(self._score([(rule, other) for other in known])), self.scale)


PAIRS_AT_ONCE = 32


class _PairModel:
    """A sequence classifier over two texts."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto", use_safetensors=True)
        self._model = cast("PreTrainedModel", model).eval()
        names = {str(name).lower(): number for number, name in self._model.config.id2label.items()}
        self._wanted = None if self._model.config.num_labels == 1 else names.get("entailment")
        if self._model.config.num_labels > 1 and self._wanted is None:
            raise ModelError(
                f"{folder} has the labels {', '.join(sorted(names))}, and neither one output nor 'entailment'",
                "set gap.cross_encoder to a reranker or a model of natural language inference",
            )

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        # inference goes from what is known to the rule; a reranker reads the query first
        ordered = list(pairs) if self._wanted is None else [(known, rule) for rule, known in pairs]
        batches = (ordered[start : start + PAIRS_AT_ONCE] for start in range(0, len(ordered), PAIRS_AT_ONCE))
        return [score for batch in batches for score in self._batch(batch)]

    def _batch(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        import torch

        left, right = [first for first, _ in pairs], [second for _, second in pairs]
        inputs = self._tokenizer(left, right, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**inputs).logits.float()
        scores = logits[:, 0].sigmoid() if self._wanted is None else logits.softmax(-1)[:, self._wanted]
        return cast("list[float]", scores.tolist())


# --- the better answer's likelihood ---

Told = Callable[[Sequence[Message], Sequence[str]], tuple[Message, ...]]  # messages, rules -> messages with the rules
LEAST_NLL = 1e-3  # nats a token: an answer this likely needs no rule


class LikelihoodCoverage:
    """Coverage by what the served model would say: the share of the better answer's surprise that the rule leaves.

    The mean negative log-likelihood of the better answer with the rule in the prompt, divided by the one without: 1
    where the rule changes nothing, since the model knows it (or cannot use it), near 0 where it explains the answer.
    What was known beforehand needs no telling: the model itself is asked.
    """

    on_answers = True

    def __init__(self, likelihood: Likelihood, name: str, told: Told) -> None:
        self._likelihood = likelihood
        self._name = name
        self._told = told
        self._nll = cache(self._measured)

    @property
    def fingerprint(self) -> str:
        """Method, model, and how rules are put in a prompt."""
        wording = self._told((Message(role="user", content="q"),), ["r"])
        return f"log-probability-{digest([message.content for message in wording], 6)}:{self._name}"

    def covered(self, rule: str, known: Sequence[str], example: Example | None = None) -> float:
        """0 the rule makes the better answer certain .. 1 it makes it no likelier; ModelError without an example."""
        if example is None:
            raise ModelError("a rule cannot be measured by log-probability without a better answer")
        without = self._nll(example.prompt, example.better)
        if without < LEAST_NLL:
            return 1.0
        return min(1.0, max(0.0, self._nll(self._told(example.prompt, [rule]), example.better) / without))

    def _measured(self, prompt: tuple[Message, ...], better: str) -> float:
        return self._likelihood.nll([prompt], [better])[0]
