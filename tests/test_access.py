"""Who may ask the gateway, for which project, and how much; two projects behind one gateway never meet."""

import asyncio
import base64
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from gateway_kit import WAIT_S, Kit, WatchedStore, deploy_expert, gateway, post, serving, upstream
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from logtune.app.access import CREDENTIALS, Access, Bucket, Caller, check_address, is_loopback, without_credentials
from logtune.app.asgi import Request
from logtune.config_gateway import ServeSettings
from logtune.edges.keyring import Key, Keyring, hash_of
from logtune.edges.store import Store
from logtune.edges.upstream import HttpBackend
from logtune.errors import ConfigError, RequestError
from logtune.records import Feedback, LogRecord

LATE = "where is my late parcel"
TEXT = "lt-0123456789ab-" + "s" * 43
WRONG = "lt-0123456789ab-" + "w" * 43


def key(text: str = TEXT, **fields: object) -> Key:
    made = {"id": text.split("-")[1], "name": "n", "project": "acme", "hash": hash_of(text), "created_at": 1.0}
    return Key(**{**made, **fields})


def access(*keys: Key, clock: object = None, **settings: object) -> Access:
    made = Access(ServeSettings(**settings), **({"clock": clock} if clock else {}))
    made.follow(keys)
    return made


def refused(made: Access, headers: Mapping[str, str]) -> RequestError:
    with pytest.raises(RequestError) as told:
        made.caller(headers)
    return told.value


# who


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"pk-lf-1:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("authorization", f"Bearer {TEXT}"),
        ("authorization", f"bearer  {TEXT} "),
        ("authorization", TEXT),
        ("authorization", basic(TEXT)),
        ("x-api-key", TEXT),
        ("x-portkey-api-key", TEXT),
        ("helicone-auth", f"Bearer {TEXT}"),
    ],
)
def test_a_key_is_read_where_the_usual_clients_put_it(header: str, value: str) -> None:
    assert access(key()).caller({header: value}) == Caller("acme", "0123456789ab", "n")


def test_a_provider_s_key_beside_ours_is_no_hindrance() -> None:
    assert access(key()).caller({"authorization": "Bearer sk-1", "helicone-auth": f"Bearer {TEXT}"}).project == "acme"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "a key is needed"),
        ({"authorization": ""}, "a key is needed"),
        ({"authorization": "Bearer sk-1"}, "no key of logtune"),
        ({"authorization": "Basic %%%"}, "no key of logtune"),
        ({"authorization": "Basic \u00ff"}, "no key of logtune"),
        ({"authorization": basic("")}, "no key of logtune"),
        ({"authorization": f"Bearer {WRONG}"}, "not known"),
        ({"authorization": f"Bearer {TEXT.replace('0123', '3210')}"}, "not known"),
        ({"authorization": f"Bearer {TEXT}x"}, "no key of logtune"),
    ],
)
def test_a_missing_or_wrong_key_is_refused(headers: dict[str, str], said: str) -> None:
    error = refused(access(key()), headers)
    assert said in error.what
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert error.headers["www-authenticate"].startswith("Bearer")
    assert TEXT not in error.what
    assert WRONG not in error.what


@given(st.dictionaries(st.sampled_from(CREDENTIALS), st.text(st.characters(max_codepoint=255), max_size=80)))
def test_whatever_the_headers_hold_nobody_without_a_key_comes_in(headers: dict[str, str]) -> None:
    assert refused(access(key()), headers).status == 401


def test_a_revoked_key_is_told_so_to_its_owner_alone() -> None:
    made = access(key(revoked_at=2.0))
    assert "was revoked" in refused(made, {"x-api-key": TEXT}).what
    assert "not known" in refused(made, {"x-api-key": WRONG}).what


