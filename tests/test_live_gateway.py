"""Live tests in a running gateway: what is drawn and recorded, guards, the kill switch, the shadow."""

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from gateway_kit import WAIT_S, Kit, ScriptedEngine, WatchedStore, post, serving
from live_kit import LATE, begin, settings

from logtune import experiments
from logtune.app import cli
from logtune.app.commands.serve import check_keys, store_or_none
from logtune.app.console import Console
from logtune.app.exchange import Exchange
from logtune.app.exchange import begin as begin_exchange
from logtune.app.gateway import create
from logtune.app.inquiry import QUESTIONS
from logtune.app.kill_switch import FILE, VARIABLE, KillSwitch
from logtune.app.live_guards import BURST, CHECK_S, Guarding
from logtune.app.shadowing import AT_ONCE
from logtune.app.table import Choice
from logtune.config import Config, build
from logtune.config_experiment import ExperimentSettings
from logtune.edges.experiments import Experiments
from logtune.edges.key_copy import FILE as COPY
from logtune.edges.keyring import Keyring
from logtune.edges.spool_files import SPOOL, waiting
from logtune.edges.store import Store
from logtune.edges.upstream import EmbeddedBackend
from logtune.errors import ConfigError, StoreError
from logtune.ports import ChatCall, StreamPiece
from logtune.records import SHADOW, Draw, Json, LogRecord, Verdict
from logtune.testing import MemoryAdapterServer, WordEmbedder

EVEN: dict[str, object] = {"ramp": [0.5], "ramp_users": []}


class Engine(ScriptedEngine):
    """With an adapter it fails as long as `broken`, and refuses as long as `refusing`; while it is `forgetful` it knows
    none, whatever is listed.
    """

    broken = False
    refusing = False
    forgetful = False

    async def names(self) -> list[str]:
        return [] if self.forgetful else await super().names()

    async def stream(self, call: ChatCall) -> AsyncIterator[StreamPiece]:
        if self.broken and call.model not in ("", "base"):
            raise StoreError("the adapter makes the model fall over")
        if self.refusing and call.model not in ("", "base"):
            yield StreamPiece(text="I'm sorry, but I can't help.", finish_reason="stop")
            return
        async for piece in super().stream(call):
            yield piece


@contextmanager
def live_gateway(folder: Path, config: Config) -> Iterator[tuple[Kit, Engine]]:
    """A gateway with a live test that has just come into force."""
    store, server = WatchedStore(f"sqlite:///{folder / 'logtune.db'}"), MemoryAdapterServer()
    engine = Engine(server)
    begin(store, config, time.time() - 60)
    app = create(store, EmbeddedBackend(engine), WordEmbedder(), server, config)
    with serving(app) as url:
        yield Kit(url, store, engine, server, app), engine
    store.close()


def ask(kit: Kit, user: str, model: str = "base") -> tuple[int, str, str]:
    """Status, answer and arm."""
    body = {"model": model, "user": user, "messages": [{"role": "user", "content": LATE}]}
    status, headers, raw = post(kit.url, "/v1/chat/completions", json.dumps(body).encode())
    said = json.loads(raw)
    text = said["choices"][0]["message"]["content"] if status == 200 else ""
    return status, text, headers.get("x-logtune-arm", "")


def until(holds: Callable[[], object], why: str) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, why
        time.sleep(0.02)


def test_users_stick_to_their_arm_and_every_record_says_how_it_was_drawn(tmp_path: Path) -> None:
    with live_gateway(tmp_path, settings(tmp_path, **EVEN)) as (kit, _):  # type: ignore[arg-type]
        seen = defaultdict(set)
        for number in range(60):
            seen[f"u{number % 20}"].add(ask(kit, f"u{number % 20}")[2])
        records = kit.store.wait(60)
    assert all(len(arms) == 1 for arms in seen.values())
    assert {"base", "candidate"} == set().union(*seen.values())
    for record in records:
        assert record.draw is not None
        assert (record.draw.unit, record.draw.propensity) == ("user", 0.5)
        assert (record.draw.lot < 0.5) == (record.arm == "candidate") == (record.adapter is not None)
    lots = defaultdict(set)
    for record in records:
        assert record.draw is not None
        lots[record.user].add(record.draw.lot)
    assert all(len(drawn) == 1 for drawn in lots.values())


