"""The paper's definitions on cases small enough to compute by hand (arXiv 2602.06470, sections 3 and 4)."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from logtune.config import TrainSettings, build
from logtune.ports import Example, TrainingJob, TrainingPair, Vectors
from logtune.records import Cluster, Message, Rule
from logtune.stages import cluster as clustering
from logtune.stages.evaluate import Case, compare, flaw, tally
from logtune.stages.gap import assess
from logtune.stages.train import run
from logtune.testing import tiny_model

UNO = build({"preset": "uno"})

# 1: features and clusters


def grouped(queries: Vectors, rules: Vectors) -> int:
    """How many clusters the paper's settings make."""
    names = [f"int-{number}" for number in range(len(queries))]
    return len(clustering.group(names, names, queries, rules, UNO.cluster, max_clusters=99))


@pytest.mark.parametrize(("size", "clusters"), [(15, 1), (17, 2)])
@pytest.mark.parametrize("differ", ["queries", "rules"])
def test_query_and_rules_weigh_the_same_in_the_joint_vector(size: int, clusters: int, differ: str) -> None:
    """v = [q ; r] / sqrt 2: unit vectors orthogonal in one half and equal in the other lie
    sqrt(2 - 2 (0 + 1) / 2) = 1 apart. Ward joins two groups of n at distance sqrt(2 n n / (n + n)) 1 = sqrt n, which is
    above 4 from n = 17 on.
    """
    apart = np.repeat(np.eye(2, 4, dtype=np.float32), size, axis=0)
    same = np.tile(np.eye(1, 4, dtype=np.float32), (2 * size, 1))
    halves = (apart, same) if differ == "queries" else (same, apart)
    assert grouped(*halves) == clusters


def test_centroids_are_of_the_queries_alone() -> None:
    """Two unit queries 90 degrees apart: their mean is at 45, the rules are not in it."""
    queries = np.eye(2, 3, dtype=np.float32)
    rules = np.tile(np.array([[0.0, 0.0, 1.0]], dtype=np.float32), (2, 1))
    (found,) = clustering.group(["a", "b"], ["a", "b"], queries, rules, UNO.cluster, max_clusters=99)
    assert found.centroids[0] == pytest.approx((math.sqrt(0.5), math.sqrt(0.5), 0.0))


# 2: the gate


def case(number: int, judged: float | None, baseline: str = "the first answer", candidate: str = "another one") -> Case:
    return Case(
        interaction_id=f"int-{number}", user="the same", prompt=(Message(role="user", content="q"),), reference=None,
        baseline_answer=baseline, candidate_answer=candidate, judged=judged,
    )  # fmt: skip


SETTINGS = UNO.evaluate.model_copy(update={"min_bleu": 0.0})


def cases(wins: int, ties: int, losses: int) -> list[Case]:
    return [case(n, judged) for n, judged in enumerate([1.0] * wins + [0.5] * ties + [0.0] * losses)]


def test_a_tie_is_half_a_win() -> None:
    """(4 + 3 / 2) / 10 = 0.55, each case counting, though one user asked them all."""
    found = tally(cases(4, 3, 3), SETTINGS)
    assert (found.wins, found.ties, found.losses, found.win_rate) == (4, 3, 3, 0.55)


@pytest.mark.parametrize(
    ("wins", "ties", "losses", "outcome"),
    [(53, 0, 47, "passed"), (52, 2, 46, "passed"), (52, 1, 47, "failed"), (0, 100, 0, "failed"), (1, 0, 0, "passed")],
)
def test_a_win_rate_of_053_passes(wins: int, ties: int, losses: int, outcome: str) -> None:
    found = compare(
        cases(wins, ties, losses), cluster_id="clu-1", candidate="expert", adapter_id="ada-1", baseline="base",
        settings=SETTINGS,
    )  # fmt: skip
    assert found.outcome == outcome
    assert found.win_rate == pytest.approx((wins + ties / 2) / (wins + ties + losses))


@pytest.mark.parametrize(("length", "lost"), [(9, "short"), (10, None), (1000, None)])
def test_an_answer_below_a_tenth_of_the_baselines_length_is_lost(length: int, lost: str | None) -> None:
    assert flaw(case(0, 1.0, "b" * 100, "c" * length), SETTINGS) == lost


@pytest.mark.parametrize(("words", "lost"), [(8, None), (9, "unlike")])
def test_an_answer_at_bleu_005_is_where_the_paper_cuts(words: int, lost: str | None) -> None:
    """One of n words is the baseline's, no pair of them: the precisions are 1/n, (1/2)/(n-1), (1/4)/(n-2) and
    (1/8)/(n-3) with the smoothing of `grading.bleu`; their geometric mean is 0.0552 for 8 words and 0.0477 for 9.
    """
    baseline = " ".join(["shared", *(f"b{n}" for n in range(words - 1))])
    candidate = " ".join(["shared", *(f"c{n}" for n in range(words - 1))])
    precisions = [1 / words, 1 / 2 / (words - 1), 1 / 4 / (words - 2), 1 / 8 / (words - 3)]
    assert (math.prod(precisions) ** 0.25 < 0.05) == (lost is not None)
    assert flaw(case(0, 1.0, baseline, candidate), UNO.evaluate) == lost


