"""The administration over a real gateway's parts; its HTTP is tested with the process in test_serve.py."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from gateway_kit import gateway, post
from prometheus_client.parser import text_string_to_metric_families

from logtune.app.admin import Admin, Operated
from logtune.app.asgi import Event, Headers
from logtune.app.metrics import Metrics, Sample
from logtune.errors import ModelError
from logtune.records import Json
from logtune.testing import MemoryAdapterServer

TOKEN = "a-token-of-some-length"
BEARER = {"authorization": f"Bearer {TOKEN}"}
QUIET = Sample(
    under_way=0, connections=0, waiting=0, stored=0, dropped=0, rejected=0, spool_records=0, spool_bytes=0,
    store_up=True, ready=True, adapters=0, adapter_problems=0,
)  # fmt: skip


class Desk:
    """An administration with a gateway that is not there; counts its reloads."""

    def __init__(self, token: str = "", *, public: bool = False) -> None:
        self.reloads = 0
        self.ready = True
        operated = Operated(
            lanes=dict, readiness=lambda: (self.ready, {"status": "so"}), sample=lambda: QUIET, reload=self._reload,
            facts=lambda: {"workers": 2},
        )  # fmt: skip
        self.admin = Admin(operated, Metrics(), token, public=public)

    async def _reload(self) -> None:
        self.reloads += 1

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer."""
        sent: list[Event] = []

        async def receive() -> Event:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(event: Event) -> None:
            sent.append(event)

        pairs: Headers = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        await self.admin({"type": "http", "method": method, "path": path, "headers": pairs}, receive, send)
        head, body = sent
        found = {name.decode(): value.decode() for name, value in head["headers"]}  # type: ignore[attr-defined]
        return int(str(head["status"])), found, bytes(body["body"])  # type: ignore[call-overload]


READS = ("/metrics", "/readyz", "/admin/status")


@pytest.mark.parametrize("host", ["localhost:8091", "127.0.0.1", "[::1]:8091", "127.1.2.3:1", "LOCALHOST"])
async def test_reading_is_free_on_this_machine(host: str) -> None:
    for desk in (Desk(), Desk(TOKEN)):
        for path in (*READS, "/healthz"):
            assert (await desk.ask("GET", path, {"host": host}))[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""])
async def test_a_page_that_points_its_name_here_reads_nothing(host: str) -> None:
    for path in READS:
        assert (await Desk().ask("GET", path, {"host": host}))[0] == 403


async def test_changes_need_the_token() -> None:
    desk = Desk(TOKEN)
    for headers in ({}, {"authorization": TOKEN}, {"authorization": "Bearer "}, {"authorization": f"Bearer {TOKEN}x"}):
        status, told, body = await desk.ask("POST", "/admin/reload", headers)
        assert status == 401
        assert told["www-authenticate"].startswith("Bearer")
        assert json.loads(body)["error"]["type"] == "authentication_error"
    assert desk.reloads == 0
    assert (await desk.ask("POST", "/admin/reload", BEARER))[0] == 200
    assert desk.reloads == 1


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer "}, {"authorization": "Bearer guess"}])
async def test_without_a_token_nothing_is_changed(given: dict[str, str]) -> None:
    desk = Desk()
    status, _, body = await desk.ask("POST", "/admin/reload", given)
    assert (status, json.loads(body)["error"]["code"]) == (403, "no_admin_token")
    assert desk.reloads == 0


async def test_where_other_machines_reach_it_only_its_health_is_free() -> None:
    desk = Desk(TOKEN, public=True)
    assert (await desk.ask("GET", "/healthz"))[0] == 200
    for path in (*READS, "/nothing"):
        assert (await desk.ask("GET", path))[0] == 401
    for path in READS:
        assert (await desk.ask("GET", path, BEARER))[0] == 200


async def test_what_is_not_there_or_not_so() -> None:
    desk = Desk(TOKEN)
    assert (await desk.ask("GET", "/v1/models", BEARER))[0] == 404
    status, told, _ = await desk.ask("GET", "/admin/reload", BEARER)
    assert (status, told["allow"]) == (405, "POST")
    assert (await desk.ask("DELETE", "/admin/status", BEARER))[0] == 405
    desk.ready = False
    assert (await desk.ask("GET", "/readyz"))[0] == 503
    assert (await desk.ask("HEAD", "/healthz"))[0] == 200


async def test_the_page_is_what_prometheus_reads() -> None:
    status, told, page = await Desk().ask("GET", "/metrics")
    assert status == 200
    assert told["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(page.decode())}
    assert {"logtune_requests", "logtune_ready", "logtune_overhead_seconds", "logtune_build_info"} <= names
    _, told, page = await Desk().ask("GET", "/metrics", {"accept": "application/openmetrics-text; version=1.0.0"})
    assert told["content-type"].startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")


class Refusing(MemoryAdapterServer):
    async def load(self, name: str, path: str) -> None:
        raise ModelError(f"no room for {name}")


def test_the_state_tells_what_is_deployed_and_what_does_not_serve(tmp_path: Path) -> None:
    with gateway(tmp_path, deploy=[("cards", "where is my card")], server=Refusing()) as kit:
        post(kit.url, "/v1/chat/completions", b'{"messages": [{"role": "user", "content": "hello"}]}')
        kit.store.wait()
        facts: dict[str, Json] = {"workers": 1}
        operated = Operated(
            lanes=kit.gateway.lanes, readiness=kit.gateway.readiness, sample=lambda: QUIET, reload=kit.gateway.look,
            facts=lambda: facts,
        )  # fmt: skip
        state = Admin(operated, Metrics(), "", public=False)._state()
    default = state["projects"]["default"]  # type: ignore[index, call-overload]
    assert [arm["kind"] for arm in default["deployments"]["cards"]] == ["expert"]
    (adapter,) = default["adapters"].values()
    assert not adapter["serves"]
    assert "no room" in adapter["problem"]
    assert default["journal"]["dropped"] == 0
    assert state["workers"] == 1
    json.dumps(state)
