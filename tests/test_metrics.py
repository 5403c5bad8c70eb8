"""What Prometheus reads, over the real gateway."""

import asyncio
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from gateway_kit import BrokenEmbedder, Kit, gateway, post
from prometheus_client.parser import text_string_to_metric_families

from logtune.app import lane as lane_module
from logtune.app.asgi import Receive, Request, Scope, Send, respond_json
from logtune.app.exchange import Exchange, begin
from logtune.app.lane import Lane
from logtune.app.metrics import SERIES, Counted, Metrics, Sample, decision, endpoint, sampled
from logtune.app.table import Choice
from logtune.edges.runs import Runs
from logtune.edges.store import CycleRow
from logtune.records import Feedback, Json

QUERY = "where is my card"


def values(metrics: Metrics) -> dict[str, float]:
    """Series -> value, as a scrape reads them."""
    for tally in metrics._tallies:
        tally.flush()
    page, content_type = metrics.page()
    assert content_type.startswith("text/plain")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def ask(kit: Kit, text: str, **fields: Json) -> int:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    return post(kit.url, "/v1/chat/completions", json.dumps(body).encode())[0]


def test_exchanges_are_counted_by_where_they_went_and_what_they_took(tmp_path: Path) -> None:
    metrics = Metrics()
    with gateway(tmp_path, deploy=[("cards", QUERY)]) as kit:
        kit.gateway.watch(metrics)
        assert ask(kit, QUERY) == 200
        assert ask(kit, QUERY, stream=True) == 200
        assert ask(kit, "what rhymes with orange") == 200
        assert ask(kit, "") == 200
        assert ask(kit, QUERY, model="somebody-else") >= 200
        assert ask(kit, f"{QUERY} FAIL") >= 500
        (lane,) = kit.gateway.lanes().values()
        metrics.sample(sampled([lane], ready=True, under_way=3, connections=4))
        kit.store.wait(6)
        metrics.sample(sampled([lane], ready=True, under_way=0, connections=0))
    found = values(metrics)
    (routed,) = (name for name in found if name.startswith("logtune_routed_total") and 'cluster="cards"' in name)
    assert routed.startswith('logtune_routed_total{adapter="ada-')
    assert 'arm="candidate"' in routed
    assert found['logtune_routing_decisions_total{decision="deployed"}'] >= 2
    assert found['logtune_routing_decisions_total{decision="out_of_distribution"}'] >= 1
    assert found['logtune_routing_decisions_total{decision="no_text"}'] == 1
    assert found['logtune_routing_decisions_total{decision="named"}'] == 1
    assert found["logtune_overhead_seconds_count"] == 6
    assert found['logtune_overhead_seconds_bucket{le="+Inf"}'] == 6
    assert found["logtune_upstream_seconds_count"] >= 4
    assert found["logtune_upstream_seconds_count"] >= found["logtune_upstream_first_byte_seconds_count"] - 1
    assert sum(value for name, value in found.items() if name.startswith("logtune_upstream_errors_total{")) >= 1
    assert found['logtune_tokens_total{kind="completion"}'] > 0
    assert found["logtune_records_stored_total"] == 6
    assert found["logtune_adapters_loaded"] == 1
    assert (found["logtune_store_up"], found["logtune_ready"]) == (1, 1)


def test_how_cycles_have_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "COURSE_S", 0.0)
    metrics = Metrics()

    def told(lane: Lane) -> tuple[float, float]:
        asyncio.run(lane._follow_course())
        metrics.sample(sampled([lane], ready=True, under_way=0, connections=0))
        found = values(metrics)
        return found["logtune_cycle_last_success_timestamp_seconds"], found["logtune_cycle_failures_in_a_row"]

    with gateway(tmp_path) as kit:
        (lane,) = kit.gateway.lanes().values()
        assert told(lane) == (0, 0)
        store = lane.store
        for at in (100.0, 200.0):
            store.open_cycle(CycleRow(id=f"cyc-{at}", config_hash="", started_at=at, ended_at=None, receipt={}))
        store.close_cycle("cyc-100.0", 150.0, {"exit_code": 3})
        store.close_cycle("cyc-200.0", 250.0, {"summary": "stopped; the settings have changed since"})
        for at in (120.0, 300.0, 400.0):
            Runs(store).end(Runs(store).begin(at, 1), at + 1, 1, "no teacher")
        assert told(lane) == (150, 2)
        store.open_cycle(CycleRow(id="cyc-500", config_hash="", started_at=500, ended_at=None, receipt={}))
        store.close_cycle("cyc-500", 550, {"exit_code": 0})  # by hand
        assert told(lane) == (550, 0)


