"""Systems that leave the model alone or give it one adapter, and differ in what they put into its prompt.

System = LogBook + Way        Way: Lessons -> state in the folder; prompt -> what is asked of which model
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from compare_logs import NOTHING, REASKED, Lessons, LogBook
from compare_types import Learnt, Prepared, Prompt, Reaction, Reply, Request, Setting, System

from logtune.ports import Tools
from logtune.records import Json, Message

SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What a week's learning came to, beside its time."""

    note: str
    training_tokens: int = 0
    adapter_parameters: int = 0
    figures: dict[str, Json] = field(default_factory=dict)


class Way(Protocol):
    """What a system makes of its logs."""

    filtered: bool  # whether it learns from what logtune's filter and trust let through
    learns: bool  # False: the logs are not even read

    async def open(self) -> None:
        """Take up what an earlier week left in the folder."""
        ...

    async def learn(self, lessons: Lessons) -> Taught:
        """Learn anew from all logs so far, and write it down."""
        ...

    def prepare(self, prompt: Prompt) -> Prepared:
        """What is asked for a prompt."""
        ...

    @property
    def serving(self) -> str | None:
        """Id of the adapter that answers; None: the base model."""
        ...

    async def close(self) -> None:
        """Unload what was loaded."""
        ...


class PromptedSystem:
    """A system of the comparison; see the module."""

    def __init__(self, name: str, setting: Setting, way: Way, book: LogBook) -> None:
        self.name = name
        self._setting = setting
        self._way = way
        self._book = book
        self._opened = False

    async def answer(self, requests: Sequence[Request], *, record: bool) -> list[Reply]:
        """As in the protocol; all requests are on their way at once."""
        replies = await self._ask([request.messages for request in requests])
        if not record:
            return replies
        named = [replace(reply, id=request.id) for request, reply in zip(requests, replies, strict=True)]
        for request, reply in zip(requests, named, strict=True):
            self._book.add(request, request.messages, reply, reply.id, self._way.serving)
        return named

    async def tell(self, request: Request, reply: Reply, reaction: Reaction | None) -> None:
        """As in the protocol."""
        if reaction is None:
            return
        if reaction.kind != "reask":
            self._book.react(request, reply.id, reaction)
            return
        said = Message(role="assistant", content=reply.text), Message(role="user", content=reaction.reask or "")
        again = (*request.messages, *said)
        (second,) = await self._ask([again])
        self._book.add(request, again, second, f"{reply.id}{REASKED}", self._way.serving)

    async def learn(self, week: int) -> Learnt:
        """As in the protocol."""
        await self._open()
        started, before = time.monotonic(), self._teacher_calls()
        lessons = await self._book.lessons(filtered=self._way.filtered) if self._way.learns else NOTHING
        taught = await self._way.learn(lessons)
        return Learnt(
            seconds=time.monotonic() - started, training_tokens=taught.training_tokens,
            adapter_parameters=taught.adapter_parameters,
            adapter_share=taught.adapter_parameters / max(1, self._book.tools.base_parameters),
            teacher_calls=self._teacher_calls() - before, note=taught.note, figures=taught.figures,
        )  # fmt: skip

    async def prepare(self, prompts: Sequence[Prompt]) -> list[Prepared]:
        """As in the protocol."""
        await self._open()
        return [self._way.prepare(prompt) for prompt in prompts]

    async def close(self) -> None:
        """As in the protocol."""
        await self._way.close()
        self._book.close()

    async def _open(self) -> None:
        if not self._opened:
            await self._way.open()
            self._opened = True

    async def _ask(self, prompts: Sequence[Prompt]) -> list[Reply]:
        started = time.perf_counter()
        prepared = await self.prepare(prompts)
        each_ms = 1000 * (time.perf_counter() - started) / max(1, len(prompts))
        replies = await self._setting.engine.generate(prepared, max_tokens=self._setting.max_tokens)
        return [
            replace(r, latency_ms=r.latency_ms + each_ms, source=p.model or r.source)
            for r, p in zip(replies, prepared, strict=True)
        ]

    def _teacher_calls(self) -> int:
        return sum(spent.calls + spent.remembered for spent in self._book.tools.spent().values())


class Plain:
    """The base model as it is; also what other ways begin from."""

    filtered = True
    learns = False
    serving: str | None = None

    async def open(self) -> None:
        """Nothing is there."""

    async def learn(self, lessons: Lessons) -> Taught:
        """Nothing."""
        return Taught(note="nothing learned: the base model as it is")

    def prepare(self, prompt: Prompt) -> Prepared:
        """The prompt."""
        return Prepared(messages=prompt)

    async def close(self) -> None:
        """Nothing was loaded."""


MakeWay: TypeAlias = Callable[[Setting, Tools], Way]


def prompted(name: str, make: MakeWay) -> Callable[[Setting], System]:
    """A factory of systems."""

    def factory(setting: Setting) -> System:
        book = LogBook(setting)
        return PromptedSystem(name, setting, make(setting, book.tools), book)

    return factory


def told(prompt: Prompt, text: str) -> Prompt:
    """The prompt with a text at the end of its system message, which is made where there is none."""
    if not text:
        return prompt
    first = prompt[0]
    if first.role in SYSTEM_ROLES:
        return (Message(role=first.role, content=f"{first.content}\n\n{text}"), *prompt[1:])
    return (Message(role="system", content=text), *prompt)


def with_turns(prompt: Prompt, turns: Sequence[Message]) -> Prompt:
    """The prompt with a conversation put in after its system message."""
    start = 1 if prompt[0].role in SYSTEM_ROLES else 0
    return (*prompt[:start], *turns, *prompt[start:])
