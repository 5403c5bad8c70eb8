"""What lies outside, as small protocols: everything a stage needs from the world comes in through one of these.

Each has a real implementation in `edges/` and a fake in `logtune.testing`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from logtune.records import Adapter, Json, Message, SignalKind

Vectors = npt.NDArray[np.float32]  # (N, D), rows of length 1
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """One call of a chat model."""

    messages: tuple[Message, ...]
    model: str = ""  # "" or "base": the base model; else the name of a loaded adapter, or a model of the endpoint
    max_tokens: int = 256
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Json] | None = None  # JSON schema that the answer must follow
    purpose: str = ""  # what the call is for, such as distill or judge: costs are counted by it
    weighed: tuple[str, ...] = ()  # words of which the answer says one, such as A and B: how likely was each?


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """What a chat model answered."""

    text: str
    finish_reason: str = "stop"  # stop or length
    prompt_tokens: int = 0
    completion_tokens: int = 0
    odds: Mapping[str, float] | None = None  # `weighed` word -> its probability where one was said; None: not told


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPiece:
    """A part of an answer as it is made; the last one has the reason and the token counts."""

    text: str
    finish_reason: str | None = None  # stop or length; None: more follows
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Chat(Protocol):
    """A chat model. Calls made at the same time are batched or sent concurrently."""

    async def complete(self, call: ChatCall) -> ChatReply:
        """Answer one call; raises ModelError with the reason when there is no answer."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A chat model that gives a reply it gave before without being asked again."""

    async def forget(self, calls: Sequence[ChatCall]) -> None:
        """Ask again the next time one of these calls is made: their replies were of no use."""
        ...


class Embedder(Protocol):
    """Texts to unit vectors."""

    @property
    def fingerprint(self) -> str:
        """Name and checksum of the model: vectors of different fingerprints never meet."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of the texts, shape (len(texts), D)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A request and the better answer that came of a rule."""

    prompt: tuple[Message, ...]
    better: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A user's turn after an answer."""

    text: str
    query: str  # what the answer answered
    answer: str | None  # None: it is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What a detector makes of a turn."""

    feedback: float  # 0..1, calibrated: the share of such turns that are feedback on the answer
    is_feedback: bool
    kind: SignalKind  # the likeliest kind, if it is feedback
    kinds: Mapping[SignalKind, float]  # how likely each is, if it is feedback; they add up to 1
    detector: str  # name and version of what read it


class Detector(Protocol):
    """What tells feedback on an answer from a new matter."""

    @property
    def fingerprint(self) -> str:
        """Name and version of all that a detection depends on."""
        ...

    async def detect(self, turns: Sequence[Turn]) -> list[Detection]:
        """One detection a turn; ModelError where a model was asked in vain."""
        ...


class Coverage(Protocol):
    """How far rules are already covered by what a model knew."""

    @property
    def fingerprint(self) -> str:
        """Name of the method and its model."""
        ...

    @property
    def on_answers(self) -> bool:
        """True: a rule is measured on an example, which must be given; False: on its words alone."""
        ...

    def covered(self, rule: str, known: Sequence[str], example: Example | None = None) -> float:
        """0 nothing of `rule` is known .. 1 all of it is; measured on words it is 0 when `known` is empty."""
        ...


class Likelihood(Protocol):
    """How surprised the served model is by an answer."""

    def nll(self, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str], model: str = "") -> list[float]:
        """Mean negative log-likelihood in nats per token of each answer after its prompt."""
        ...


class AdapterServer(Protocol):
    """A model server that loads and unloads LoRA adapters while it serves."""

    async def load(self, name: str, path: str) -> None:
        """Load the adapter folder `path` under the immutable `name`; loading a listed name again does nothing."""
        ...

    async def unload(self, name: str) -> None:
        """Unload `name`; an unknown name does nothing."""
        ...

    async def names(self) -> list[str]:
        """Names of the loaded adapters."""
        ...

    async def changes(self, name: str, prompt: tuple[Message, ...], answer: str) -> bool:
        """Whether the model says something else with the loaded adapter than without, after a prompt of its training.

        `answer` is what it was trained to say. ModelError when that cannot be told.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPair:
    """A preference pair as the trainer sees it."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str  # "" for supervised training alone


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """All that a training process is told; it reads nothing else."""

    cluster_id: str
    kind: str  # expert or critic
    base_path: str
    base_fingerprint: str
    pairs: tuple[TrainingPair, ...]
    out_dir: str  # the adapter folders are written below it
    rank: int
    settings: Mapping[str, Json]  # config.TrainSettings, dumped
    name: str = ""  # of the cluster, stable over cycles; begins the adapter's name
    start: str = ""  # folder below out_dir of the adapter to go on from; "": a new one
    start_id: str = ""  # its id
    learned: tuple[str, ...] = ()  # ids of the pairs that it has learned
    template: Mapping[str, Json] = field(default_factory=dict)  # arguments of the chat template
    times: int = 0  # how often in a row an adapter has gone on from another, this time too
    seed: int = 0


class Executor(Protocol):
    """Where heavy work runs: a child process of this machine, or a cluster."""

    def train(self, job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
        """Train and return one adapter a checkpoint; raises TrainingError with the reason."""
        ...

    def close(self) -> None:
        """No more jobs come for now: what waits for them gives its memory back."""
        ...


class Clock(Protocol):
    """The time."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the calls for one purpose took."""

    calls: int = 0  # that reached the model
    remembered: int = 0  # answered from the store
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0  # in the currency of the prices

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(**{name: getattr(self, name) + getattr(other, name) for name in asdict(self)})


def _nothing_spent() -> Mapping[str, Spent]:
    return {}


class NoiseReader(Protocol):
    """Trained classifiers of noise."""

    @property
    def name(self) -> str:
        """Equal names, equal scores."""
        ...

    def by_class(self, texts: Sequence[str], vectors: Vectors | None, embedder: str) -> Sequence[Mapping[str, float]]:
        """Each text's score 0..1 by class; `vectors` (N, D) are those of the embedder with that fingerprint."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Every outside thing a cycle uses, bound once in `app.build`."""

    embedder: Embedder
    coverage: Coverage
    student: Chat  # the served model, base and adapters
    likelihood: Likelihood | None  # None: the endpoint gives no log-probabilities
    teacher: Chat | None  # None: rules and pairs come from the users' own words alone
    adapters: AdapterServer
    executor: Executor
    clock: Clock
    base_parameters: int
    base_fingerprint: str
    lora_sizes: Mapping[str, int] = field(default_factory=dict)  # target module set -> parameters of rank 1
    base_path: str = ""  # folder of the base model, for training
    adapters_dir: str = ""  # folder that Adapter.path is relative to
    noise: NoiseReader | None = None  # None: the lexicon alone
    spent: Callable[[], Mapping[str, Spent]] = _nothing_spent  # on the teacher's calls, by purpose
    detector: Detector | None = None  # None: turns are read by their wording alone
