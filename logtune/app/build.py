"""The one place where settings, edges and stages are bound together."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from logtune.config import Config
from logtune.edges.store import Store
from logtune.errors import ConfigError
from logtune.ports import Chat, Coverage, Embedder, Tools
from logtune.records import Json

if TYPE_CHECKING:
    from logtune.app.gateway import Gateway
    from logtune.edges.local_model import LocalModel

Said = Callable[[str], None]
TRAINER = "logtune.stages.train:run"  # by name: it runs in a process of its own


def silent(_: str) -> None:
    """No progress."""


def store(config: Config) -> Store:
    """The store of `config`, opened; StoreError when it cannot be."""
    return Store(config.store.url)


def adapters_dir(config: Config) -> Path:
    """Where adapters are kept; Adapter.path is relative to it."""
    return Path(config.store.home) / "adapters"


def embedder(config: Config, progress: Said = silent) -> Embedder:
    """What turns texts into vectors."""
    from logtune.edges.vectors import LocalEmbedder
    from logtune.edges.weights import embedder_model

    return LocalEmbedder(embedder_model(config.embedder.model, progress), batch=config.embedder.batch)


def engine(config: Config, progress: Said = silent) -> "LocalModel":
    """The embedded engine with the base model loaded."""
    from logtune.edges.local_model import LocalModel
    from logtune.edges.weights import base_model

    model = config.model
    return LocalModel(
        base_model(model.base, progress=progress), dtype=model.dtype, max_batch=model.max_batch,
        batch_wait_ms=config.serve.batch_wait_ms, max_new_tokens=model.max_new_tokens,
    )  # fmt: skip


def tools(config: Config, progress: Said = silent) -> Tools:
    """Everything a cycle needs from outside, with the embedded engine or an OpenAI-compatible server behind it."""
    from logtune.edges.executor import LocalExecutor, SystemClock

    adapters_dir(config).mkdir(parents=True, exist_ok=True)
    vectors = embedder(config, progress)
    shared = {
        "embedder": vectors, "coverage": _coverage(config, vectors), "teacher": _teacher(config),
        "executor": LocalExecutor(TRAINER), "clock": SystemClock(), "adapters_dir": str(adapters_dir(config).resolve()),
    }  # fmt: skip
    if config.model.engine == "embedded":
        local = engine(config, progress)
        return Tools(
            **shared, student=local, likelihood=local, adapters=local, base_parameters=local.base_parameters,
            base_fingerprint=local.fingerprint, lora_sizes=local.lora_sizes(), base_path=str(local.folder.path),
        )  # type: ignore[arg-type]  # fmt: skip  # mypy sees one type for all values of `shared`
    return _remote(config, shared, progress)


def _remote(config: Config, shared: dict[str, object], progress: Said) -> Tools:
    from logtune.edges.adapter_server import HttpAdapterServer
    from logtune.edges.chat import HttpChat
    from logtune.edges.local_model import folder_lora_sizes
    from logtune.edges.weights import base_model

    url, model = _url(config), config.model
    folder = base_model(model.base, progress=progress)  # training needs the weights here, wherever they serve
    return Tools(
        **shared, student=HttpChat(url, model.served_name, api_key_env=model.api_key_env), likelihood=None,
        adapters=HttpAdapterServer(url), base_parameters=folder.parameters, base_fingerprint=folder.fingerprint,
        lora_sizes=folder_lora_sizes(folder), base_path=str(folder.path),
    )  # type: ignore[arg-type]  # fmt: skip  # as above


def _url(config: Config) -> str:
    if not config.model.url:
        raise ConfigError("model.engine is 'openai' and model.url is empty", "set model.url to the server's URL, with /v1")
    return config.model.url


def _teacher(config: Config) -> Chat | None:
    from logtune.edges.chat import HttpChat

    teacher = config.teacher
    if not teacher.url:
        return None
    return HttpChat(
        teacher.url, teacher.model, api_key_env=teacher.api_key_env, max_concurrency=teacher.max_concurrency,
        timeout_s=teacher.timeout_s,
    )  # fmt: skip


def _coverage(config: Config, vectors: Embedder) -> Coverage:
    from logtune.edges.vectors import EmbeddingCoverage, RerankerCoverage

    if config.gap.method == "embedding":
        return EmbeddingCoverage(vectors)
    if not config.gap.reranker:
        raise ConfigError("gap.method is 'reranker' and gap.reranker is empty", "set gap.reranker to a folder or hub id")
    return RerankerCoverage(config.gap.reranker)


def gateway(opened: Store, made: Tools, config: Config) -> "Gateway":
    """The gateway over tools that exist already, so that one engine serves and is measured."""
    from logtune.app.gateway import create
    from logtune.edges.local_model import LocalModel
    from logtune.edges.upstream import EmbeddedBackend, HttpBackend

    local = made.student
    if isinstance(local, LocalModel):
        backend: EmbeddedBackend | HttpBackend = EmbeddedBackend(
            local, config.model.served_name, config.model.max_new_tokens
        )
    else:
        backend = HttpBackend(_url(config), None, config.serve.timeout_s)
    return create(opened, backend, made.embedder, made.adapters, config)


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