def test_a_broken_embedder_and_an_empty_table_have_names_of_their_own(tmp_path: Path) -> None:
    metrics = Metrics()
    (tmp_path / "a").mkdir()
    with gateway(tmp_path / "a", deploy=[("cards", QUERY)], embedder=BrokenEmbedder()) as kit:
        kit.gateway.watch(metrics)
        ask(kit, QUERY)
    (tmp_path / "b").mkdir()
    with gateway(tmp_path / "b") as kit:
        kit.gateway.watch(metrics)
        ask(kit, QUERY)
    found = values(metrics)
    assert found['logtune_routing_decisions_total{decision="failed"}'] == 1
    assert found['logtune_routing_decisions_total{decision="nothing_deployed"}'] == 1


def test_feedback_is_counted_by_kind_and_shape(tmp_path: Path) -> None:
    metrics = Metrics()
    with gateway(tmp_path) as kit:
        kit.gateway.watch(metrics)
        for body in (
            {"target": "x", "value": 1},
            {"target": "x", "comment": "well"},
            {"target": "x", "value": "neutral"},
        ):
            assert post(kit.url, "/v1/feedback", json.dumps(body).encode())[0] in (200, 202)
        score = {"traceId": "x", "name": "thumb", "value": 1, "dataType": "BOOLEAN"}
        assert post(kit.url, "/compat/langfuse/api/public/scores", json.dumps(score).encode())[0] == 200
    found = values(metrics)
    assert found['logtune_feedback_total{kind="rating",shape="logtune"}'] == 1
    assert found['logtune_feedback_total{kind="comment",shape="logtune"}'] == 1
    assert found['logtune_feedback_total{kind="revoked",shape="logtune"}'] == 1
    assert found['logtune_feedback_total{kind="rating",shape="langfuse"}'] == 1


@pytest.mark.parametrize(("reason", "kind", "counted"), [
    ("", "base", "not_routed"),
    ("deployed for cards, arm candidate by user", "expert", "deployed"),
    ("the base model is deployed for cards", "base", "base"),
    ("the model server has lost adapter-1", "base", "fallback"),
    ("adapter-1 could not be loaded; rules serves on", "rules", "stand_in"),
    ("no deployed cluster was made with this embedder", "base", "other_embedder"),
    ("routing failed: the query was not embedded within 5 s", "base", "failed"),
])  # fmt: skip
def test_a_reason_is_counted_under_a_name(reason: str, kind: str, counted: str) -> None:
    assert decision(Choice(reason=reason, kind=kind)) == counted  # type: ignore[arg-type]


@pytest.mark.parametrize(("path", "status", "label"), [
    ("/v1/chat/completions", 200, "/v1/chat/completions"), ("/healthz", 200, "/healthz"),
    ("/v1/models/what-a-client-says", 200, "/v1/models"), ("/v1/models/what-a-client-says", 404, "other"),
    ("/compat/langfuse/api/public/scores/some-id", 200, "/compat/langfuse"), ("/etc/passwd", 404, "other"),
    ("/compat", 200, "other"), ("/readyz", 404, "/readyz"), ("/x/y", 431, "other"),
])  # fmt: skip
def test_a_path_is_a_label_without_what_a_client_put_into_it(path: str, status: int, label: str) -> None:
    assert endpoint(path, status) == label


def test_no_client_makes_series_without_end() -> None:
    metrics = Metrics()
    for number in range(SERIES + 50):
        metrics.refused(f"reason {number}")
    found = values(metrics)
    assert len([name for name in found if name.startswith("logtune_connections_refused_total")]) == SERIES + 1
    assert found['logtune_connections_refused_total{reason="other"}'] == 50


