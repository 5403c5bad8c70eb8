"""One real training of a tiny random model: weights move, the base's do not, the loss falls; and what is refused."""

import hashlib
import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from logtune.config import TrainSettings, build
from logtune.edges.executor import LocalExecutor
from logtune.errors import TrainingError
from logtune.ports import TrainingJob, TrainingPair
from logtune.records import Json, Message
from logtune.stages import train
from logtune.stages.train import LOADS, run, verify
from logtune.testing import tiny_model

if TYPE_CHECKING:
    import torch

CHECKS: dict[str, Json] = {
    "first_loss": 2.0, "last_loss": 0.5, "weight_norm": 3.0, "chosen_nll_before": 4.0, "chosen_nll_after": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("trl", reason="training needs the extra 'train'")
    return tiny_model(tmp_path_factory.mktemp("base"))


def pair(number: int) -> TrainingPair:
    prompt = (Message(role="system", content="Sort."), Message(role="user", content=f"where is parcel {number}"))
    return TrainingPair(id=f"pair-{number}", prompt=prompt, chosen="late", rejected="I do not know")


def job(base: Path, out: Path, kind: str = "expert", **settings: Json) -> TrainingJob:
    chosen = TrainSettings.model_validate({"learning_rate": 0.02, "epochs": 2, "batch": 4, **settings})
    return TrainingJob(
        cluster_id="clu-1", name="parcels", kind=kind, base_path=str(base), base_fingerprint="tiny@1",
        pairs=tuple(pair(n) for n in range(8)), out_dir=str(out), rank=2, settings=chosen.model_dump(mode="json"),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["expert", "critic"])
def test_training_moves_the_adapter_and_nothing_else(base: Path, tmp_path: Path, kind: str) -> None:
    before = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    lines: list[str] = []
    adapters = run(job(base, tmp_path, kind), lines.append)
    assert hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest() == before
    assert [adapter.epoch for adapter in adapters] == [1, 2]
    last = adapters[-1]
    assert last.losses[1] < last.losses[0]
    assert last.kind == kind
    assert float(str(last.checks["weight_norm"])) > 0
    assert float(str(last.checks["chosen_nll_after"])) < float(str(last.checks["chosen_nll_before"]))
    assert lines[-1].startswith("step 4 of 4")
    for adapter in adapters:
        folder = tmp_path / adapter.path
        files = {file.name for file in folder.iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json", "logtune.json", "README.md"} <= files
        assert not list(folder.glob("*.bin"))
        assert hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest() == adapter.sha256
        assert json.loads((folder / "logtune.json").read_text(encoding="utf-8"))["base"] == "tiny@1"
        assert adapter.path == f"parcels-{kind}@{adapter.sha256[:12]}"


@pytest.mark.slow
def test_the_same_job_gives_the_same_adapter(base: Path, tmp_path: Path) -> None:
    first = run(job(base, tmp_path / "a", epochs=1), lambda line: None)
    second = run(job(base, tmp_path / "b", epochs=1), lambda line: None)
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["expert", "critic"])
def test_the_chat_template_has_its_arguments_in_training_too(base: Path, tmp_path: Path, kind: str) -> None:
    thinking = Path(shutil.copytree(base, tmp_path / "base"))
    shape = thinking / "chat_template.jinja"
    end = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    shape.write_text(shape.read_text(encoding="utf-8") + end, encoding="utf-8")
    of = {}
    for name, template in (("thinks", {}), ("answers", {"enable_thinking": False})):
        train._KEPT.clear()
        (adapter,) = run(
            replace(job(thinking, tmp_path / name, kind, epochs=1), template=cast("dict[str, Json]", template)),
            lambda line: None,
        )
        of[name] = adapter
    for number in ("chosen_nll_before", "first_loss"):
        assert of["thinks"].checks[number] != of["answers"].checks[number], number


@pytest.mark.slow  # two processes on the CPU, which speak by gloo
@pytest.mark.parametrize("kind", ["expert", "critic"])
def test_two_processes_train_what_one_does(base: Path, tmp_path: Path, kind: str) -> None:
    made = {}
    for processes in (1, 2):
        executor = LocalExecutor("logtune.stages.train:run")
        asked = job(base, tmp_path / str(processes), kind, processes=processes)
        made[processes] = executor.train(asked, lambda line: None)
        again = executor.train(replace(asked, cluster_id="clu-2", seed=1), lambda line: None)
        executor.close()
        assert len(again) == 2  # the same processes take the next job
        assert not list((tmp_path / str(processes)).glob(".training-*"))
    one, two = made[1], made[2]
    assert [adapter.epoch for adapter in two] == [1, 2]
    for adapter, other in zip(one, two, strict=True):
        assert other.losses == pytest.approx(adapter.losses, rel=0.05)
        assert other.checks["chosen_nll_after"] == pytest.approx(adapter.checks["chosen_nll_after"], rel=0.1)
        assert (tmp_path / "2" / other.path / "adapter_model.safetensors").exists()


def checksum(model: "torch.nn.Module") -> str:
    found = hashlib.sha256()
    for name, weight in model.state_dict().items():
        found.update(name.encode() + weight.float().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.slow
def test_jobs_of_a_process_share_the_base_and_leave_it_as_it_was(base: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    train._KEPT.clear()
    expert, critic = job(base, tmp_path / "a", epochs=1), job(base, tmp_path / "b", "critic", epochs=1)
    first = [run(expert, lines.append), run(critic, lines.append), run(expert, lines.append)]
    assert lines.count(LOADS) == 1
    ((kept, _),) = train._KEPT.values()
    assert checksum(kept) == checksum(train._load(str(base))[0])
    assert not [name for name, _ in kept.named_modules() if "lora" in name]
    alone = []
    for one in (expert, critic):
        train._KEPT.clear()
        alone.append(run(one, lines.append))
    assert [*alone, alone[0]] == first


@pytest.mark.slow
def test_a_child_loads_the_base_once_for_all_its_jobs(base: Path, tmp_path: Path) -> None:
    executor, lines = LocalExecutor("logtune.stages.train:run"), list[str]()
    for number in range(3):
        executor.train(replace(job(base, tmp_path, epochs=1), cluster_id=f"clu-{number}", seed=number), lines.append)
    executor.close()
    assert lines.count(f"train: {LOADS}") == 1


@pytest.mark.slow
def test_a_killed_training_goes_on_after_its_last_epoch_to_the_same_adapters(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    executor, lines = LocalExecutor("training_children:killed_once_at_step_5"), list[str]()
    wanted = job(base, tmp_path / "killed", epochs=3, dropout=0.1, noising=0.5)
    Path(wanted.out_dir).mkdir()
    with pytest.raises(TrainingError, match="SIGKILL"):
        executor.train(wanted, lines.append)
    lines.clear()
    resumed = executor.train(wanted, lines.append)
    executor.close()
    assert "train: goes on after epoch 2, where an earlier run was stopped" in lines
    assert [line.split(",")[0] for line in lines if "step" in line] == ["train: step 5 of 6", "train: step 6 of 6"]
    whole = run(job(base, tmp_path / "whole", epochs=3, dropout=0.1, noising=0.5), lambda line: None)
    assert resumed == whole
    assert not [folder for folder in Path(wanted.out_dir).iterdir() if folder.name.startswith(".")]


@pytest.mark.slow
def test_words_of_requests_are_noised_where_the_settings_say(base: Path, tmp_path: Path) -> None:
    noised, plain = (run(job(base, tmp_path / str(s), epochs=1, noising=s), lambda line: None) for s in (0.9, 0.0))
    assert noised[-1].sha256 != plain[-1].sha256
    assert noised[-1].checks["chosen_nll_before"] == plain[-1].checks["chosen_nll_before"]  # asked as they are


@pytest.mark.slow
def test_pairs_over_the_limit_are_counted_not_cut(base: Path, tmp_path: Path) -> None:
    wanted = job(base, tmp_path, epochs=1, max_answer_tokens=40)
    long = replace(pair(99), chosen="late " * 40)
    lines: list[str] = []
    adapters = run(replace(wanted, pairs=(*wanted.pairs, long)), lines.append)
    told = (
        "1 of 9 pairs are over the token limits and are left out: the longest prompt has 23 tokens "
        "(train.max_prompt_tokens 1024), the longest answer 200 (train.max_answer_tokens 40)"
    )
    assert told in lines
    assert "pair-99" not in adapters[0].pair_ids


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # silenced in a run too
def test_settings_of_accelerate_and_deepspeed_reach_the_trainer(base: Path, tmp_path: Path) -> None:
    from trl.trainer.dpo_config import DPOConfig

    (tmp_path / "accelerate.json").write_text('{"split_batches": true, "even_batches": false}')
    settings = TrainSettings(accelerate=str(tmp_path / "accelerate.json"), deepspeed="zero3.json")
    arguments = train._arguments(tmp_path, settings, 0, 1)
    assert arguments["deepspeed"] == "zero3.json"
    made = DPOConfig(**{**arguments, "deepspeed": None})  # read where the package is installed
    assert made.accelerator_config.split_batches
    assert not made.accelerator_config.even_batches


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_they_can_stand_in_the_settings_themselves(base: Path, tmp_path: Path) -> None:
    from trl.trainer.dpo_config import DPOConfig

    text = """
        [train.accelerate]
        split_batches = true
        [train.deepspeed]
        train_micro_batch_size_per_gpu = "auto"
        zero_optimization = { stage = 3, offload_param = { device = "cpu" } }
    """
    config = build(tomllib.loads(text))
    settings = TrainSettings.model_validate(config.train.model_dump(mode="json"))  # as a training process gets them
    arguments = train._arguments(tmp_path, settings, 0, 1)
    assert arguments["deepspeed"]["zero_optimization"] == {"stage": 3, "offload_param": {"device": "cpu"}}
    assert DPOConfig(**{**arguments, "deepspeed": None}).accelerator_config.split_batches
    assert config.config_hash != build({}).config_hash


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, '{"no_such_setting": 1}', "no JSON"])
def test_settings_of_accelerate_that_cannot_be_used_are_refused(
    base: Path, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "accelerate.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TrainingError, match=r"train.accelerate or train.deepspeed is refused: .*"):
        run(job(base, tmp_path, accelerate=str(path)), lambda line: None)


@pytest.mark.slow
def test_too_few_pairs_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="3 pairs are left for clu-1, 8 are needed"):
        run(replace(job(base, tmp_path), pairs=tuple(pair(n) for n in range(3))), lambda line: None)


@pytest.mark.slow
def test_a_run_that_learns_nothing_fails_with_the_reason(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"did not fall|does not change"):
        run(job(base, tmp_path, learning_rate=1e-12), lambda line: None)
    assert not [folder for folder in tmp_path.iterdir() if not folder.name.startswith(".")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"last_loss": 2.0}, "the loss did not fall: 2.0000 in the first steps, 2.0000 at the end"),
        ({"weight_norm": 0.0}, "did not move"),
        ({"chosen_nll_after": 4.0}, "does not change"),
        ({"last_loss": float("nan")}, "did not fall"),
    ],
)
def test_each_sign_of_a_dead_run_is_seen(change: dict[str, Json], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        verify(CHECKS | change)


def test_a_good_run_passes() -> None:
    verify(CHECKS)
