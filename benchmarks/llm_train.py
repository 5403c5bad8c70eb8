"""Training an expert: ours against TRL's DPOTrainer with its defaults, on the same pairs and to the same loss.

Both start with the base model in memory and end with trained weights. Ours has its checks and checkpoints in, which
TRL's run has not. Settings that decide what is learned (loss, learning rate, batch, epochs, LoRA, seed) are the same;
all else is TRL's default: bf16 autocast over float32 weights, gradient checkpointing, each answer with its own prompt.

The figure is in processor time, which other work on the machine moves little; with OMP_NUM_THREADS=1 and an idle core
it is wall clock too.
"""

import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from logtune.app.build import silent
from logtune.app.demo_sample import SYSTEM, load
from logtune.config import TrainSettings
from logtune.edges.weights import ModelFolder, base_model
from logtune.ports import TrainingJob, TrainingPair
from logtune.records import Json, Message
from logtune.stages import train

RANK = 4
EPOCHS = 2
LOSS = re.compile(r"step (\d+) of \d+, loss (\S+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training."""

    seconds: float
    cpu_seconds: float
    losses: tuple[float, ...]  # of each step

    @property
    def final(self) -> float:
        """Mean loss of the last fifth of the steps."""
        return fmean(self.losses[-max(1, len(self.losses) // 5) :])


class Watch:
    """Wall clock and processor time since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def run(self, losses: Sequence[float]) -> Run:
        """What ended now."""
        wall, cpu = self._started
        return Run(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu, losses=tuple(losses))


def pairs(count: int) -> list[TrainingPair]:
    """Messages of the shipped sample with their right desk, against the desk of the next message of another topic."""
    asked = [item for item in load() if item.topic]
    made = []
    for number, item in enumerate(asked[:count]):
        wrong = next(other.topic for other in [*asked[number:], *asked] if other.topic != item.topic)
        prompt = (Message(role="system", content=SYSTEM), Message(role="user", content=item.text))
        made.append(TrainingPair(id=item.id, prompt=prompt, chosen=item.topic or "", rejected=wrong or ""))
    return made


def speedup(count: int, folder: Path, data: Sequence[TrainingPair] | None = None) -> dict[str, Json]:
    """Tokens a second of both ways, and the losses they end with."""
    settings = TrainSettings.model_validate({"epochs": EPOCHS, "min_pairs": 2})
    chosen, base = list(data or pairs(count)), base_model("smollm2-135m-instruct")
    tokens = EPOCHS * _tokens(chosen, base)
    first, second = ours(chosen, base, settings, folder), theirs(chosen, base, settings, folder)
    return {
        "train_speedup": second.cpu_seconds / first.cpu_seconds,
        "train_speedup_wall": second.seconds / first.seconds,
        "train_loss_ratio": first.final / second.final,
        "train_tokens": tokens, "train_pairs": len(chosen), "train_epochs": EPOCHS,
        "train_tokens_per_cpu_s": tokens / first.cpu_seconds, "train_tokens_per_cpu_s_trl": tokens / second.cpu_seconds,
        "train_final_loss": first.final, "train_final_loss_trl": second.final,
        "train_seconds": first.seconds, "train_seconds_trl": second.seconds,
    }  # fmt: skip


def _tokens(chosen: Sequence[TrainingPair], base: ModelFolder) -> int:
    """Of both answers, each with its prompt, as TRL's trainer reads them in an epoch."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    count = 0
    for pair in chosen:
        prompt = [{"role": m.role, "content": m.content} for m in pair.prompt]
        for answer in (pair.chosen, pair.rejected):
            said = [*prompt, {"role": "assistant", "content": answer}]
            count += len(tokenizer.apply_chat_template(said, return_dict=False))
    return count


def ours(chosen: Sequence[TrainingPair], base: ModelFolder, settings: TrainSettings, folder: Path) -> Run:
    """The training stage as a cycle runs it, with the base model loaded before."""
    told: list[str] = []
    job = TrainingJob(
        cluster_id="clu-bench", name="bench", kind="expert", base_path=str(base.path), pairs=tuple(chosen), rank=RANK,
        base_fingerprint=base.fingerprint, out_dir=str(folder), settings=settings.model_dump(mode="json"),
    )  # fmt: skip
    train.preload(job, silent)
    watch = Watch()
    train.run(job, told.append)
    return watch.run([float(found[2]) for line in told if (found := LOSS.search(line))])


def theirs(chosen: Sequence[TrainingPair], base: ModelFolder, settings: TrainSettings, folder: Path) -> Run:
    """TRL's trainer, from the pairs to the trained weights."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_callback import PrinterCallback
    from trl.trainer.dpo_trainer import DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)  # TRL's default
    torch.manual_seed(0)
    watch = Watch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = DPOTrainer(
            model=model, args=_config(settings, folder / "trl"), train_dataset=Dataset.from_list(_rows(chosen)),
            processing_class=AutoTokenizer.from_pretrained(base.path), peft_config=_lora(settings),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return watch.run([float(row["loss"]) for row in trainer.state.log_history if "loss" in row])


def _config(settings: TrainSettings, out: Path) -> Any:
    from trl.trainer.dpo_config import DPOConfig

    return DPOConfig(
        output_dir=str(out), num_train_epochs=settings.epochs, per_device_train_batch_size=settings.batch,
        learning_rate=settings.learning_rate, lr_scheduler_type=settings.schedule, warmup_steps=0, max_grad_norm=1.0,
        adam_beta1=0.9, adam_beta2=0.98, weight_decay=settings.weight_decay, beta=settings.beta, seed=0,
        loss_type=["sigmoid", "sft"], loss_weights=[1 - settings.sft_weight, settings.sft_weight], logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip


def _lora(settings: TrainSettings) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=RANK, lora_alpha=round(settings.alpha_over_rank * RANK), lora_dropout=settings.dropout,
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip


def _rows(chosen: Sequence[TrainingPair]) -> list[dict[str, list[dict[str, str]]]]:
    return [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in chosen
    ]
