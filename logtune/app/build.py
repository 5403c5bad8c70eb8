"""The one place where settings, edges and stages are bound together."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from logtune.app.projects import open_store, project_of
from logtune.config import Config
from logtune.edges.store import Store
from logtune.errors import ConfigError
from logtune.ids import digest
from logtune.ports import AdapterServer, Chat, Coverage, Detector, Embedder, Likelihood, Tools
from logtune.records import Json

if TYPE_CHECKING:
    from logtune.app.gateway import Gateway
    from logtune.edges.keyring import Key
    from logtune.edges.local_model import LocalModel
    from logtune.edges.replies import Meter
    from logtune.edges.upstream import Backend
    from logtune.edges.weights import ModelFolder

Said = Callable[[str], None]
TRAINER = "logtune.stages.train:run"  # by name: it runs in a process of its own


def silent(_: str) -> None:
    """No progress."""


def store(config: Config) -> Store:
    """The store of `config`, opened; StoreError when it cannot be."""
    return open_store(config)


def adapters_dir(config: Config) -> Path:
    """Where adapters are kept; Adapter.path is relative to it."""
    return Path(config.store.home) / "adapters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a gateway needs from outside; much less than a cycle, which trains."""

    backend: "Backend"
    embedder: Embedder
    adapters: AdapterServer


def serving(config: Config, progress: Said = silent) -> Serving:
    """What serves, with the embedded engine or an OpenAI-compatible server; beside a server no weights are read."""
    from logtune.edges.vectors import LateEmbedder

    if config.model.engine == "embedded":
        local = engine(config, progress)
        return Serving(backend=_engine_backend(local, config), embedder=embedder(config, progress), adapters=local)
    vectors = LateEmbedder(lambda: embedder(config, progress))
    adapters = _adapter_server(config)
    return Serving(backend=_http_backend(config), embedder=vectors, adapters=adapters)


def check_address(keys: "Sequence[Key]", config: Config, progress: Said) -> None:
    """Refuse an address that other machines reach as long as there is no key (ConfigError), or warn."""
    from logtune.app import access

    warning = access.check_address(config.serve, keys)
    if warning:
        progress(f"warning: {warning}")


def _engine_backend(local: "LocalModel", config: Config) -> "Backend":
    from logtune.edges.upstream import EmbeddedBackend

    return EmbeddedBackend(local, config.model.served_name, config.model.max_new_tokens)


def _http_backend(config: Config) -> "Backend":
    from logtune.edges.upstream import HttpBackend

    return HttpBackend(_url(config), key_of(config.model.api_key_env), config.serve)


