"""Pages of other origins: preflights, what a page may read, and a real browser's fetch."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_kit import Kit, gateway, post, serving

from logtune.app.asgi import Receive, Request, Scope, Send, respond

PAGE = "https://app.example.com"
CHAT = {"model": "base", "messages": [{"role": "user", "content": "one two"}]}
WANTED = "authorization, content-type, x-stainless-os, x-stainless-retry-count, traceparent"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with gateway(tmp_path_factory.mktemp("cors"), cors_origins=(PAGE, "http://localhost:3000/")) as running:
        yield running


def preflight(kit: Kit, origin: str, path: str = "/v1/chat/completions") -> tuple[int, dict[str, str]]:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": WANTED}
    return post(kit.url, path, b"", "OPTIONS", origin=origin, **asked)[:2]


def cors(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control")}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback", "/v1/models", "/compat/tensorzero/feedback"])
def test_a_preflight_allows_the_headers_that_clients_send(kit: Kit, path: str) -> None:
    status, headers = preflight(kit, PAGE, path)
    assert status == 204
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["access-control-allow-headers"] == WANTED
    assert "POST" in headers["access-control-allow-methods"]
    assert int(headers["access-control-max-age"]) > 0
    assert headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in headers


def test_an_origin_is_compared_without_case_and_final_slash(kit: Kit) -> None:
    assert preflight(kit, "http://LOCALHOST:3000")[1]["access-control-allow-origin"] == "http://LOCALHOST:3000"


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "https://app.example.com.evil.com"])
def test_another_origin_is_allowed_nothing(kit: Kit, origin: str) -> None:
    assert cors(preflight(kit, origin)[1]) == {}
    status, headers, _ = post(kit.url, "/v1/chat/completions", json.dumps(CHAT).encode(), origin=origin)
    assert (status, cors(headers), headers["vary"]) == (200, {}, "Origin")


@pytest.mark.parametrize("stream", [False, True])
def test_a_page_may_read_an_answer_and_its_headers(kit: Kit, stream: bool) -> None:
    body = json.dumps({**CHAT, "stream": stream}).encode()
    status, headers, _ = post(kit.url, "/v1/chat/completions", body, origin=PAGE)
    assert (status, headers["access-control-allow-origin"]) == (200, PAGE)
    exposed = headers["access-control-expose-headers"]
    assert all(name in exposed for name in headers if name.startswith("x-logtune-"))


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", b"{"), ("/nowhere", b"{}"), ("/v1/models", b"")])
def test_a_page_may_read_errors_too(kit: Kit, path: str, body: bytes) -> None:
    status, headers, _ = post(kit.url, path, body, origin=PAGE)
    assert status >= 400
    assert headers["access-control-allow-origin"] == PAGE


def test_a_star_lets_every_page_and_none_lets_nobody(tmp_path: Path) -> None:
    with gateway(tmp_path, cors_origins=("*",)) as kit:
        status, headers = preflight(kit, "https://anywhere.example")
        assert (status, headers["access-control-allow-origin"]) == (204, "*")
        assert "vary" not in headers
    with gateway(tmp_path) as kit:
        status, headers = preflight(kit, PAGE)
        assert (status, headers["allow"], cors(headers)) == (204, "POST, OPTIONS", {})
        assert cors(post(kit.url, "/v1/models", b"", "GET", origin=PAGE)[1]) == {}


def test_a_request_of_no_page_is_as_ever(kit: Kit) -> None:
    assert cors(post(kit.url, "/v1/models", b"", "GET")[1]) == {}


# a real browser


SCRIPT = """
const asked = {method: "POST", headers: {"content-type": "application/json", "authorization": "Bearer none",
               "x-stainless-lang": "js"}};
const body = stream => JSON.stringify({model: "base", stream, messages: [{role: "user", content: "one two"}]});
async function whole(url) {
  const answer = await fetch(url + "/v1/chat/completions", {...asked, body: body(false)});
  return [(await answer.json()).choices[0].message.content, answer.headers.get("x-logtune-interaction")];
}
async function streamed(url) {
  const answer = await fetch(url + "/v1/chat/completions", {...asked, body: body(true)});
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part; !(part = await reader.read()).done;) text += part.value;
  const lines = text.split("\\n\\n").filter(line => line.startsWith("data: {"));
  return lines.map(line => JSON.parse(line.slice(6)).choices[0].delta.content || "").join("");
}
async function rated(url, id) {
  const said = JSON.stringify({response_id: id, rating: "up"});
  return (await fetch(url + "/v1/feedback", {...asked, body: said})).status;
}
async function refused(url) {
  try { await fetch(url + "/v1/models"); return "read"; } catch (error) { return error.name; }
}
(async () => {
  const [text, id] = await whole(OPEN);
  const found = {text, id, stream: await streamed(OPEN), rated: await rated(OPEN, id), closed: await refused(CLOSED)};
  document.body.textContent = JSON.stringify(found);
})().catch(error => { document.body.textContent = "failed: " + error; });
"""


class Page:
    """A page of another origin; its script may call one gateway and not another."""

    script = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("no lifespan here")
        found = Request.of(scope, receive).path == "/"
        html = f"<!doctype html><body>waiting</body><script>{self.script}</script>" if found else ""
        await respond(send, 200 if found else 404, html.encode(), "text/html")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.slow
def test_fetch_of_a_real_browser(tmp_path: Path) -> None:
    page, shut = Page(), tmp_path / "closed"
    shut.mkdir()
    with serving(page) as origin, gateway(tmp_path, cors_origins=(origin,)) as kit, gateway(shut) as closed:
        page.script = f"const OPEN = '{kit.url}', CLOSED = '{closed.url}';{SCRIPT}"
        found = json.loads(dom(origin, tmp_path / "profile"))
        assert len(kit.logs()) == 2
        (item,) = kit.store.feedback()
    assert found == {
        "text": "base: one two", "stream": "base: one two", "id": item.target, "rated": 200, "closed": "TypeError",
    }  # fmt: skip


def dom(url: str, profile: Path) -> str:
    """The text of a page's body once its script has run."""
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom", url,
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    return shown.partition("<body>")[2].partition("</body>")[0].partition("<script>")[0]
