"""Real trainings of a tiny model: one that goes on with new pairs alone forgets, and the guard sees it."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from logtune.config import TrainSettings
from logtune.config_guards import GuardSettings
from logtune.ports import ChatCall, TrainingJob, TrainingPair
from logtune.records import Adapter, Message
from logtune.stages.gate_guards import Evidence, Guard, Lesson, checked
from logtune.stages.train import run
from logtune.testing import tiny_model

pytest.importorskip("trl", reason="training needs the extra 'train'")
pytest.importorskip("torch", reason="needs the extra 'local'")

from logtune.edges.local_model import LocalModel
from logtune.edges.weights import ModelFolder, base_model

pytestmark = pytest.mark.slow


def pairs(topic: str, answer: str) -> tuple[TrainingPair, ...]:
    return tuple(
        TrainingPair(
            id=f"{topic}-{n}", prompt=(Message(role="user", content=f"{topic} {n}?"),), chosen=answer, rejected="zzzz"
        )
        for n in range(20)
    )


OLD, NEW = pairs("parcel", "late"), pairs("refund", "paid")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return base_model(str(tiny_model(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture
def model(base: ModelFolder) -> Iterator[LocalModel]:
    made = LocalModel(base, dtype="float32", max_batch=32)
    yield made
    made.close()


def trained(base: ModelFolder, out: Path, learns: Sequence[TrainingPair], start: Adapter | None = None) -> Adapter:
    settings = TrainSettings(learning_rate=0.03, epochs=12, batch=8).model_dump(mode="json")
    job = TrainingJob(
        cluster_id="clu", name="all", kind="expert", base_path=str(base.path), base_fingerprint=base.fingerprint,
        pairs=tuple(learns), out_dir=str(out), rank=4, settings=settings,
    )  # fmt: skip
    if start is not None:
        job = replace(job, start=start.path, start_id=start.id, learned=start.pair_ids, times=1)
    return run(job, lambda line: None)[-1]


def answers(model: LocalModel, out: Path, adapter: Adapter) -> list[str]:
    async def ask() -> list[str]:
        await model.load(adapter.path, str(out / adapter.path))
        calls = (ChatCall(messages=pair.prompt, model=adapter.path, max_tokens=4) for pair in OLD)
        return [reply.text for reply in await asyncio.gather(*(model.complete(call) for call in calls))]

    return asyncio.run(ask())


def guard(ours: Sequence[str], theirs: Sequence[str]) -> Guard:
    lessons = [
        Lesson(chosen=pair.chosen, rejected=pair.rejected, ours=one, theirs=other)
        for pair, one, other in zip(OLD, ours, theirs, strict=True)
    ]
    return next(found for found in checked(Evidence(lessons=lessons), GuardSettings()) if found.name == "lessons")


def test_new_pairs_alone_make_it_forget_and_the_guard_stops_it(
    base: ModelFolder, model: LocalModel, tmp_path: Path
) -> None:  # fmt: skip
    first = trained(base, tmp_path, OLD)
    serves = answers(model, tmp_path, first)
    assert serves.count("late") >= 18
    forgetful = trained(base, tmp_path, NEW, start=first)
    found = guard(answers(model, tmp_path, forgetful), serves)
    assert not found.passed
    assert found.value is not None
    assert found.value > 0.5
    kept = trained(base, tmp_path, [*OLD, *NEW], start=first)
    assert kept.previous_id == first.id
    assert guard(answers(model, tmp_path, kept), serves).passed
