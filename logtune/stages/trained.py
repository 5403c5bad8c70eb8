"""What a training gave: whether it learned anything; a checkpoint -> Adapter, its folder under an immutable name."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from logtune.errors import TrainingError
from logtune.ids import identified
from logtune.ports import TrainingJob, TrainingPair
from logtune.records import Adapter, AdapterKind, Json

LEAST_OUTPUT_CHANGE = 1e-3  # nats a token on the training pairs; bf16 rounding alone stays below


def verify(checks: dict[str, Json]) -> None:
    """Refuse a run that learned nothing: every number is compared with what a real run cannot give."""
    first, last = cast("float", checks["first_loss"]), cast("float", checks["last_loss"])
    before, after = cast("float", checks["chosen_nll_before"]), cast("float", checks["chosen_nll_after"])
    hint = "look at the pairs (logtune pairs list), or change train.learning_rate or train.epochs"
    if not last < first and not checks.get("went_on"):  # what knows most of its pairs already may have little to gain
        raise TrainingError(f"the loss did not fall: {first:.4f} in the first steps, {last:.4f} at the end", hint)
    if not cast("float", checks["weight_norm"]) > 0:
        raise TrainingError("the adapter's weights did not move: every lora_B is still zero", hint)
    if abs(before - after) < LEAST_OUTPUT_CHANGE:
        raise TrainingError(f"the output does not change: {before:.4f} nats a token before and after", hint)


def describe(
    job: TrainingJob, pairs: Sequence[TrainingPair], folder: Path, losses: tuple[float, ...], checks: dict[str, Json]
) -> Adapter:
    """Move a checkpoint to its immutable name and describe it."""
    checksum = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    adapter = identified(
        Adapter(
            id="",
            cluster_id=job.cluster_id,
            pair_ids=tuple(dict.fromkeys((*(pair.id for pair in pairs), *job.learned))),
            kind=cast("AdapterKind", job.kind),
            base=job.base_fingerprint,
            rank=job.rank,
            parameters=_parameters(folder),
            path=f"{job.name or job.cluster_id}-{job.kind}@{checksum[:12]}",
            sha256=checksum,
            losses=losses,
            checks=checks,
            epoch=len(losses),
            previous_id=job.start_id or None,
        )
    )
    _card(folder, adapter)
    target = Path(job.out_dir) / adapter.path
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    return adapter


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(str(folder / "adapter_model.safetensors"), framework="np") as weights:
        return sum(int(_product(weights.get_slice(key).get_shape())) for key in weights.keys())  # noqa: SIM118


def _product(shape: Sequence[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _card(folder: Path, adapter: Adapter) -> None:
    """`logtune.json` says what base the adapter belongs to; README.md is its model card."""
    note = {name: getattr(adapter, name) for name in ("id", "base", "kind", "sha256", "epoch")}
    (folder / "logtune.json").write_text(json.dumps(note, indent=1), encoding="utf-8")
    lines = (
        "---", "base_model_relation: adapter", "library_name: peft", "pipeline_tag: text-generation",
        "tags: [lora, dpo, sft, trl]", "---", f"# {adapter.path}", "",
        f"A {adapter.kind} adapter of rank {adapter.rank} ({adapter.parameters} parameters), trained by logtune on",
        f"{len(adapter.pair_ids)} preference pairs from user logs, epoch {adapter.epoch}.",
        f"Base fingerprint: {adapter.base}. `logtune adapters show {adapter.id}` names its evidence.",
    )  # fmt: skip
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