def test_a_candidate_that_fails_is_gone_within_two_seconds(tmp_path: Path) -> None:
    with live_gateway(tmp_path, settings(tmp_path, **EVEN)) as (kit, engine):  # type: ignore[arg-type]
        for number in range(60):
            assert ask(kit, f"early-{number}")[0] == 200
        engine.broken = True
        asked, broke = 0, time.monotonic()
        while ask(kit, f"late-{asked}")[0] != 200 or not ended(kit):
            asked += 1
            assert time.monotonic() < broke + WAIT_S, "the guard did not end the test"
        statuses = {ask(kit, f"after-{number}")[0] for number in range(40)}
        until(lambda: not Experiments(kit.store).running(), "the store was not told")
        (_, steps) = Experiments(kit.store).of_cluster("late")[-1]
        (verdict,) = kit.store.load(Verdict, [str(steps[-1].verdict_id)])
    assert statuses == {200}
    assert (steps[-1].action, steps[-1].by, steps[-1].code) == ("rollback", "guard", "guard")
    assert "'errors' was broken" in steps[-1].reason
    told: dict[str, Json] = verdict.receipt["gateway"]  # type: ignore[assignment]
    assert told["guard"] == "errors"
    assert len(told) > 2
    assert verdict.receipt["seen"] > 60  # type: ignore[operator]


def test_a_candidate_that_refuses_is_gone_as_fast(tmp_path: Path) -> None:
    with live_gateway(tmp_path, settings(tmp_path, **EVEN)) as (kit, engine):  # type: ignore[arg-type]
        for number in range(60):
            assert "sorry" not in ask(kit, f"early-{number}")[1]
        engine.refusing = True
        asked, broke = 0, time.monotonic()
        while not ended(kit):
            assert ask(kit, f"late-{asked}")[0] == 200
            asked += 1
            assert time.monotonic() < broke + WAIT_S, "the guard did not end the test"
        assert not any("sorry" in ask(kit, f"after-{number}")[1] for number in range(40))
        until(lambda: not Experiments(kit.store).running(), "the store was not told")
        (_, steps) = Experiments(kit.store).of_cluster("late")[-1]
    assert (steps[-1].action, steps[-1].by) == ("rollback", "guard")
    assert "'refusals' was broken" in steps[-1].reason


def test_a_candidate_of_few_users_is_asked_unseen_after_a_bad_answer_and_is_gone(tmp_path: Path) -> None:
    few = settings(tmp_path, ramp=[0.05, 0.5], ramp_users=[80])
    with live_gateway(tmp_path, few) as (kit, engine):
        users = {ask(kit, f"early-{number}")[2]: f"early-{number}" for number in range(60)}
        lucky = users["candidate"]
        engine.broken = True
        failed = [ask(kit, lucky)[0]]
        asked, broke = 0, time.monotonic()
        while not ended(kit):
            assert ask(kit, users["base"])[0] == 200
            asked += 1
            assert time.monotonic() < broke + WAIT_S, "the guard did not end the test"
        assert ask(kit, lucky)[:1] == (200,)
        until(lambda: not Experiments(kit.store).running(), "the store was not told")
        (_, steps) = Experiments(kit.store).of_cluster("late")[-1]
        hidden = [log for log in kit.store.logs(shadow=True) if log.source == SHADOW]
    assert failed == [500]
    assert "'errors' was broken: of 10 answers asked unseen" in steps[-1].reason
    assert 8 <= len(hidden) <= QUESTIONS
    assert all(log.error for log in hidden)


def test_one_bad_answer_is_looked_into_and_ends_nothing(tmp_path: Path) -> None:
    few = settings(tmp_path, ramp=[0.05, 0.5], ramp_users=[80])
    with live_gateway(tmp_path, few) as (kit, engine):
        users = {ask(kit, f"early-{number}")[2]: f"early-{number}" for number in range(60)}
        engine.broken = True
        ask(kit, users["candidate"])
        engine.broken = False
        time.sleep(2 * CHECK_S)
        for _ in range(3 * QUESTIONS):
            ask(kit, users["base"])
        until(lambda: hidden(kit) == QUESTIONS, "the candidate was not asked")
        time.sleep(2 * CHECK_S)
        assert not ended(kit)
        assert hidden(kit) == QUESTIONS