def key_of(variable: str | None) -> str | None:
    """The key in an environment variable, None where none is named; ConfigError for a variable that is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {variable} is empty", "put the model server's key there")
    return key


def embedder(config: Config, progress: Said = silent) -> Embedder:
    """What turns texts into vectors."""
    from logtune.edges.vectors import LocalEmbedder
    from logtune.edges.weights import embedder_model

    settings = config.embedder
    return LocalEmbedder(embedder_model(settings.model, progress), batch=settings.batch, dtype=settings.dtype)


def engine(config: Config, progress: Said = silent) -> "LocalModel":
    """The embedded engine with the base model loaded."""
    from logtune.edges.local_model import LocalModel
    from logtune.edges.weights import base_model

    model = config.model
    return LocalModel(
        base_model(model.base, progress=progress), dtype=model.dtype, max_batch=model.max_batch,
        batch_wait_ms=config.serve.batch_wait_ms, max_new_tokens=model.max_new_tokens,
        template=model.template,
    )  # fmt: skip


def tools(config: Config, progress: Said = silent, opened: Store | None = None) -> Tools:
    """Everything a cycle needs from outside, with the embedded engine or an OpenAI-compatible server behind it.

    With a store the teacher's replies are kept there, so that nothing is asked twice.
    """
    from logtune.app.noise_reading import noise_reader
    from logtune.edges.executor import LocalExecutor, SystemClock
    from logtune.edges.replies import Meter

    adapters_dir(config).mkdir(parents=True, exist_ok=True)
    vectors = embedder(config, progress)
    served = _embedded(config, progress) if config.model.engine == "embedded" else _remote(config, progress)
    meter = Meter(**config.spend.model_dump())
    teacher = _teacher(config, meter, opened)
    return Tools(
        student=served.student, likelihood=served.likelihood, adapters=served.adapters,
        base_parameters=served.folder.parameters, base_fingerprint=served.folder.fingerprint,
        base_path=str(served.folder.path), lora_sizes=served.lora_sizes, embedder=vectors,
        coverage=coverage(config, config.gap.method, vectors, served.likelihood, served.folder.fingerprint),
        teacher=teacher, executor=LocalExecutor(TRAINER), clock=SystemClock(),
        adapters_dir=str(adapters_dir(config).resolve()), spent=lambda: meter.spent,
        noise=noise_reader(vectors.fingerprint, config.embedder.dtype),
        detector=detector(config, vectors, teacher, progress),
    )  # fmt: skip


def with_settings(made: Tools, config: Config, replies: Store) -> Tools:
    """The same models for a cycle with other settings: its coverage, its teacher and budget, its folder.

    `replies`: the store that remembers the teacher's.
    """
    from logtune.edges.replies import Meter

    adapters_dir(config).mkdir(parents=True, exist_ok=True)
    meter = Meter(**config.spend.model_dump())
    teacher = _teacher(config, meter, replies)
    return replace(
        made, teacher=teacher, spent=lambda: meter.spent, detector=detector(config, made.embedder, teacher),
        coverage=coverage(config, config.gap.method, made.embedder, made.likelihood, made.base_fingerprint),
        adapters_dir=str(adapters_dir(config).resolve()),
    )  # fmt: skip


def detector(config: Config, vectors: Embedder, teacher: Chat | None, progress: Said = silent) -> Detector | None:
    """What reads the turns after answers; None: their wording alone, as another embedder is in use or so it was set."""
    from logtune import detecting

    settings = config.signals
    if settings.detector == "wording":
        return None
    fast = settings.detector == "fast"
    reader = _small_copy(config, vectors, progress) if fast else vectors
    learned = detecting.load(detecting.PACKAGED_FAST if fast else detecting.PACKAGED)
    if not detecting.fits(reader, learned):
        progress(f"turns are read by their wording: the detector knows {learned.embedder}, not {reader.fingerprint}")
        return None
    small = detecting.SmallDetector(reader, learned)
    if teacher is None or not settings.ask_teacher:
        return small
    return detecting.CarefulDetector(small, teacher, (settings.unsure_from, settings.unsure_to))


def _small_copy(config: Config, vectors: Embedder, progress: Said) -> Embedder:
    from logtune.edges.static_vectors import made
    from logtune.edges.weights import embedder_model

    return made(embedder_model(config.embedder.model, progress), lambda: vectors, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """The served model: how to call it, and its weights, which training needs here wherever they serve."""

    student: Chat
    likelihood: Likelihood | None
    adapters: AdapterServer
    folder: "ModelFolder"
    lora_sizes: Mapping[str, int]


def _embedded(config: Config, progress: Said) -> _Served:
    local = engine(config, progress)
    return _Served(student=local, likelihood=local, adapters=local, folder=local.folder, lora_sizes=local.lora_sizes())


def _remote(config: Config, progress: Said) -> _Served:
    from logtune.edges.chat import HttpChat
    from logtune.edges.lora import folder_rank_1_sizes
    from logtune.edges.project_scope import ScopedAdapters, ScopedChat
    from logtune.edges.weights import base_model

    url, model, project = _url(config), config.model, project_of(config)
    folder = base_model(model.base, progress=progress)
    chat = HttpChat(url, model.served_name, api_key_env=model.api_key_env, extra_body=_extra_body(config))
    return _Served(
        student=ScopedChat(chat, project), likelihood=None, folder=folder,
        adapters=ScopedAdapters(_adapter_server(config), project), lora_sizes=folder_rank_1_sizes(folder.path),
    )  # fmt: skip


def _adapter_server(config: Config) -> AdapterServer:
    from logtune.edges.adapter_server import HttpAdapterServer

    model = config.model
    return HttpAdapterServer(
        _url(config), model.api_key_env, base=model.served_name, model=model.base, extra_body=_extra_body(config)
    )


def _extra_body(config: Config) -> dict[str, Json]:
    """What calls of the served model's server have besides."""
    model = config.model
    told: dict[str, Json] = {"chat_template_kwargs": model.template} if model.template else {}
    return {**told, **(model.extra_body or {})}