def test_when_a_key_is_needed() -> None:
    everybody = Caller("default", "", "")
    assert access().caller({"authorization": "Bearer sk-1"}) == everybody
    assert access().caller({"x-api-key": TEXT}) == everybody  # no key of ours, so it may be the model server's
    assert access(keys="never").caller({}) == everybody
    assert access(key(), keys="never").caller({}) == everybody
    assert access(key(), keys="never").caller({"x-api-key": TEXT}).project == "acme"  # never into another's records
    assert refused(access(key(), keys="never"), {"x-api-key": WRONG}).status == 401
    assert refused(access(keys="always"), {}).status == 401
    assert refused(access(key(revoked_at=2.0)), {}).status == 401


def test_a_door_that_was_shut_stays_shut_when_the_table_is_lost() -> None:
    made = access(key())
    made.follow([])
    assert refused(made, {}).status == 401


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_nobody_comes_in_before_the_keys_are_known(mode: str) -> None:
    error = refused(Access(ServeSettings(keys=mode)), {"x-api-key": TEXT})
    assert (error.status, error.code) == (503, "keys_unavailable")


def test_projects_are_those_of_keys_that_still_hold() -> None:
    other = key("lt-111111111111-" + "s" * 43, project="other", revoked_at=2.0)
    assert access(key(), other).projects() == ["acme"]


def test_no_header_that_may_hold_a_key_goes_on() -> None:
    given_ = dict.fromkeys(CREDENTIALS, TEXT) | {"accept": "a"}
    assert without_credentials(given_) == {"accept": "a"}


# how much


def test_a_bucket_holds_a_minute_and_is_refilled_evenly() -> None:
    bucket = Bucket(60, 0.0)
    assert [bucket.take(0.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.headers(0.5)["x-ratelimit-reset-requests"] == "59.500s"
    assert bucket.take(1.0) == 0.0
    assert bucket.take(0.0) > 0  # a clock that stands still gives nothing
    assert bucket.headers(1e9) == {
        "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "60",
        "x-ratelimit-reset-requests": "0.000s",
    }  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_s_own_rate_wins_and_each_has_its_own() -> None:
    clock = Clock()
    own = key(rate_per_minute=1)
    free = key("lt-222222222222-" + "s" * 43, rate_per_minute=0)
    made = access(own, free, clock=clock, rate_per_minute=2)
    for caller, allowed in ((Caller(key_id=own.id), 1), (Caller(key_id=free.id), 50), (Caller(key_id="any"), 2)):
        for _ in range(allowed):
            with made.admitted(caller):
                pass
    with pytest.raises(RequestError) as told, made.admitted(Caller(key_id=own.id)):
        pass
    assert (told.value.status, told.value.code) == (429, "rate_limit_exceeded")
    assert told.value.headers["retry-after"] == "60"
    assert told.value.headers["x-ratelimit-remaining-requests"] == "0"
    clock.now = 60.0
    with made.admitted(Caller(key_id=own.id)) as headers:
        assert headers["x-ratelimit-limit-requests"] == "1"


def test_what_is_remembered_of_a_key_goes_with_it() -> None:
    made = access(key(), rate_per_minute=5)
    with made.admitted(Caller(key_id=key().id)):
        assert made.under_way == 1
    assert made.remembered == 1
    made.follow([])
    assert made.remembered == made.under_way == 0


def test_requests_under_way_are_limited_for_a_key_and_in_all() -> None:
    made = access(max_concurrent=3, max_concurrent_per_key=2)
    with ExitStack() as under_way:
        for name in ("a", "a"):
            under_way.enter_context(made.admitted(Caller(key_id=name)))
        with pytest.raises(RequestError) as told, made.admitted(Caller(key_id="a")):
            pass
        assert (told.value.status, told.value.code) == (429, "rate_limit_exceeded")
        under_way.enter_context(made.admitted(Caller(key_id="b")))
        with pytest.raises(RequestError) as told, made.admitted(Caller(key_id="b")):
            pass
        assert (told.value.status, told.value.code) == (503, "overloaded")
        assert told.value.headers["retry-after"]
    assert made.under_way == 0
    with made.admitted(Caller(key_id="a")):
        pass


def test_a_request_that_fails_gives_its_place_back() -> None:
    made = access(max_concurrent=1)
    for _ in range(3):
        with pytest.raises(KeyError), made.admitted(Caller()):
            raise KeyError
    assert made.under_way == 0


# where it may listen


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    assert check_address(ServeSettings(host=host), []) == ""


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0", "example.com", "", "127.0.0.1.example.com"]
)
def test_another_address_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="logtune keys create"):
        check_address(ServeSettings(host=host), [])
    assert check_address(ServeSettings(host=host), [key()]) == ""
    assert check_address(ServeSettings(host=host, keys="always"), []) == ""
    assert "whoever reaches" in check_address(ServeSettings(host=host, keys="never"), [key()])