def test_an_adapter_that_the_server_has_lost_is_no_bad_answer_of_the_candidate(tmp_path: Path) -> None:
    few = settings(tmp_path, ramp=[0.05, 0.5], ramp_users=[80])
    with live_gateway(tmp_path, few) as (kit, engine):
        users = {ask(kit, f"early-{number}")[2]: f"early-{number}" for number in range(60)}
        engine.broken = True
        assert ask(kit, users["candidate"])[0] == 500
        engine.broken, engine.forgetful = False, True
        lost = kit.gateway.lanes()["default"].router.adapters.events
        until(lambda: ask(kit, users["base"])[0] == 200 and lost["lost"], "the candidate was not asked")
        assert {ask(kit, users["base"])[0] for _ in range(2 * QUESTIONS)} == {200}
        time.sleep(2 * CHECK_S)
        assert not ended(kit)
        assert hidden(kit) == 0


def hidden(kit: Kit) -> int:
    return sum(log.source == SHADOW for log in kit.store.logs(shadow=True))


def ended(kit: Kit) -> bool:
    found = list(kit.gateway.lanes()["default"].router.table.arms.values())  # none once the table knows of the end
    return all(arms.trial is None or arms.trial.steps[-1].action == "rollback" for arms in found)


def test_both_arms_failing_alike_ends_nothing(tmp_path: Path) -> None:
    with live_gateway(tmp_path, settings(tmp_path, **EVEN)) as (kit, _):  # type: ignore[arg-type]
        for number in range(150):
            body = {"model": "base", "user": f"u{number}", "messages": [{"role": "user", "content": f"{LATE} FAIL"}]}
            post(kit.url, "/v1/chat/completions", json.dumps(body).encode())
        time.sleep(0.5)
        assert not ended(kit)


def test_a_guard_ends_a_test_while_the_store_is_down_and_tells_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = True

    def told(*arguments: object) -> None:
        if down:
            raise StoreError("the disk is full")
        original(*arguments)  # type: ignore[arg-type]

    original = experiments.break_guard
    monkeypatch.setattr("logtune.app.live_guards.break_guard", told)
    with live_gateway(tmp_path, settings(tmp_path, **EVEN)) as (kit, engine):  # type: ignore[arg-type]
        for number in range(40):
            ask(kit, f"early-{number}")
        engine.broken = True
        for number in range(60):
            ask(kit, f"late-{number}")
        until(lambda: ended(kit), "the guard did not end the test")
        assert ask(kit, "after")[0] == 200
        assert Experiments(kit.store).running()
        down = False
        until(lambda: not Experiments(kit.store).running(), "the store was not told")


async def test_a_store_that_hangs_does_not_hold_up_the_guards_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, ended_here = threading.Event(), []
    monkeypatch.setattr("logtune.app.live_guards.break_guard", lambda *_: hanging.wait(WAIT_S))
    router = SimpleNamespace(end_test=ended_here.append, table=SimpleNamespace(asked_again=lambda _: None))
    guards = Guarding(None, router, None, ExperimentSettings())  # type: ignore[arg-type]
    guards.start()
    try:
        for experiment in ("first", "second"):
            for number in range(2 * BURST):
                guards.note(exchange(experiment, number / (2 * BURST), failed=number < BURST))
            end = time.monotonic() + WAIT_S / 2
            while experiment not in ended_here:
                assert time.monotonic() < end, f"the {experiment} test was not ended"
                await asyncio.sleep(CHECK_S)
    finally:
        hanging.set()
        await guards.close()


