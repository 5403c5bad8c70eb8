"""What the comparison and the systems that it compares know of each other.

    users -> Request -> System.answer -> Reply -> users -> Reaction -> System.tell ... -> System.learn (once a week)

A system never sees a `Case`: what is right, what is noise and what the checks are stay with the streams. It lives in
`Setting.folder` alone and is opened anew each week, so that a comparison can be stopped after any of them.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from logtune.edges.store import Store
from logtune.ports import Tools
from logtune.records import Json, Message

Prompt: TypeAlias = tuple[Message, ...]
ReactionKind = Literal["rating", "edit", "comment", "reask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asks, as every system sees it."""

    id: str
    week: int  # 1-based, of the stream; of a held-out request the week since which its topic is served
    messages: Prompt  # a system message and the user's
    user: str
    at: float  # seconds since 1970 by the calendar of the stream

    @property
    def text(self) -> str:
        """The user's words."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request with what only the stream knows."""

    request: Request
    topic: str | None  # what it is about, of the stream's own topics; None: noise
    truth: str | None  # the right answer, where there is exactly one
    noise: str | None = None  # its label; None: an honest request


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """What a user does about an answer; silence is no reaction."""

    kind: ReactionKind
    value: float | None = None  # of a rating: -1 bad, 1 good
    comment: str | None = None
    correction: str | None = None  # of an edit: the answer as it should have been
    reask: str | None = None  # the next message of the same user in the same conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer and what it took."""

    text: str
    prompt_tokens: int  # read by the model for this answer, in all calls together
    completion_tokens: int
    latency_ms: float  # as this call took, with whatever ran beside it
    id: str = ""  # by which the system knows it again
    source: str = "base"  # base, an adapter's name, memory...


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What a system may learn from: an exchange and what its user did about it. Whether it was right nobody says."""

    request: Request
    answer: str
    reaction: Reaction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What would be asked for a prompt, and of which model: it answers by itself, or is asked with more in its prompt.

    Retention is measured on it: the likelihood of an answer to `messages` under `model`.
    """

    messages: Prompt
    model: str = ""  # "": the base model; else a loaded adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a week's learning took and left behind."""

    seconds: float  # wall clock
    training_tokens: int = 0  # prompt and answers of all pairs, times epochs; 0: nothing was trained
    adapter_parameters: int = 0  # of all adapters that serve from now on
    adapter_share: float = 0.0  # the same as a share of the base model's
    human_actions: int = 0
    teacher_calls: int = 0  # remembered replies too, since others may have paid for them
    note: str = ""  # what was learned, refused and why, in words
    figures: Mapping[str, Json] = field(
        default_factory=dict
    )  # more that only this system can say, such as its filter's


class System(Protocol):
    """A way to make a served model better from its logs, with its own users: each reacts to what it was answered."""

    name: str

    async def answer(self, requests: Sequence[Request], *, record: bool) -> list[Reply]:
        """One reply a request, in order. `record` False: a test, of which nothing may be kept or learned."""
        ...

    async def tell(self, request: Request, reply: Reply, reaction: Reaction | None) -> None:
        """What the user did about a recorded reply; None: nothing. A re-ask is answered within, by the system."""
        ...

    async def learn(self, week: int) -> Learnt:
        """The end of a week: learn from all that was logged so far, unattended."""
        ...

    async def prepare(self, prompts: Sequence[Prompt]) -> list[Prepared]:
        """For each prompt what would be asked of which model; models are loaded in the engine until `close`."""
        ...

    async def close(self) -> None:
        """Write everything to the folder and let go of it."""
        ...


class Stream(Protocol):
    """Weeks of requests with their users, and the held-out requests on which quality is measured."""

    @property
    def name(self) -> str:
        """Also that of its folder of results."""
        ...

    @property
    def max_tokens(self) -> int:
        """Of an answer."""
        ...

    @property
    def weeks(self) -> int:
        """With new topics; later weeks repeat the stream."""
        ...

    @property
    def needs_teacher(self) -> str:
        """Why, in words; "": it does not."""
        ...

    @property
    def cases(self) -> Sequence[Case]:
        """Of all weeks."""
        ...

    @property
    def held_out(self) -> Sequence[Case]:
        """On which quality is measured."""
        ...

    def check(self, case: Case, answer: str) -> float:
        """How good an answer is, 0..1."""
        ...

    def react(self, case: Case, answer: str, draw: random.Random) -> Reaction | None:
        """What the user of `case` does about an answer."""
        ...


class Engine(Protocol):
    """The served model and its surroundings, loaded once for all systems."""

    tools: Tools  # of logtune's ports: student, likelihood, adapters, executor, embedder, teacher, sizes of the base

    async def generate(self, asked: Sequence[Prepared], *, max_tokens: int, fresh: bool = False) -> list[Reply]:
        """Greedy answers, in order, many at once. `fresh` False: those given before are remembered on disk."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that a system is given."""

    folder: Path  # its own, and all that it may write to; what it finds there is as its `close` left it
    engine: Engine
    seed: int
    max_tokens: int  # of an answer
    teacher: str | None  # base URL with /v1 of a stronger model, for systems that can use one
    settings: Mapping[str, Json]  # of logtune: what `--set` said, such as the model
    say: Callable[[str], None]
    replies: Store | None = None  # of the teacher, for all systems alike; None: each remembers its own


Factory: TypeAlias = Callable[[Setting], System]  # compare_systems.SYSTEMS: name -> factory


class Unavailable(Exception):
    """A factory cannot make its system here; says why."""