# a real gateway


@dataclass
class Two:
    """A gateway with a project `acme`, which has an expert of its own, beside the default one, which has another."""

    kit: Kit
    main: str  # key of the default project
    acme: str
    home: Path

    def client(self, text: str) -> OpenAI:
        return OpenAI(base_url=self.kit.v1, api_key=text, max_retries=0, timeout=WAIT_S)

    @contextmanager
    def acme_store(self) -> Iterator[Store]:
        store = Store(f"sqlite:///{self.home / 'logtune.db'}")
        try:
            yield store
        finally:
            store.close()


@contextmanager
def two_projects(folder: Path, **more: object) -> Iterator[Two]:
    home = folder / "projects" / "acme"
    home.mkdir(parents=True)
    store = WatchedStore(f"sqlite:///{home / 'logtune.db'}")
    deploy_expert(store, "late_parcel", LATE, rank=4)
    store.close()
    main_store = Store(f"sqlite:///{folder / 'logtune.db'}")
    texts = [Keyring(main_store).create(name, name)[1] for name in ("default", "acme")]
    main_store.close()
    with gateway(folder, deploy=[("late_parcel", LATE)], **more) as kit:
        yield Two(kit, *texts, home)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    with two_projects(tmp_path) as running:
        yield running


def ask(api: OpenAI, text: str = LATE, model: str = "base") -> tuple[str, dict[str, str]]:
    with api:
        raw = api.chat.completions.with_raw_response.create(model=model, messages=[{"role": "user", "content": text}])
        return str(raw.parse().choices[0].message.content), dict(raw.headers)


def test_each_key_is_answered_from_its_own_project_and_logged_there(two: Two) -> None:
    main, said = ask(two.client(two.main))
    assert main == f"late_parcel-expert@2: {LATE}"
    acme, told = ask(two.client(two.acme))
    assert acme == f"late_parcel-expert@4@acme: {LATE}"
    assert [record.id for record in two.kit.logs()] == [said["x-logtune-interaction"]]
    with two.acme_store() as store:
        (record,) = store.logs()
        assert record.id == told["x-logtune-interaction"]
        assert record.adapter == told["x-logtune-adapter"] != said["x-logtune-adapter"]


def test_models_of_another_project_are_neither_listed_nor_answer(two: Two) -> None:
    with two.client(two.acme) as api:
        assert {row.id for row in api.models.list()} == {"base", "late_parcel-expert@4"}
        assert api.models.retrieve("late_parcel-expert@4").id == "late_parcel-expert@4"
        for name in ("late_parcel-expert@2", "late_parcel-expert@2@default", "late_parcel-expert@9@other"):
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                api.models.retrieve(name)
    with two.client(two.main) as api:
        assert {row.id for row in api.models.list()} == {"base", "late_parcel-expert@2"}
    for text, name in (
        (two.acme, "late_parcel-expert@2"), (two.main, "late_parcel-expert@4"), (two.main, "late_parcel-expert@4@acme"),
        (two.main, "nothing"), (two.acme, "nothing"),
    ):  # fmt: skip
        with pytest.raises(openai.NotFoundError) as told:
            ask(two.client(text), model=name)
        assert told.value.code == "model_not_found"
        others = {"late_parcel-expert@2", "late_parcel-expert@4"} - {name.removesuffix("@acme")}
        assert not any(other in told.value.message for other in others)
    assert ask(two.client(two.acme), model="late_parcel-expert@4")[0].startswith("late_parcel-expert@4@acme:")


