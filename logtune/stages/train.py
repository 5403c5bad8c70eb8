"""Cluster, PreferencePair*, Gap -> Adapter*: a LoRA adapter a checkpoint; the one stage that imports torch, PEFT, TRL.

Expert: DPO + SFT on (prompt, chosen, rejected), the paper's loss 0.5 sigmoid(beta 0.1) + 0.5 NLL(chosen), section 3.4.
Critic: SFT on (query and first answer -> numbered rules). A run whose loss did not fall, whose weights did not move or
whose output does not change is a TrainingError. Runs in a process of its own: `run` is told everything by its job.
"""

import copy
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from logtune.config import TrainSettings
from logtune.errors import TrainingError
from logtune.ids import digest
from logtune.ports import TrainingJob, TrainingPair
from logtune.records import Adapter, Json
from logtune.stages.amount import epochs_for, fitting
from logtune.stages.noising import noise
from logtune.stages.trained import describe
from logtune.stages.trained import verify as verify

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_trainer import SFTTrainer

PROBED_PAIRS = 8
RESUME = "resume.json"  # which checkpoint of a job under way is whole
LOADS = "loads the base model"  # told once for all jobs of a process


def run(job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
    """Train one adapter and return its checkpoints, one an epoch; raises TrainingError with the reason.

    A job that was killed goes on after its last whole epoch, to the same result. Of several processes that share a job,
    as their environment says, the first writes, and returns them.
    """
    try:
        adapters = _run(job, progress)
    except TrainingError:  # the same again would fail the same way
        _clear(work_folder(job))
        raise
    _clear(work_folder(job))
    return adapters


def _ranks() -> tuple[int, int]:
    """Which of how many processes this is."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _clear(work: Path) -> None:
    if _ranks()[0] == 0:
        shutil.rmtree(work, ignore_errors=True)


def _run(job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
    settings = TrainSettings.model_validate(dict(job.settings))
    model, tokenizer = _base(job, progress)
    fit = fitting(job.pairs, lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]), settings)
    if fit.too_long:
        progress(fit.told(settings))
    if len(fit.pairs) < settings.min_pairs:
        raise TrainingError(
            f"{len(fit.pairs)} pairs are left for {job.cluster_id}, {settings.min_pairs} are needed",
            "collect more feedback, raise train.max_prompt_tokens or lower train.min_pairs",
        )
    probed = _rows(fit.pairs[:PROBED_PAIRS], job.template)
    before = _answer_nll(model, tokenizer, probed)
    trainer, course = _fit(job, fit.pairs, settings, model, tokenizer, progress)
    tuned = cast("PeftModel", trainer.model)
    after = _answer_nll(cast("PreTrainedModel", tuned), tokenizer, probed)
    first, last = course.ends()
    checks: dict[str, Json] = {
        "pairs": len(fit.pairs), "too_long": fit.too_long, "first_loss": first, "last_loss": last,
        "weight_norm": _lora_b_norm(tuned), "chosen_nll_before": before, "chosen_nll_after": after,
        "went_on": job.times,
    }  # fmt: skip
    verify(checks)
    losses = course.of_epochs()
    if _ranks()[0]:
        return ()
    return tuple(
        describe(job, fit.pairs, folder, losses[:epoch], checks)
        for epoch, (folder, _) in enumerate(course.checkpoints, start=1)
    )


_KEPT: "dict[tuple[str, str], tuple[PreTrainedModel, PreTrainedTokenizerBase]]" = {}  # one base, for the next job


def preload(job: TrainingJob, progress: Callable[[str], None]) -> None:
    """Load the base model of a job, so that its training finds it in memory."""
    _base(job, progress)


def _base(job: TrainingJob, progress: Callable[[str], None]) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The base model in layers of its own over weights that all jobs of this process share, and its tokenizer.

    Training wraps layers and replaces methods, and never a weight of the base: they are frozen.
    """
    import torch

    key = job.base_path, job.base_fingerprint
    if key not in _KEPT:
        _KEPT.clear()
        progress(LOADS)
        _KEPT[key] = _load(job.base_path)
    model, tokenizer = _KEPT[key]
    weights = [*model.parameters(), *model.buffers()]
    fresh = copy.deepcopy(model, {id(weight): weight for weight in weights}).requires_grad_()
    torch.manual_seed(job.seed)
    return fresh, copy.deepcopy(tokenizer)


def _load(path: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = _dtype()
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype), AutoTokenizer.from_pretrained(path)


def _dtype() -> "torch.dtype":
    import torch

    native = torch.cuda.is_available() or any(
        getattr(torch.cpu, check, bool)() for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return torch.bfloat16 if native else torch.float32


@dataclass(slots=True)
class _Course:
    """What a run leaves behind: the loss of each step, and a checkpoint an epoch with the steps taken till then."""

    losses: list[float] = field(default_factory=list)
    checkpoints: list[tuple[Path, int]] = field(default_factory=list)

    def ends(self) -> tuple[float, float]:
        """Mean loss of the first and of the last fifth of the steps (at least one each)."""
        some = max(1, len(self.losses) // 5)
        return fmean(self.losses[:some]), fmean(self.losses[-some:])

    def of_epochs(self) -> tuple[float, ...]:
        """Mean loss of each epoch."""
        steps = [0, *(step for _, step in self.checkpoints)]
        return tuple(fmean(self.losses[start:end]) for start, end in pairwise(steps))


def _fit(
    job: TrainingJob,
    pairs: tuple[TrainingPair, ...],
    settings: TrainSettings,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    progress: Callable[[str], None],
) -> "tuple[DPOTrainer | SFTTrainer, _Course]":
    from datasets.utils.logging import disable_progress_bar
    from transformers.trainer_callback import PrinterCallback

    from logtune.stages.lean_lora import make_lean

    disable_progress_bar()
    work = work_folder(job)
    course, checkpoint = _resumed(work)
    if checkpoint:
        progress(f"goes on after epoch {len(course.checkpoints)}, where an earlier run was stopped")
    epochs, rows = epochs_for(len(pairs), settings), _rows(pairs, job.template)
    arguments, lora = _arguments(work, settings, job.seed, epochs), _lora(job.rank, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries warn of each other's defaults; ours are set below
        try:
            if job.kind == "expert":
                trainer: DPOTrainer | SFTTrainer = _expert(rows, model, tokenizer, arguments, lora, settings)
            else:
                trainer = _critic(rows, model, tokenizer, arguments, lora)
        except (ImportError, OSError, TypeError, ValueError) as error:
            if not (settings.accelerate or settings.deepspeed):
                raise
            raise TrainingError(
                f"train.accelerate or train.deepspeed is refused: {error}",
                "name a JSON file of settings that they know, and install what they need",
            ) from error
        make_lean(cast("PeftModel", trainer.model))
        if job.kind == "expert" and settings.noising:
            noise(trainer, pairs, tokenizer, settings.noising, job.seed)
        if job.start and not checkpoint:
            _go_on(cast("PeftModel", trainer.model), Path(job.out_dir) / job.start)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_recorder(course, work, progress))
        trainer.train(resume_from_checkpoint=checkpoint)
    return trainer, course


def _go_on(model: "PeftModel", folder: Path) -> None:
    """Put the weights of an earlier adapter in place of the fresh ones; the reference stays the base model."""
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(str(folder / "adapter_model.safetensors"))
        _, odd = cast("tuple[list[str], list[str]]", set_peft_model_state_dict(model, weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"the adapter to go on from cannot be read from {folder}: {error}", "set train.go_on = 0 to train anew"
        ) from error
    if odd:
        raise TrainingError(f"the adapter in {folder} is of another shape: {odd[0]}", "set train.go_on = 0")


def work_folder(job: TrainingJob) -> Path:
    """The folder of a job under way, found again by the same job."""
    settings: list[Json] = [dict(job.settings), job.rank, job.seed, job.base_fingerprint, job.start]
    settings += [dict(job.template)] if job.template else []
    return Path(job.out_dir) / f".training-{digest([job.cluster_id, job.kind, [p.id for p in job.pairs], settings])}"


def _resumed(work: Path) -> tuple[_Course, str | None]:
    """The course of a run that was stopped, and its last whole checkpoint; an empty folder where there is none."""
    note = work / RESUME
    if not note.exists():
        _clear(work)
        return _Course(), None
    kept = json.loads(note.read_text(encoding="utf-8"))
    folders = [(work / f"epoch-{number}", step) for number, step in enumerate(kept["steps"], start=1)]
    return _Course(losses=kept["losses"], checkpoints=folders), str(work / kept["checkpoint"])


def _recorder(course: _Course, work: Path, progress: Callable[[str], None]) -> "TrainerCallback":
    from transformers import TrainerCallback, TrainerControl, TrainerState

    class Recorder(TrainerCallback):
        """Notes the loss of each step and saves the adapter after each epoch."""

        def on_log(
            self, args: object, state: TrainerState, control: TrainerControl, **kwargs: dict[str, float]
        ) -> None:
            if "loss" in kwargs.get("logs", {}):
                course.losses.append(float(kwargs["logs"]["loss"]))
                progress(f"step {state.global_step} of {state.max_steps}, loss {course.losses[-1]:.3f}")

        def on_epoch_end(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
            folder = work / f"epoch-{len(course.checkpoints) + 1}"
            if state.is_world_process_zero:
                cast("PeftModel", kwargs["model"]).save_pretrained(str(folder), safe_serialization=True)
            course.checkpoints.append((folder, len(course.losses)))

        def on_save(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
            if not state.is_world_process_zero:
                return
            # the note comes last and at once, so what it names is whole whenever the process is killed
            steps = [step for _, step in course.checkpoints]
            note = {"checkpoint": f"checkpoint-{state.global_step}", "losses": course.losses, "steps": steps}
            fresh = work / f"{RESUME}.new"
            fresh.write_text(json.dumps(note), encoding="utf-8")
            fresh.replace(work / RESUME)

    return Recorder()


def _arguments(
    work: Path, settings: TrainSettings, seed: int, epochs: int
) -> dict[str, Any]:  # three libraries share it
    import torch

    each = math.ceil(settings.batch / _ranks()[1])
    return {
        "output_dir": str(work), "num_train_epochs": epochs, "per_device_train_batch_size": each,
        "learning_rate": settings.learning_rate, "lr_scheduler_type": settings.schedule, "warmup_steps": 0,
        "weight_decay": settings.weight_decay, "max_grad_norm": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.98,
        "save_strategy": "epoch", "save_total_limit": 2, "logging_steps": 1, "report_to": "none",
        "disable_tqdm": True, "seed": seed,
        "gradient_checkpointing": settings.gradient_checkpointing, "bf16": False, "max_length": None,
        "use_cpu": not torch.cuda.is_available(), "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False, "accelerator_config": settings.accelerate, "deepspeed": settings.deepspeed,
    }  # fmt: skip


def _lora(rank: int, settings: TrainSettings) -> "LoraConfig":
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=round(settings.alpha_over_rank * rank),
        lora_dropout=settings.dropout,
        target_modules="all-linear" if settings.target_modules == "all-linear" else ["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )


Row = dict[str, Any]  # messages by name, as the trainers want them


def _rows(pairs: Sequence[TrainingPair], template: Mapping[str, Json]) -> list[Row]:
    def assistant(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    more = {"chat_template_kwargs": dict(template)} if template else {}
    return [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
            "chosen": assistant(pair.chosen),
            "rejected": assistant(pair.rejected),
            **more,
        }
        for pair in pairs
    ]


def _dataset(rows: Sequence[Row]) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_list(list(rows))


def _expert(
    rows: Sequence[Row], model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase",
    arguments: dict[str, Any], lora: "LoraConfig", settings: TrainSettings,
) -> "DPOTrainer":  # fmt: skip
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from logtune.stages.shared_prompt import share_prompts

    config = DPOConfig(
        **arguments, beta=settings.beta, loss_type=["sigmoid", "sft"],
        loss_weights=[1 - settings.sft_weight, settings.sft_weight], precompute_ref_log_probs=True,
    )  # fmt: skip

    class SharedPromptTrainer(DPOTrainer):
        """TRL's trainer with its forward replaced as soon as TRL has put its own in place."""

        def _precompute_ref_logps(self, dataset: "Dataset", name: str, batch_size: int) -> "Dataset":
            base = cast("PreTrainedModel", cast("PeftModel", self.model).get_base_model())
            share_prompts(base, checkpointed=settings.gradient_checkpointing)
            if _ranks()[1] > 1:  # what the first writes all read, and temporary folders are each process's own
                shared = Path(str(self.args.output_dir))
                shared.mkdir(parents=True, exist_ok=True)
                vars(dataset)["_get_cache_file_path"] = lambda fingerprint: str(shared / f"{name}-{fingerprint}.arrow")
            return super()._precompute_ref_logps(dataset, name, batch_size)

    return SharedPromptTrainer(
        model=model, args=config, train_dataset=_dataset(rows), processing_class=tokenizer, peft_config=lora
    )


def _critic(
    rows: Sequence[Row], model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase",
    arguments: dict[str, Any], lora: "LoraConfig",
) -> "SFTTrainer":  # fmt: skip
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    lessons = [{"completion" if name == "chosen" else name: said for name, said in row.items()} for row in rows]
    for lesson in lessons:
        del lesson["rejected"]
    config = SFTConfig(**arguments, completion_only_loss=True)
    return SFTTrainer(
        model=model, args=config, train_dataset=_dataset(lessons), processing_class=tokenizer, peft_config=lora
    )


def _answer_nll(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Row]) -> float:
    """Mean negative log-likelihood of the chosen answers, nats a token."""
    import torch

    total, count = 0.0, 0
    model.eval()
    for row in rows:
        told = row.get("chat_template_kwargs", {})
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False, **told)
        answer = tokenizer(row["chosen"][0]["content"], add_special_tokens=False)["input_ids"]
        if not answer:
            continue
        with torch.no_grad():
            ids = torch.tensor([prompt + answer], device=model.device)
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        picked = torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])
        total, count = total - float(picked.sum()), count + len(answer)
    return total / max(1, count)


def _lora_b_norm(model: "PeftModel") -> float:
    return float(sum(p.detach().float().norm() ** 2 for name, p in model.named_parameters() if "lora_B" in name) ** 0.5)
