"""Two cycles with a real engine and real trainings of a tiny model: the second one goes on from the first."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from logtune import pipeline
from logtune.app.build import TRAINER
from logtune.config import build
from logtune.edges.executor import LocalExecutor
from logtune.edges.store import Store
from logtune.ports import Tools
from logtune.records import Adapter, Cluster, Evaluation, Feedback
from logtune.testing import ScriptedChat, sample_log, tiny_model, tools

pytest.importorskip("trl", reason="training needs the extra 'train'")
pytest.importorskip("torch", reason="needs the extra 'local'")

from logtune.edges.local_model import LocalModel
from logtune.edges.weights import base_model

pytestmark = pytest.mark.slow
RIGHT = {"where is the parcel {n}": "late", "my refund {n} please": "paid"}  # of four bytes, as long as answers may be
CONFIG = build({
    "filter": {"off_topic": "off"}, "ladder": {"rungs": ["expert"]}, "guards": {"skip": ["retention"], "probes": 8},
    "train": {"budget": 0.5, "max_rank": 4, "learning_rate": 0.03, "epochs": 12, "go_on": 0.5},
})  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Tools]:
    base = base_model(str(tiny_model(tmp_path / "base")))
    engine, executor = LocalModel(base, dtype="float32", max_batch=64), LocalExecutor(TRAINER)
    (tmp_path / "adapters").mkdir()
    yield replace(
        tools(ScriptedChat()), student=engine, likelihood=engine, adapters=engine, executor=executor,
        base_parameters=base.parameters, base_fingerprint=base.fingerprint, base_path=str(base.path),
        lora_sizes=engine.lora_sizes(), adapters_dir=str(tmp_path / "adapters"),
    )  # fmt: skip
    executor.close()
    engine.close()


def talk(store: Store, numbers: Sequence[int]) -> None:
    """Requests with a wrong answer, each corrected by its user."""
    for number in numbers:
        text, answer = list(RIGHT.items())[number % 2]
        log = sample_log(f"log-{number}", text.format(n=number), "zzzz", f"user-{number}", 1e9 + 3600 * number)
        store.add_logs([replace(log, request={**log.request, "max_tokens": 4})])
        edit = Feedback(id=f"fb-{number}", target=log.id, at=log.at + 60, kind="edit", correction=answer)
        store.put_feedback([edit])


def test_the_second_cycle_goes_on_from_what_the_first_one_deployed(made: Tools, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    talk(store, range(120))
    pipeline.run_cycle(store, made, CONFIG)
    first, names = {row.adapter_id for row in store.deployments().values()}, set(store.deployments())
    known = {row.id for row in store.list(Adapter, limit=100)}
    assert first
    assert None not in first
    talk(store, range(120, 150))
    pipeline.run_cycle(store, made, CONFIG)
    from_what = {row.previous_id for row in store.list(Adapter, limit=100) if row.id not in known}
    assert from_what & first
    assert from_what <= {*first, None}  # a cluster that nothing serves yet begins anew
    again = {row.id for row in store.list(Cluster, cycle_id=store.cycles(1)[0].id) if row.name in names}
    judged = [row for row in store.list(Evaluation, cycle_id=store.cycles(1)[0].id) if row.cluster_id in again]
    assert judged
    assert {row.baseline for row in judged} <= first  # nobody has to beat the base model once more
    for row in store.load(Adapter, sorted(str(name) for name in first)):
        assert (tmp_path / "adapters" / row.path / "adapter_model.safetensors").exists()