def test_feedback_on_another_project_s_answer_is_as_for_an_unknown_id(two: Two) -> None:
    answer, _ = ask(two.client(two.main)), two.kit.store.wait()
    target = answer[1]["x-logtune-interaction"]

    def rate(text: str, named: str) -> tuple[int, dict[str, str]]:
        body = json.dumps({"target": named, "rating": "down"}).encode()
        status, _, said = post(two.kit.url, "/v1/feedback", body, authorization=f"Bearer {text}")
        return status, json.loads(said)

    own, others, nobodys = rate(two.main, target), rate(two.acme, target), rate(two.acme, target[:-4] + "0000")
    assert own[0] == 200
    assert others[0] == nobodys[0] == 202
    assert others[1]["note"].replace(target, "") == nobodys[1]["note"].replace(target[:-4] + "0000", "")
    assert two.kit.store.count(Feedback) == 1
    with two.acme_store() as store:
        assert store.count(Feedback) == 2
        assert store.count(LogRecord) == 0


def test_a_key_made_or_revoked_while_the_gateway_runs_counts(two: Two) -> None:
    ring = Keyring(two.kit.store)
    made, text = ring.create("late", "third")
    with two.client(text) as api:
        until(lambda: answers(api))
        assert {row.id for row in api.models.list()} == {"base"}
        ring.revoke(made.id)
        until(lambda: not answers(api))
        with pytest.raises(openai.AuthenticationError, match="revoked"):
            api.models.list()
    assert ask(two.client(two.acme))[0]


def answers(api: OpenAI) -> bool:
    try:
        api.models.list()
    except openai.AuthenticationError:
        return False
    return True


def until(holds: object, tries: int = 3000) -> None:
    """Ask again, each time over the network, until it holds."""
    assert any(holds() for _ in range(tries)), "the gateway did not follow"


def test_the_first_key_shuts_the_door_of_a_running_gateway(tmp_path: Path) -> None:
    with gateway(tmp_path) as kit, OpenAI(base_url=kit.v1, api_key="none", max_retries=0) as api:
        assert answers(api)
        Keyring(kit.store).create("first", "default")
        until(lambda: not answers(api))


def test_health_needs_no_key_and_names_nobody_s_models(two: Two) -> None:
    for path in ("/healthz", "/health", "/readyz"):
        status, _, body = post(two.kit.url, path, b"", "GET")
        assert status == 200
        assert b"late_parcel" not in body


def test_everything_else_needs_one(two: Two) -> None:
    for method, path in (
        ("POST", "/v1/chat/completions"), ("POST", "/v1/feedback"), ("GET", "/v1/models"), ("GET", "/v1/models/base"),
        ("HEAD", "/v1/models"),
    ):  # fmt: skip
        status, headers, body = post(two.kit.url, path, b"{}", method)
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert json.loads(body)["error"]["code"] == "invalid_api_key"
    assert not two.kit.logs()


def test_a_client_s_key_never_reaches_the_model_server(tmp_path: Path) -> None:
    server = upstream("big", "base")
    with serving(server) as url, two_projects(tmp_path, backend=HttpBackend(f"{url}/v1")) as two:
        for headers in (
            {"authorization": f"Bearer {two.main}"},
            {"authorization": "Bearer sk-theirs", "x-api-key": two.main},
            {"authorization": "Bearer sk-theirs", "helicone-auth": f"Bearer {two.main}"},
        ):
            body = json.dumps({"model": "big", "messages": [{"role": "user", "content": "hello"}]}).encode()
            status, _, _ = post(two.kit.url, "/v1/chat/completions", body, **headers)
            assert status == 200
        assert len(server.headers) == 3
        for seen in server.headers:
            assert not any(two.main in value or "sk-theirs" in value for value in seen.values())
        assert not any(two.main.encode() in body for body in server.bodies)
    assert not any(two.main.split("-", 2)[2].encode() in file.read_bytes() for file in tmp_path.glob("*.db*"))


