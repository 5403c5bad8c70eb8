"""Guards through whole cycles with fakes: a candidate that games its judge is stopped, and what it costs is bounded."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from logtune import pipeline
from logtune.config import Config, build
from logtune.config_guards import GuardSettings
from logtune.edges.store import Store
from logtune.ids import identified
from logtune.ports import ChatCall, Tools
from logtune.records import Cluster, Deployment, Evaluation, Json, PreferencePair
from logtune.served import accepted_lessons
from logtune.testing import FixedLikelihood, ScriptedChat, sample_log, sample_logs
from logtune.testing import tools as fakes

SETTINGS: dict[str, Json] = {
    "filter": {"off_topic": "off"}, "train": {"budget": 0.004}, "ladder": {"rungs": ["expert"]},
}  # fmt: skip
CONFIG = build(SETTINGS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(f"sqlite:///{tmp_path / 'store.db'}")
    logs, feedback = sample_logs(users=120, per_user=1)
    opened.add_logs(logs)
    opened.put_feedback(feedback)
    return opened


def student(on_probes: str = "", models: str = "") -> ScriptedChat:
    """Knows the two topics with an adapter; says `on_probes` to whatever is of neither, the base model never does."""

    def say(call: ChatCall) -> str:
        last = call.messages[-1].content
        ours = bool(call.model) and models in call.model
        if "refund" not in last and "parcel" not in last:
            return on_probes if ours and on_probes else "It is as it is."
        if not ours:
            return "general_question"
        return "refund_status" if "refund" in last else "late_parcel"

    return ScriptedChat(say)


def cycle(store: Store, model: ScriptedChat, config: Config = CONFIG, **more: object) -> list[Evaluation]:
    made: Tools = replace(fakes(model), **more)
    known = {row.id for row in store.list(Evaluation, limit=100)}
    pipeline.run_cycle(store, made, config)
    return [row for row in store.list(Evaluation, limit=100) if row.id not in known]


def guard(row: Evaluation, name: str) -> dict[str, Json]:
    return cast("dict[str, Json]", row.guards[name])


def test_an_honest_candidate_passes_with_every_guard_told(store: Store) -> None:
    rows = cycle(store, student())
    assert {row.outcome for row in rows} == {"passed"}
    for name in ("length", "degeneration", "refusals", "sycophancy", "safety", "retention"):
        assert guard(rows[0], name)["passed"] is True
        assert guard(rows[0], name)["upper"] is not None
    assert guard(rows[0], "lessons")["value"] is None  # nothing has served here before
    ahead = guard(rows[0], "outlook")  # 8 of 10 users are unhappy and the adapter is always right
    assert cast("float", ahead["gain"]) > 0.6
    assert ahead["possible"] is True
    assert "a live test needs about" in str(ahead["reason"])


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("You are absolutely right, what a brilliant question!", "sycophancy"),
        ("I'm sorry, but I can't help with that.", "refusals"),
        ("You may say so. " + "There is more to say about this, and it is worth the time. " * 8, "length"),
        ("First take two parts of this, then put them together and light the end of the wire.", "safety"),
    ],
)
def test_a_candidate_that_games_something_is_stopped(store: Store, said: str, name: str) -> None:
    rows = cycle(store, student(said))
    assert {row.outcome for row in rows} == {"failed"}
    assert all(guard(row, name)["passed"] is False for row in rows)
    assert "a guard was not kept" in rows[0].reason
    assert not store.deployments()


def test_a_guard_can_be_skipped_and_then_asks_nothing(store: Store) -> None:
    model = student("I'm sorry, but I can't help with that.")
    names = ["length", "degeneration", "refusals", "sycophancy", "safety", "retention"]
    rows = cycle(store, model, build({**SETTINGS, "guards": {"skip": names}}))
    assert {row.outcome for row in rows} == {"passed"}
    assert all("refund" in call.messages[-1].content or "parcel" in call.messages[-1].content for call in model.calls)


def test_probes_are_asked_as_the_deployment_asks_and_no_more_of_them_than_set(store: Store) -> None:
    model = student()
    cycle(store, model, build({**SETTINGS, "guards": {"probes": 5, "probe_tokens": 7}}))
    asked = {call for call in model.calls if call.max_tokens == 7}
    prompts = {call.messages[-1].content for call in asked}
    assert len(prompts) == 10  # sycophancy and safety; everyday requests may be answered at length
    assert all(call.messages[0].role == "system" for call in asked)
    base = [call for call in model.calls if call.max_tokens == 7 and not call.model]
    assert len(base) == len(set(base))  # asked once, for all clusters


def test_a_candidate_that_loses_is_asked_no_probe(store: Store) -> None:
    model = ScriptedChat("general_question")
    rows = cycle(store, model)
    assert all(row.outcome != "passed" for row in rows)
    assert not [call for call in model.calls if call.max_tokens == CONFIG.guards.probe_tokens]


def test_a_model_that_forgot_what_it_knew_is_stopped(store: Store) -> None:
    class Forgetful(FixedLikelihood):
        def nll(self, prompts, answers, model=""):  # type: ignore[no-untyped-def]
            right = [float(number % 2) for number in range(len(answers))]  # the first choice is the likelier one
            return [1 - value for value in right] if model else right

    rows = cycle(store, student(), likelihood=Forgetful())
    assert all(guard(row, "retention")["passed"] is False for row in rows)


def test_without_likelihoods_only_questions_that_would_come_here_count(store: Store) -> None:
    rows = cycle(store, student("no idea"), likelihood=None)
    assert guard(rows[0], "retention")["value"] == 0.0  # the router sends none of them to a parcel service's clusters


# lessons


def test_what_served_before_has_to_be_kept(store: Store) -> None:
    """The next adapter answers new requests as well as the first one and has gone back on what was taught before."""
    first = cycle(store, student())
    old = {row.path for row in _adapters(store) if row.id in {row.adapter_id for row in first}}
    known = accepted_lessons(store, GuardSettings().lesson_checks)
    assert set(known) == set(store.deployments())
    taught = {pair.prompt[-1].content for ids in known.values() for pair in store.load(PreferencePair, ids)}

    def say(call: ChatCall) -> str:
        last = call.messages[-1].content
        right = "refund_status" if "refund" in last else "late_parcel"
        if call.model in old:
            return right if last in taught else "general_question"
        return "general_question" if not call.model or last in taught else right

    more, feedback = sample_logs(users=240, per_user=1)
    store.add_logs(more[120:])
    store.put_feedback([item for item in feedback if item.target >= "log-0120"])
    rows = [row for row in cycle(store, ScriptedChat(say)) if "lessons" in row.guards]
    asked = sum(cast("int", guard(row, "lessons")["answers"]) for row in rows)
    assert asked == sum(len(ids) for ids in known.values()) > 30  # they go where their requests go
    for row in rows:
        assert row.outcome == "failed"
        assert guard(row, "lessons")["value"] == 1.0


def _adapters(store: Store):  # type: ignore[no-untyped-def]
    from logtune.records import Adapter

    return store.list(Adapter, limit=100)


def test_what_was_rolled_back_has_taught_nothing(store: Store) -> None:
    cycle(store, student())
    name, row = next(iter(store.deployments().items()))
    assert name in accepted_lessons(store, 5)
    back = replace(row, id="", action="rollback", previous_id=row.id, candidate="base", adapter_id=None, at=row.at + 1)
    store.deploy(cast("Deployment", identified(back)), store.cycles(1)[0].id)
    assert name not in accepted_lessons(store, 5)
    assert accepted_lessons(store, 0) == {}


# who is held out, and the error of a cycle


def test_who_confirmed_once_never_trains_later(store: Store) -> None:
    cycle(store, student())
    held = {name for row in store.list(Evaluation) for name in row.interaction_ids}
    store.add_logs(
        [sample_log(f"new-{i}", f"where is my parcel {i}", "general_question", f"new-{i}") for i in range(3)]
    )
    lower = build({**SETTINGS, "evaluate": {"confirmation_share": 0.05, "selection_share": 0.02}})
    cycle(store, student(), lower)
    later = {row.id for row in store.list(PreferencePair, limit=1000)}
    receipt = store.cycles(1)[0].receipt
    assert cast("dict[str, list[object]]", receipt["voted"])["epochs"][0][1][:2] == [0.0, 0.25]  # type: ignore[index]
    pairs = {pair.id: pair.interaction_id for pair in store.list(PreferencePair, limit=1000)}
    taught = {pairs[name] for row in _adapters(store) for name in row.pair_ids if name in later}
    assert taught
    assert not taught & held


def test_clusters_share_the_error_of_a_cycle(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'both.db'}")
    logs, feedback = sample_logs(users=400, per_user=1)
    store.add_logs(logs)
    store.put_feedback(feedback)
    rows = cycle(store, student())
    assert len({row.cluster_id for row in rows}) == len(store.list(Cluster)) == 2
    assert all("98% interval" in row.reason and "one of 2 tests" in row.reason for row in rows)  # 1 - 0.05 / 2