def _url(config: Config) -> str:
    if not config.model.url:
        raise ConfigError(
            "model.engine is 'openai' and model.url is empty", "set model.url to the server's URL, with /v1"
        )
    return config.model.url


def teacher(config: Config, opened: Store | None = None) -> Chat | None:
    """The teacher alone, with the budget and the memory that a cycle gives it; None where none is set."""
    from logtune.edges.replies import Meter

    return _teacher(config, Meter(**config.spend.model_dump()), opened)


def _teacher(config: Config, meter: "Meter", opened: Store | None) -> Chat | None:
    from logtune.edges.chat import HttpChat
    from logtune.edges.replies import MeteredChat, RememberedChat, ReplyMemory

    teacher = config.teacher
    if not teacher.url:
        return None
    chat = HttpChat(
        teacher.url, teacher.model, api_key_env=teacher.api_key_env, max_concurrency=teacher.max_concurrency,
        timeout_s=teacher.timeout_s, again=meter.again, extra_body=teacher.extra_body,
    )  # fmt: skip
    metered = MeteredChat(chat, meter)
    more = f" {digest(teacher.extra_body)}" if teacher.extra_body else ""
    name = f"{teacher.url} {teacher.model}{more}"
    return metered if opened is None else RememberedChat(metered, name, ReplyMemory(opened), meter)


def coverage(
    config: Config, method: str, vectors: Embedder, likelihood: Likelihood | None, base_fingerprint: str
) -> Coverage:  # fmt: skip
    """What measures the gap by one method; ConfigError where a setting or the engine lacks what it needs.

    `likelihood`: of the served model, which `base_fingerprint` names.
    """
    from logtune.edges import coverage as measures
    from logtune.stages.prompted import with_rules

    if method == "embedding":
        return measures.EmbeddingCoverage(vectors)
    if method == "log_probability":
        if likelihood is None:
            raise ConfigError(
                "gap.method is 'log_probability' and the model server gives no log-probabilities",
                "use another gap.method, or model.engine = 'embedded'",
            )
        return measures.LikelihoodCoverage(likelihood, base_fingerprint, with_rules)
    model = config.gap.reranker if method == "reranker" else config.gap.cross_encoder
    if not model:
        raise ConfigError(
            f"gap.method is '{method}' and gap.{method} is empty", f"set gap.{method} to a folder or hub id"
        )
    return measures.RerankerCoverage(model) if method == "reranker" else measures.CrossEncoderCoverage(model)


def gateway(opened: Store, made: Tools | Serving, config: Config) -> "Gateway":
    """The gateway over what exists already; a cycle's tools will do, so that one engine serves and is measured."""
    from logtune.app.gateway import create

    backend = made.backend if isinstance(made, Serving) else _backend_of(made, config)
    return create(opened, backend, made.embedder, made.adapters, config)


def _backend_of(made: Tools, config: Config) -> "Backend":
    from logtune.edges.local_model import LocalModel

    return _engine_backend(made.student, config) if isinstance(made.student, LocalModel) else _http_backend(config)


def versions() -> dict[str, Json]:
    """Versions of what a result depends on; None: not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Json] = {}
    for name in ("logtune", "torch", "transformers", "peft", "trl", "numpy", "scipy", "sqlalchemy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