def test_a_rate_is_told_and_kept_as_the_official_client_knows_it(tmp_path: Path) -> None:
    with two_projects(tmp_path, rate_per_minute=1) as two:
        _, headers = ask(two.client(two.main))
        assert headers["x-ratelimit-limit-requests"] == "1"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as told:
            ask(two.client(two.main))
        assert told.value.code == "rate_limit_exceeded"
        assert 1 <= int(told.value.response.headers["retry-after"]) <= 60
        assert told.value.response.headers["x-ratelimit-remaining-requests"] == "0"
        assert ask(two.client(two.acme))[0]  # another key's limit is its own
        assert post(two.kit.url, "/healthz", b"", "GET")[0] == 200


def test_a_stream_counts_as_under_way_until_it_ends(tmp_path: Path) -> None:
    with two_projects(tmp_path, max_concurrent_per_key=1) as two:
        parts = urlsplit(two.kit.url)
        hanging = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=WAIT_S)
        body = json.dumps({"stream": True, "messages": [{"role": "user", "content": "HANG on please"}]})
        hanging.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {two.main}"})
        assert hanging.getresponse().status == 200
        assert two.kit.engine.hanging.wait(WAIT_S)
        with two.client(two.main) as api, pytest.raises(openai.RateLimitError, match="under way"):
            api.models.list()
        with two.client(two.acme) as api:
            assert api.models.list()
        hanging.close()
        assert two.kit.engine.cancelled.wait(WAIT_S)
        with two.client(two.main) as api:
            until(lambda: free(api))


def free(api: OpenAI) -> bool:
    try:
        api.models.list()
    except openai.RateLimitError:
        return False
    return True


def test_too_many_in_all_are_told_to_come_back(tmp_path: Path) -> None:
    with two_projects(tmp_path, max_concurrent=1) as two:
        parts = urlsplit(two.kit.url)
        hanging = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=WAIT_S)
        body = json.dumps({"messages": [{"role": "user", "content": "HANG"}]})
        hanging.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {two.main}"})
        assert two.kit.engine.hanging.wait(WAIT_S)
        with two.client(two.acme) as api, pytest.raises(openai.InternalServerError) as told:
            api.models.list()
        assert (told.value.status_code, told.value.code) == (503, "overloaded")
        assert told.value.response.headers["retry-after"] == "1"
        hanging.close()


def test_a_project_whose_store_cannot_be_opened_fails_alone(tmp_path: Path) -> None:
    with two_projects(tmp_path) as two:
        (tmp_path / "projects" / "broken").write_text("a file where a folder should be")
        _, text = Keyring(two.kit.store).create("b", "broken")
        with two.client(text) as api:
            until(lambda: status_of(api) == 503)
        assert ask(two.client(two.acme))[0]
        (tmp_path / "projects" / "broken").unlink()
        with two.client(text) as api:
            assert status_of(api) == 200


def status_of(api: OpenAI) -> int:
    try:
        return api.models.with_raw_response.list().status_code
    except openai.APIStatusError as error:
        return error.status_code


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    with gateway(tmp_path, receive_timeout_s=0.05) as kit:
        parts = urlsplit(kit.url)
        with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=WAIT_S) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            answer = b"".join(iter(lambda: slow.recv(65536), b""))  # ends, for the connection is closed
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert json.loads(body)["error"]["code"] == "request_timeout"
        assert len(kit.logs()) == 0


async def test_a_body_that_comes_in_time_is_not() -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    assert await Request("POST", "/", {}, receive, receive_s=30.0).body(10) == b"{}"

    async def never() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(RequestError, match="had not arrived"):
        await Request("POST", "/", {}, never, receive_s=0.0).body(10)