def exchange(experiment: str, lot: float, *, failed: bool) -> Exchange:
    found = begin_exchange(b'{"messages": []}', {})
    draw = Draw(experiment=experiment, unit="user", lot=lot, propensity=0.5)
    found.choice = Choice(arm="candidate" if lot < 0.5 else "base", draw=draw)
    found.response = {"choices": [{"message": {"role": "assistant", "content": "It comes tomorrow."}}]}
    found.error = "the model server answered 500" if failed else None
    return found


def test_the_kill_switch_sends_all_to_the_base_with_the_store_down_and_back(tmp_path: Path) -> None:
    with live_gateway(tmp_path, settings(tmp_path, **EVEN)) as (kit, _):  # type: ignore[arg-type]
        user = next(f"u{number}" for number in range(50) if ask(kit, f"u{number}")[2] == "candidate")
        adapter = ask(kit, user)[1].partition(":")[0]
        kit.store.broken = True
        (tmp_path / FILE).touch()
        until(lambda: ask(kit, user)[1].startswith("base:"), "the kill switch did nothing")
        assert ask(kit, user, model=adapter)[1].startswith("base:")
        (tmp_path / FILE).unlink()
        until(lambda: ask(kit, user)[2] == "candidate", "the kill switch stayed on")


def test_the_kill_switch_outlives_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Path] = []

    def fails(file: Path) -> bool:
        tries.append(file)
        raise PermissionError(13, "Permission denied")

    switch = KillSwitch(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "exists", fails)
        switch.start()
        until(lambda: tmp_path / FILE in tries, "the file was not looked for")
    assert not switch.on()
    (tmp_path / FILE).touch()
    until(switch.on, "the kill switch did nothing")
    switch.close()


def test_the_kill_switch_in_the_environment_holds_from_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    with live_gateway(tmp_path, settings(tmp_path, **EVEN)) as (kit, _):  # type: ignore[arg-type]
        assert {ask(kit, f"u{number}")[1].partition(":")[0] for number in range(20)} == {"base"}
        assert kit.store.wait(20)[0].route_reason == "the kill switch is on"


def kept(folder: Path, keys: str) -> Config:
    url = f"sqlite:///{folder / 'logtune.db'}"
    return build({"store": {"home": str(folder), "url": url}, "serve": {"keys": keys, "poll_s": 0.02}})


def break_store(folder: Path) -> None:
    for file in folder.glob("logtune.db*"):
        file.unlink()
    (folder / "logtune.db").write_bytes(b"this is no database" * 100)


def switch(folder: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / FILE).touch() if by == "file" else monkeypatch.setenv(VARIABLE, "1")


@contextmanager
def answering(store: Store, config: Config) -> Iterator[Callable[[str], tuple[int, str]]]:
    """A gateway; ask with a key for status and answer."""
    backend = EmbeddedBackend(ScriptedEngine(server := MemoryAdapterServer()))
    with serving(create(store, backend, WordEmbedder(), server, config)) as url:

        def said(key: str) -> tuple[int, str]:
            body = json.dumps({"model": "base", "messages": [{"role": "user", "content": LATE}]}).encode()
            headers = {"authorization": f"Bearer {key}"} if key else {}
            status, _, raw = post(url, "/v1/chat/completions", body, **headers)
            return status, json.loads(raw)["choices"][0]["message"]["content"] if status == 200 else ""

        yield said
    store.close()


@pytest.mark.parametrize("by", ["file", "variable"])
def test_without_any_store_the_base_answers_and_records_wait_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    config = kept(tmp_path, "never")
    break_store(tmp_path)
    with pytest.raises(StoreError):
        store_or_none(config)
    switch(tmp_path, by, monkeypatch)
    with answering(store_or_none(config), config) as said:
        assert said("") == (200, f"base: {LATE}")
    assert waiting(tmp_path / SPOOL).records == 1
    with pytest.raises(StoreError, match="holds no copy of the keys"):
        store_or_none(kept(tmp_path, "auto"))