def test_counters_of_others_never_go_back() -> None:
    metrics = Metrics()

    def told(stored: int) -> float:
        metrics.sample(Sample(
            under_way=0, connections=0, waiting=0, stored=stored, dropped=0, rejected=0, spool_records=0, spool_bytes=7,
            store_up=False, ready=False, adapters=0, adapter_problems=0,
        ))  # fmt: skip
        return values(metrics)["logtune_records_stored_total"]

    assert [told(5), told(5), told(2), told(4)] == [5, 5, 5, 7]
    assert values(metrics)["logtune_store_up"] == 0
    assert values(metrics)["logtune_spool_bytes"] == 7


async def test_requests_are_counted_whatever_becomes_of_them() -> None:
    metrics = Metrics()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = Request.of(scope, receive).path
        assert metrics.under_way == 1
        if path == "/gone":
            return
        if path == "/v1/feedback":
            raise KeyError("a bug")
        await respond_json(send, 200, {})

    async def say(event: object) -> None:
        pass

    async def hear() -> dict[str, object]:
        return {}

    counted = Counted(app, metrics)
    for path in ("/v1/chat/completions", "/gone"):
        await counted({"type": "http", "method": "POST", "path": path, "headers": []}, hear, say)
    with pytest.raises(KeyError):
        await counted({"type": "http", "method": "POST", "path": "/v1/feedback", "headers": []}, hear, say)
    assert metrics.under_way == 0
    found = values(metrics)
    assert found['logtune_requests_total{endpoint="/v1/chat/completions",status="200"}'] == 1
    assert found['logtune_requests_total{endpoint="other",status="499"}'] == 1
    assert found['logtune_requests_total{endpoint="/v1/feedback",status="499"}'] == 1


PROCESS = """
    import sys
    from logtune.app.metrics import Metrics
    metrics = Metrics()
    metrics.request("/healthz", 200)
    metrics.refused("malformed")
    for tally in metrics._tallies:
        tally.flush()
    print(metrics.page()[0].decode())
"""


def test_processes_count_together(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    pages = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROCESS)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for _ in range(2)
    ]
    assert 'logtune_requests_total{endpoint="/healthz",status="200"} 1.0' in pages[0]
    assert 'logtune_requests_total{endpoint="/healthz",status="200"} 2.0' in pages[1]
    assert 'logtune_connections_refused_total{reason="malformed"} 2.0' in pages[1]
    assert "logtune_build_info" in pages[1]


def test_a_failing_watcher_harms_no_exchange(tmp_path: Path) -> None:
    class Broken:
        def exchange(self, exchange: Exchange) -> None:
            raise KeyError("a bug")

        def feedback(self, feedback: Feedback, shape: str) -> None:
            raise KeyError("a bug")

    with gateway(tmp_path) as kit:
        kit.gateway.watch(Broken())
        assert ask(kit, "hello") == 200
        assert post(kit.url, "/v1/feedback", b'{"target": "x", "value": 1}')[0] == 202


def test_odd_usage_counts_nothing() -> None:
    metrics = Metrics()
    exchange = begin(b'{"messages": []}', {})
    exchange.response = {"usage": {"prompt_tokens": -5, "completion_tokens": "many"}}
    metrics.exchange(exchange)
    exchange.response = {"usage": "none"}
    metrics.exchange(exchange)
    assert values(metrics)['logtune_tokens_total{kind="prompt"}'] == 0


ROOT = Path(__file__).parent.parent
PAGES = ("docs/how-to/operate.md", "examples/operate/logtune-alerts.yml")


def test_every_metric_is_documented_and_nothing_else_is() -> None:
    there = {family.name for family in text_string_to_metric_families(Metrics().page()[0].decode())}
    named = {page: set(re.findall(r"logtune_[a-z_]+", (ROOT / page).read_text())) for page in PAGES}
    plain = {page: {re.sub(r"_(total|bucket)$", "", name) for name in names} for page, names in named.items()}
    assert plain[PAGES[0]] == {name for name in there if name.startswith("logtune_")}
    assert plain[PAGES[1]] <= there
