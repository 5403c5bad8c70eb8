"""The whole loop with fakes, in seconds: from log lines to a deployment, interrupted and not."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from logtune import pipeline, receipts
from logtune.config import Config, build
from logtune.edges.lease import Lease
from logtune.edges.store import Store, UnitResult
from logtune.errors import NOT_PASSED, OK, InUse, ModelError, TooManyFailures
from logtune.ports import ChatCall, Tools, TrainingJob
from logtune.records import (
    Adapter,
    Decision,
    Deployment,
    Evaluation,
    Feedback,
    Interaction,
    PreferencePair,
    Rule,
    Signal,
    Verdict,
)  # fmt: skip
from logtune.testing import (
    FakeExecutor,
    FixedClock,
    FixedLikelihood,
    MemoryAdapterServer,
    ScriptedChat,
    WordCoverage,
    WordEmbedder,
    sample_log,
    sample_logs,
)  # fmt: skip

CONFIG = build({"filter": {"off_topic": "off"}, "train": {"budget": 0.004}})


def answers_right(call: ChatCall) -> str:
    """An adapter that learned the sample's topics; the base model says something else."""
    if not call.model:
        return "general_question"
    return "refund_status" if re.search("refund", call.messages[-1].content) else "late_parcel"


def tools(student: ScriptedChat | None = None, executor: FakeExecutor | None = None) -> Tools:
    return Tools(
        embedder=WordEmbedder(), coverage=WordCoverage(), student=student or ScriptedChat(answers_right),
        likelihood=FixedLikelihood(), teacher=None, adapters=MemoryAdapterServer(), executor=executor or FakeExecutor(),
        clock=FixedClock(step=0.1), base_parameters=1_000_000, base_fingerprint="tiny@0", adapters_dir="adapters",
        lora_sizes={"all-linear": 1000},
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(f"sqlite:///{tmp_path / 'store.db'}")
    logs, feedback = sample_logs(users=120, per_user=1)
    opened.add_logs(logs)
    opened.put_feedback(feedback)
    return opened


def live(store: Store) -> list[tuple[str, str]]:
    return sorted((row.candidate, row.adapter_id or "") for row in store.deployments().values())


def test_logs_become_a_deployment(store: Store) -> None:
    made = tools()
    receipt = pipeline.run_cycle(store, made, CONFIG)
    assert receipt.exit_code == OK
    assert len(receipt.deployed) >= 1
    assert [kind for kind, _ in live(store)] == ["expert"] * len(receipt.deployed)
    for kind in (Interaction, Signal, Decision, Rule, PreferencePair, Adapter, Evaluation, Verdict, Deployment):
        assert store.count(kind) > 0, kind.__name__
    assert store.running_cycle() is None


def test_what_the_gate_tried_in_vain_is_unloaded_and_nothing_else(store: Store) -> None:
    made = tools()
    server = cast("MemoryAdapterServer", made.adapters)
    asyncio.run(server.load("somebody-elses", "x"))
    evaluate = CONFIG.evaluate.model_copy(update={"selection_share": 0.15})  # enough to choose among checkpoints
    pipeline.run_cycle(store, made, CONFIG.model_copy(update={"evaluate": evaluate}))
    live_paths = {adapter.path for adapter in store.load(Adapter, [name for _, name in live(store)])}
    assert set(server.loaded) == {*live_paths, "somebody-elses"}
    tried = {name for event, name in server.events if event == "load"}
    assert tried - set(server.loaded)


class DeafServer(MemoryAdapterServer):
    """Unloads nothing."""

    async def unload(self, name: str) -> None:
        raise ModelError(f"{name} stays")


def test_a_server_that_unloads_nothing_costs_the_cycle_nothing(store: Store) -> None:
    said: list[str] = []
    made = replace(tools(), adapters=DeafServer())
    assert pipeline.run_cycle(store, made, CONFIG, said.append).exit_code == OK
    assert any("stays loaded" in line for line in said)


def test_a_second_cycle_does_nothing_again(store: Store) -> None:
    executor = FakeExecutor()
    pipeline.run_cycle(store, tools(executor=executor), CONFIG)
    trained = len(executor.jobs)
    before = live(store)
    receipt = pipeline.run_cycle(store, tools(executor=executor), CONFIG)
    assert len(executor.jobs) == trained
    for stage in ("interactions", "signals", "filter", "distill", "pairs"):
        assert receipt.stages[stage]["done"] == 0, stage
    assert receipt.exit_code == OK
    assert "what served keeps serving" in receipt.summary
    assert live(store) == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


class DyingStore(Store):
    """Dies at a chosen write."""

    left = 10**9

    def commit_units(self, units: Sequence[UnitResult]) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed
        super().commit_units(units)

    def deploy(self, deployment: Deployment, cycle_id: str) -> None:
        super().deploy(deployment, cycle_id)
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.mark.parametrize("writes", [0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13])
def test_a_killed_cycle_ends_like_an_uninterrupted_one(store: Store, tmp_path: Path, writes: int) -> None:
    pipeline.run_cycle(store, tools(), CONFIG)
    dying = DyingStore(f"sqlite:///{tmp_path / 'dying.db'}")
    logs, feedback = sample_logs(users=120, per_user=1)
    dying.add_logs(logs)
    dying.put_feedback(feedback)
    dying.left = writes
    try:
        pipeline.run_cycle(dying, tools(), CONFIG)
    except Killed:
        dying.left = 10**9
        pipeline.run_cycle(dying, tools(), CONFIG)
    assert live(dying) == live(store)
    for kind in (Decision, Rule, PreferencePair, Adapter, Evaluation):
        assert {r.id for r in dying.list(kind, limit=10_000)} == {r.id for r in store.list(kind, limit=10_000)}


def test_an_empty_store_ends_with_a_plain_sentence(tmp_path: Path) -> None:
    receipt = pipeline.run_cycle(Store(f"sqlite:///{tmp_path / 's.db'}"), tools(), CONFIG)
    assert receipt.exit_code == OK
    assert "Nothing to learn from" in receipt.summary


@pytest.mark.parametrize("kept", [1, 2, 5])
def test_few_logs_decide_nothing(tmp_path: Path, kept: int) -> None:
    opened = Store(f"sqlite:///{tmp_path / 's.db'}")
    logs, feedback = sample_logs(users=120, per_user=1)
    opened.add_logs(logs[:kept])
    opened.put_feedback([f for f in feedback if f.target in {log.id for log in logs[:kept]}])
    receipt = pipeline.run_cycle(opened, tools(), CONFIG)
    assert receipt.exit_code in (OK, NOT_PASSED)
    assert not receipt.deployed
    assert receipt.summary


def test_logs_without_feedback_teach_nothing(tmp_path: Path) -> None:
    opened = Store(f"sqlite:///{tmp_path / 's.db'}")
    opened.add_logs(sample_logs(users=120, per_user=1)[0])
    receipt = pipeline.run_cycle(opened, tools(), CONFIG)
    assert receipt.exit_code == OK
    assert "nothing to train" in receipt.summary


def test_only_noise_teaches_nothing(tmp_path: Path) -> None:
    opened = Store(f"sqlite:///{tmp_path / 's.db'}")
    opened.add_logs([sample_log(f"n{i}", "x" * (i % 3), "what?", f"u{i}") for i in range(30)])
    opened.put_feedback(
        [Feedback(id=f"f{i}", target=f"n{i}", at=2e9, kind="edit", correction="late") for i in range(30)]
    )
    receipt = pipeline.run_cycle(opened, tools(), CONFIG)
    assert receipt.exit_code in (OK, NOT_PASSED)
    assert not receipt.deployed


def test_a_candidate_that_is_no_better_is_not_deployed(store: Store) -> None:
    receipt = pipeline.run_cycle(store, tools(student=ScriptedChat("general_question")), CONFIG)
    assert receipt.exit_code == NOT_PASSED
    assert not receipt.deployed
    assert live(store) == []


def test_training_that_fails_is_told_and_kept(store: Store) -> None:
    receipt = pipeline.run_cycle(store, tools(executor=FakeExecutor(error="the loss did not fall")), CONFIG)
    assert receipt.exit_code == NOT_PASSED
    assert "the loss did not fall" in receipt.summary
    assert store.count(Adapter) == 0


def test_a_cycle_gives_back_what_training_holds_however_it_ends(store: Store) -> None:
    class Closed(FakeExecutor):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    executor = Closed()
    pipeline.run_cycle(store, tools(executor=executor), CONFIG)
    assert (executor.closed, bool(executor.jobs)) == (1, True)
    broken = replace(tools(executor=executor), teacher=ScriptedChat("nonsense"))
    with pytest.raises(TooManyFailures):
        pipeline.run_cycle(store, broken, build({"filter": {"off_topic": "off"}, "distill": {"max_words": 39}}))
    assert executor.closed == 2


@pytest.mark.parametrize("ended", [False, True])
def test_a_process_that_stood_still_while_another_took_over_deploys_nothing(store: Store, ended: bool) -> None:
    now = [1000.0]
    slow, other = (Lease(store, "cycle", clock=lambda: now[0]) for _ in range(2))

    class Suspended(FakeExecutor):
        def train(self, job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
            now[0] += 1000
            other.take()
            if ended:
                other.release()
            return super().train(job, progress)

    assert slow.take()
    with pytest.raises(InUse, match="taken over"):
        pipeline.run_cycle(store, tools(executor=Suspended()), CONFIG, still=slow.check)
    assert not store.deployments()
    assert store.running_cycle() is not None


def test_the_end_of_a_cycle_is_checked_too(store: Store) -> None:
    def still() -> None:
        if store.deployments():
            raise InUse("taken over")

    with pytest.raises(InUse):
        pipeline.run_cycle(store, tools(), CONFIG, still=still)
    assert store.running_cycle() is not None


def test_a_teacher_that_answers_nonsense_stops_the_cycle(store: Store) -> None:
    made = tools()
    broken = Tools(**{name: getattr(made, name) for name in Tools.__slots__} | {"teacher": ScriptedChat("no json")})
    with pytest.raises(TooManyFailures, match="distill failed on"):
        pipeline.run_cycle(store, broken, CONFIG)


def test_a_dry_run_writes_nothing(store: Store) -> None:
    decided = pipeline.dry_run(store, tools(), CONFIG)
    assert len(decided) == store.count(Interaction) + len(decided)
    assert store.cycles() == []


def test_every_held_out_user_is_kept_out_of_training(store: Store) -> None:
    executor = FakeExecutor()
    pipeline.run_cycle(store, tools(executor=executor), CONFIG)
    used = {pair.id for job in executor.jobs for pair in job.pairs}
    interactions = {i.id: i for i in store.list(Interaction, limit=10_000)}
    learned = {interactions[p.interaction_id].user for p in store.list(PreferencePair, limit=10_000) if p.id in used}
    held = {interactions[i].user for e in store.list(Evaluation) for i in e.interaction_ids}
    assert learned
    assert held
    assert not learned & held


def test_an_answer_that_all_others_contradict_trains_nothing(store: Store) -> None:
    wrong = [sample_log(f"wrong-{i}", "where is my refund", "general_question", f"liar-{i}", 2e9 + i) for i in range(3)]
    store.add_logs(wrong)
    store.put_feedback(
        [Feedback(id=f"w{i}", target=f"wrong-{i}", at=2.1e9, kind="edit", correction=f"lie_{i}") for i in range(3)]
    )
    executor = FakeExecutor()
    pipeline.run_cycle(store, tools(executor=executor), CONFIG)
    made = {pair.chosen for pair in store.list(PreferencePair, limit=10_000)}
    trained = {pair.chosen for job in executor.jobs for pair in job.pairs}
    assert {"lie_0", "lie_1", "lie_2"} <= made
    assert trained
    assert not any(answer.startswith("lie_") for answer in trained)


def test_config_is_typed() -> None:
    assert isinstance(CONFIG, Config)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("too many pairs", "too many pairs"),
        ("no memory\n  lower train.batch", "no memory; lower train.batch"),
        (
            "it ended with code 1\n    Traceback:\n      File a.py\n    KeyError: 'x'\n  run it again",
            "it ended with code 1 (KeyError: 'x'); run it again",
        ),
    ],
)
def test_a_traceback_is_no_sentence_of_a_summary(reason: str, told: str) -> None:
    assert receipts._brief(reason) == told