def test_without_any_store_those_may_ask_who_might_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, say = kept(tmp_path, "auto"), Console(as_json=False, config_file=None)
    with closing(Store(config.store.url)) as store:
        ring = Keyring(store)
        (_, shop), (_, acme), (lost, gone) = (ring.create(name, name) for name in ("default", "acme", "gone"))
    with answering(Store(config.store.url), config) as said:
        assert [said(key)[0] for key in ("", shop, acme, gone)] == [401, 200, 200, 200]
    command = ["--set", f"store.home={tmp_path}", "--set", f"store.url={config.store.url}"]
    assert cli.main(["keys", "revoke", lost.id, *command]) == 0
    break_store(tmp_path)
    (tmp_path / "projects" / "acme" / "logtune.db").write_bytes(b"this is no database" * 100)
    switch(tmp_path, "file", monkeypatch)
    assert check_keys(config, say) == "2 keys of 2 projects"
    assert "cannot be opened" in capsys.readouterr().err
    with answering(store_or_none(config), config) as said:
        assert [said(key) for key in (shop, acme)] == [(200, f"base: {LATE}")] * 2
        assert [said(key)[0] for key in ("", gone, "lt-0123")] == [401, 401, 401]
    copy = tmp_path / COPY
    assert copy.stat().st_mode & 0o777 == 0o600
    assert not any(key.split("-", 2)[2] in copy.read_text() for key in (shop, acme, gone))


def test_without_any_store_a_public_address_still_needs_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = kept(tmp_path, "auto")
    public = config.model_copy(update={"serve": config.serve.model_copy(update={"host": "0.0.0.0"})})
    say = Console(as_json=False, config_file=None)
    assert check_keys(config, say).startswith("none")  # and keeps a copy that says so
    break_store(tmp_path)
    switch(tmp_path, "variable", monkeypatch)
    assert check_keys(config, say) == "none: whoever reaches the port may ask"
    with pytest.raises(ConfigError, match="there is no key"):
        check_keys(public, say)
    (tmp_path / COPY).write_text("[{]")
    with pytest.raises(StoreError, match="holds no copy of the keys"):
        check_keys(config, say)


def test_a_shadow_answers_unseen_and_its_records_teach_nothing(tmp_path: Path) -> None:
    config = settings(tmp_path, mode="shadow")
    with live_gateway(tmp_path, config) as (kit, _):
        for number in range(3 * AT_ONCE):
            assert ask(kit, f"u{number}")[1].startswith("base:")
            time.sleep(0.02)
        until(lambda: kit.store.count(LogRecord) > 3 * AT_ONCE, "the shadow did not answer")
        time.sleep(0.2)
        hidden = [log for log in kit.store.logs(shadow=True) if log.source == SHADOW]
        assert hidden
        seen = {log.id: log for log in kit.store.logs()}
    for log in hidden:
        assert (log.user, log.arm) == (None, SHADOW)
        assert log.adapter is not None
        assert seen[log.traces[0]].adapter is None
    assert not {log.id for log in hidden} & set(seen)


def test_a_shadow_that_breaks_no_guard_is_promoted(tmp_path: Path) -> None:
    config = settings(tmp_path, mode="shadow", shadow_answers=20, shadow_per_minute=1000, slow_factor=1000)
    with live_gateway(tmp_path, config) as (kit, _):
        end = time.monotonic() + WAIT_S
        while kit.store.count(LogRecord) - len(list(kit.store.logs())) < 20:
            assert time.monotonic() < end
            ask(kit, f"u{time.monotonic()}")
        ((_, step),) = experiments.look(kit.store, config, time.time())
        assert (step.action, step.share) == ("promote", 0.95)
        until(lambda: ask(kit, f"u{time.monotonic()}")[2] == "candidate", "the gateway did not follow")


def test_a_shadow_that_fails_is_stopped(tmp_path: Path) -> None:
    config = settings(tmp_path, mode="shadow", shadow_answers=1000, shadow_per_minute=1000)
    with live_gateway(tmp_path, config) as (kit, engine):
        engine.broken = True
        end = time.monotonic() + WAIT_S
        while kit.store.count(LogRecord) - len(list(kit.store.logs())) < 25:
            assert time.monotonic() < end
            assert ask(kit, f"u{time.monotonic()}")[0] == 200
        ((_, step),) = experiments.look(kit.store, config, time.time())
        assert step.action == "stop"
        assert "errors 100.0% against 0.0%" in step.reason