# 3: the gap


class Covered:
    """Coverage as a reranker would give it, by the rule's own words: "0.8" is covered to 0.8."""

    fingerprint, on_answers = "said", False

    def covered(self, rule: str, known: Sequence[str], example: Example | None = None) -> float:
        return float(rule)


def rule_of(covered: str) -> Rule:
    return Rule(
        id=f"rule-{covered}", text=covered, interaction_ids=(), signal_ids=(), from_feedback=True, covered=None,
        distinct_users=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("logs", "novelty", "route"),
    [
        # minimum over the rules of a log: 1 - 0.8 and 1 - 0.3; mean over the logs: (0.2 + 0.7) / 2
        ({"a": ["0.8", "0.1"], "b": ["0.3"]}, 0.45, "reflective"),
        ({"a": ["0.8", "0.1"], "b": ["0.31"]}, 0.445, "primary"),
        ({"a": ["0.0", "1.0"], "b": ["1.0"]}, 0.0, "primary"),  # one known rule and the log is known
    ],
)
def test_the_gap_is_the_least_of_a_log_and_the_mean_of_a_cluster(
    logs: dict[str, list[str]], novelty: float, route: str
) -> None:
    cluster = Cluster(id="clu-1", interaction_ids=tuple(logs), centroids=(), radius=0.0, label="")
    rules = {name: [rule_of(covered) for covered in found] for name, found in logs.items()}
    gap = assess(cluster, rules, {name: ["known"] for name in logs}, (), Covered(), UNO.gap)
    assert gap.novelty == pytest.approx(novelty)
    assert gap.route == route


# 4: the loss


PAIRS = tuple(
    TrainingPair(
        id=f"pair-{n}", prompt=(Message(role="user", content=f"where is parcel {n}"),), chosen="it is late",
        rejected="I do not know",
    )
    for n in range(8)
)  # fmt: skip


@pytest.mark.slow
def test_the_experts_loss_is_trls_dpo_and_sft_half_and_half(tmp_path: Path) -> None:
    """The first step knows no preference yet: 0.5 ln 2 + 0.5 NLL(chosen). The second, after an update, is TRL's too."""
    pytest.importorskip("trl", reason="training needs the extra 'train'")
    import torch

    base = tiny_model(tmp_path / "base")
    settings = TrainSettings.model_validate({"learning_rate": 0.02, "epochs": 2, "batch": 8})
    torch.manual_seed(0)
    adapters = run(
        TrainingJob(
            cluster_id="clu-1", name="parcels", kind="expert", base_path=str(base), base_fingerprint="tiny@1",
            pairs=PAIRS, out_dir=str(tmp_path / "out"), rank=2, settings=settings.model_dump(mode="json"),
        ),
        lambda line: None,
    )  # fmt: skip
    first, second = adapters[-1].losses
    assert first == pytest.approx(0.5 * math.log(2) + 0.5 * _nll(base), rel=1e-3)
    assert (first, second) == pytest.approx(_trl(base, tmp_path / "trl"), rel=1e-3)
    assert second < first


def _nll(base: Path) -> float:
    """Mean negative log-likelihood of the chosen answers' tokens with the turn's end, nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    total, count = 0.0, 0
    for pair in PAIRS:
        asked = [{"role": "user", "content": pair.prompt[0].content}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        said = [*asked, {"role": "assistant", "content": pair.chosen}]
        whole = tokenizer.apply_chat_template(said, return_dict=False)
        ids = torch.tensor([whole])
        with torch.no_grad():
            logs = torch.log_softmax(model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float(), -1)
        total -= float(logs.gather(1, ids[0, len(prompt) :, None]).sum())
        count += len(whole) - len(prompt)
    return total / count


def _trl(base: Path, out: Path) -> list[float]:
    """The losses of TRL's own trainer on the same pairs."""
    import warnings

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    rows = [
        {
            "prompt": [{"role": "user", "content": pair.prompt[0].content}],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in PAIRS
    ]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries warn of each other's defaults
        config = DPOConfig(
            output_dir=str(out), num_train_epochs=2, per_device_train_batch_size=8, learning_rate=0.02, warmup_steps=0,
            lr_scheduler_type="linear", max_grad_norm=1.0, adam_beta1=0.9, adam_beta2=0.98, weight_decay=0.0, beta=0.1,
            loss_type=["sigmoid", "sft"], loss_weights=[0.5, 0.5], logging_steps=1, save_strategy="no",
            report_to="none", disable_tqdm=True, seed=0, bf16=False, max_length=None, use_cpu=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), args=config,
            train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(base),
            peft_config=LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules="all-linear",
                                   task_type="CAUSAL_LM"),
        )  # fmt: skip
        trainer.train()
    return [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]
