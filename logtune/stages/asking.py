"""Chat, ChatCall -> a checked reply: JSON of one shape, asked for once more where the first reply breaks it.

A reply that is still wrong is an error that stays with the item: never a score, never an empty answer. It is remembered
by nobody, so that the next cycle asks anew.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from logtune.errors import AnswerRefused, InvalidReply, ModelError
from logtune.ports import Chat, ChatCall, Remembers
from logtune.prompts import language_of, read_object, render
from logtune.records import Message


class Reply(BaseModel):
    """Base of the shapes; what a model adds beside them is not read."""

    model_config = ConfigDict(frozen=True, strict=True)


class Rules(Reply):
    """Rules of one interaction."""

    rules: list[str]


class Rating(Reply):
    """How good one answer is."""

    score: Annotated[int, Field(ge=1, le=10)]


class Better(Reply):
    """Which of two answers is better."""

    better: Literal["A", "B", "tie"]


Shape = TypeVar("Shape", bound=Reply)


async def ask(chat: Chat, call: ChatCall, shape: type[Shape], what: str) -> Shape:
    """The reply to `call` as a `shape`; `what` names it in errors. ModelError when the second reply is wrong too."""
    return (await weigh(chat, call, shape, what))[0]


async def weigh(chat: Chat, call: ChatCall, shape: type[Shape], what: str) -> tuple[Shape, Mapping[str, float] | None]:
    """The same, and how likely the words were that `call` weighs; None where that is not told."""
    reply = await chat.complete(call)
    first = reply.text
    try:
        return read(first, shape, what), reply.odds
    except ModelError as error:
        problem = "; ".join(_said(error.__cause__))
        language = language_of(call.messages[-1].content)
        repair = Message(role="user", content=render("repair", language, problem=problem))
        # an empty turn of the assistant is refused by some chat templates
        said = Message(role="assistant", content=first.strip() or "{}")
        again = replace(call, messages=(*call.messages, said, repair))
        second = await chat.complete(again)
        try:
            return read(second.text, shape, what), second.odds
        except ModelError as still:
            if isinstance(chat, Remembers):
                await chat.forget((call, again))
            if second.finish_reason == "content_filter":
                raise AnswerRefused(
                    f"the teacher's {what} was stopped by a filter", "leave it, or ask another"
                ) from still
            raise


def read(text: str, shape: type[Shape], what: str) -> Shape:
    """The shape in a model's reply, also when prose or a code fence surrounds it; ModelError says what is wrong."""
    try:
        return shape.model_validate(read_object(text, what))
    except ValidationError as error:
        problem = "; ".join(_said(error))
        raise InvalidReply(
            f"the teacher's reply is no valid {what} ({problem}): {text[:200]!r}", "use a larger teacher"
        ) from error


def _said(cause: BaseException | None) -> list[str]:
    """What was wrong, without the wrong words themselves."""
    if isinstance(cause, ValidationError):
        return [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in cause.errors()[:3]]
    return ["no JSON object in it"]
