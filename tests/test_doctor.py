import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from logtune.app import doctor
from logtune.config import Config, build
from logtune.edges import dtypes
from logtune.edges.store import CycleRow, Store


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A server that is not there, and models that would come from the hub, so that no weights are read."""
    monkeypatch.chdir(tmp_path)
    server = {"engine": "openai", "url": "http://127.0.0.1:1/v1", "base": "owner/name"}
    return build({"model": server, "embedder": {"model": "owner/name"}})


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_every_blocking_check_says_how_to_mend_it(config: Config) -> None:
    checks = doctor.examine(config)
    assert {"python", "settings", "packages", "base model", "embedder", "store", "disk", "bfloat16"} <= set(
        by_name(checks)
    )
    assert all(check.mend for check in checks if check.state == "blocked")
    assert all(check.found for check in checks)


def test_a_store_that_is_not_there_is_not_made(config: Config, tmp_path: Path) -> None:
    check = by_name(doctor.examine(config))["store"]
    assert (check.state, check.found) == ("ok", "logtune.db is made at its first use")
    assert list(tmp_path.iterdir()) == []


def test_the_store_is_opened_counted_and_locked_for_writing(config: Config, tmp_path: Path) -> None:
    store = Store(config.store.url)
    store.open_cycle(CycleRow(id="cyc-1", config_hash="0", started_at=1.0, ended_at=None, receipt={}))
    store.close()
    check = by_name(doctor.examine(config))["store"]
    assert check.state == "note"
    assert "0 logs, 0 feedback, writable, schema complete" in check.found
    assert check.mend == "logtune cycle continues it"


def test_a_file_that_is_no_store_blocks(config: Config, tmp_path: Path) -> None:
    (tmp_path / "logtune.db").write_bytes(b"not a database, but long enough to be looked at " * 40)
    check = by_name(doctor.examine(config))["store"]
    assert (check.state, check.mend) == ("blocked", "set store.url to another file; this one was left as it is")


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "train", ("click", "no-such-package"))
    check = doctor.packages("train", doctor.EXTRAS["train"], blocks=True)
    assert check.state == "blocked"
    assert (check.found, check.mend) == ("missing: no-such-package", "pip install 'logtune[train]'")


def test_an_unknown_model_blocks_with_the_allowed_names(tmp_path: Path) -> None:
    checks = by_name(doctor.examine(build({"model": {"base": str(tmp_path)}, "embedder": {"model": "minilm"}})))
    assert checks["base model"].state == "blocked"
    assert "config.json" in checks["base model"].found
    assert checks["embedder"].state == "blocked"
    assert "all-minilm-l6-v2" in checks["embedder"].mend


def test_a_hub_model_is_not_fetched() -> None:
    checks = by_name(doctor.examine(build({"model": {"base": "owner/name"}, "embedder": {"model": "owner/name"}})))
    assert (checks["base model"].state, checks["embedder"].state) == ("note", "note")


class Models(http.server.BaseHTTPRequestHandler):
    """Lists models to whoever has the key."""

    def do_GET(self) -> None:
        self.send_response(200 if self.headers["Authorization"] == "Bearer right" else 401)
        self.end_headers()
        self.wfile.write(b'{"data": []}')

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_endpoints_are_asked_with_their_key(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build(
        {"model": {"engine": "openai", "url": endpoint, "api_key_env": "A_KEY"}, "teacher": {"url": "file:///x"}}
    )
    monkeypatch.delenv("A_KEY", raising=False)
    assert by_name(doctor.examine(config))["model server"].mend == "export A_KEY=..."
    monkeypatch.setenv("A_KEY", "wrong")
    assert "401" in by_name(doctor.examine(config))["model server"].found
    monkeypatch.setenv("A_KEY", "right")
    checks = by_name(doctor.examine(config))
    assert (checks["model server"].state, checks["teacher"].state) == ("ok", "blocked")
    assert not any("right" in check.found for check in checks.values())


def test_settings_that_come_from_a_file_are_named(config: Config, tmp_path: Path) -> None:
    assert by_name(doctor.examine(config))["settings"].mend == "logtune init writes one"
    (tmp_path / "mine.toml").write_text("")
    check = by_name(doctor.examine(config, tmp_path / "mine.toml"))["settings"]
    assert check.state == "ok"
    assert config.config_hash in check.found


def test_the_processor_says_what_it_can_do(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name : x\nflags\t\t: fpu avx512_bf16 sse\n")
    assert "avx512_bf16" in dtypes.cpu_flags(tmp_path / "cpuinfo")
    assert dtypes.cpu_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///logtune.db", Path("logtune.db")),
        ("sqlite:////var/x.db?mode=rw", Path("/var/x.db")),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgresql+psycopg://me@host/db", None),
    ],
)
def test_the_file_of_a_store(url: str, file: Path | None) -> None:
    assert doctor.sqlite_file(url) == file
