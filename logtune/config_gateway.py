"""Settings of the gateway: where it listens, whom it lets in, what it keeps, and how long it waits."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]
Megabytes = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]

Personal = Literal["email", "phone", "card", "iban", "ip", "key"]


def score_range(text: str) -> tuple[str, float, float]:
    """Name, worst and best value of a score in `serve.scores`; ValueError says what is wrong with it."""
    name, _, values = text.rpartition("=")
    worst, _, best = values.partition("..")
    try:
        low, high = float(worst), float(best)
    except ValueError as error:
        raise ValueError(f"'{text}' does not look like stars=1..5 (name, worst value, best value)") from error
    if not name.strip() or not math.isfinite(low - high) or low == high:
        raise ValueError(f"'{text}' needs a name and two different numbers, such as stars=1..5")
    return name.strip(), low, high


class Settings(BaseModel):
    """Base of every section: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServeSettings(Settings):
    """The gateway."""

    host: str = "127.0.0.1"
    """Address to listen on. Another one than loopback is refused until there is a key (logtune keys create)."""
    port: Port = 8090
    """Port to listen on; 0 picks a free one."""
    workers: Positive = 1
    """Processes that answer, on one port and one store; more than one needs a model server of its own (model.url)."""
    embedded_workers: Literal["refuse", "allow"] = "refuse"
    """allow: several workers with the embedded engine, of which each loads the model and its adapters for itself."""
    admin: Literal["on", "off"] = "on"
    """on: /metrics and administration on a port of their own."""
    admin_host: str = "127.0.0.1"
    """Address of the administration; another one than loopback needs a token."""
    admin_port: Port = 8091
    """Port of the administration; 0 picks a free one."""
    admin_token_env: str = "LOGTUNE_ADMIN_TOKEN"
    """Environment variable that holds the token of the administration."""
    keys: Literal["auto", "always", "never"] = "auto"
    """auto: clients need a key once one was created; never: whoever reaches the port may ask."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the gateway, such as https://app.example.com; ["*"] lets every page."""
    scores: tuple[str, ...] = ()
    """Ranges of numbers given as feedback, worst..best, such as "stars=1..5"; others run 0..1, or -1..1 below 0."""
    max_body_mb: Megabytes = 16.0
    """Larger request bodies are refused (413)."""
    max_header_kb: Positive = 32
    """Larger request heads are refused (431)."""
    receive_timeout_s: Seconds = 30.0
    """Seconds in which a request must have arrived (408)."""
    send_timeout_s: Seconds = 60.0
    """Seconds in which a client takes nothing of an answer that waits for it, after which it counts as gone."""
    max_open: Positive = 10_000
    """Connections of clients open at once in one process, idle ones too; more are refused (503)."""
    drain_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds at shutdown in which /readyz says 503 and requests are still taken, for a load balancer to notice."""
    grace_s: Seconds = 30.0
    """Seconds at shutdown in which answers under way may finish."""
    max_concurrent: Positive = 2000
    """Requests under way at once; more are refused (503)."""
    max_concurrent_per_key: Count = 0
    """Requests under way at once for one key; more are refused (429); 0 sets no limit."""
    rate_per_minute: Count = 0
    """Requests of one key in a minute; more are refused (429); 0 sets no limit; a key's own limit wins."""
    timeout_s: Seconds = 600.0
    """Seconds without a byte from the model server after which a request fails (504)."""
    connect_timeout_s: Seconds = 10.0
    """Seconds for a connection to the model server (504)."""
    retries: Count = 2
    """How often a request is sent again when the model server cannot have begun it."""
    max_connections: Count = 0
    """Connections to the model server; 0 sets no limit."""
    keep_alive_s: Seconds = 3.0
    """How long an idle connection to the model server is kept; less than the server keeps it."""
    batch_wait_ms: Annotated[float, Field(ge=0)] = 5.0
    """How long the embedded engine waits for company before it starts a batch."""
    poll_s: Seconds = 2.0
    """How often the gateway looks for new deployments, keys, and adapters that the model server has lost."""
    router: Literal["auto", "full", "static"] = "auto"
    """full: the embedder for every query; static: token vectors distilled from it; auto: static beside a server."""
    record_mb: Megabytes = 8.0
    """How much of an answer its record keeps; the client gets all of it, and the record says that it was cut."""
    record_first: Literal["disk", "store"] = "disk"
    """Where a record lies when its answer ends: disk: in a file, from there in the store a moment later; or store."""
    commit_wait_ms: Annotated[float, Field(gt=0)] = 250.0
    """How long the store has for a record before it goes to the spool instead."""
    queue_records: Positive = 10_000
    """Records of each project that may wait for the store in memory; more go to the spool."""
    queue_mb: Megabytes = 64.0
    """Size of the records of each project that may wait for the store in memory; more go to the spool."""
    spool_mb: Megabytes = 256.0
    """Size of each project's spool on disk, which keeps records while the store is down."""
    spool_full: Literal["drop_new", "drop_old", "refuse"] = "drop_new"
    """What a full spool does: lose the new records, lose the oldest, or refuse requests (503)."""
    log_format: Literal["text", "json"] = "text"
    """How the gateway's own log is written; it never holds texts of users or models."""
    access_log: Literal["off", "on"] = "off"
    """on: one line for each request: method, path, status, milliseconds, interaction."""
    otel_url: str | None = None
    """OTLP endpoint (HTTP) for OpenTelemetry GenAI spans; empty: none."""

    @field_validator("scores")
    @classmethod
    def _ranges(cls, scores: tuple[str, ...]) -> tuple[str, ...]:
        for text in scores:
            score_range(text)
        return scores


class RedactSettings(Settings):
    """What is cut out of records before they exist; the model still reads the whole text."""

    kinds: tuple[Personal, ...] = ("email", "phone", "card", "iban", "ip", "key")
    """Kinds that a placeholder replaces, such as [email]; an empty list keeps everything."""
    names: Literal["off", "presidio"] = "off"
    """presidio: names of people too, by Presidio's recogniser (pip install 'logtune[presidio]')."""
    names_model: str = "en_core_web_sm"
    """Installed spaCy pipeline, or folder of one, by which Presidio finds names."""
    files: Literal["drop", "keep"] = "drop"
    """drop: of images and other files in base64 only type and length are kept."""
    keep: tuple[str, ...] = ()
    """Texts that stay whole, such as the address and the number of your own support."""
