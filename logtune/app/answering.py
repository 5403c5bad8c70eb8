"""What answers a routed request: its candidate, and where that cannot, the base model; the reason is in the choice.

Exchange with a Choice -> Answering.open -> Answer, its first bytes on their way

A critic's failure is never the client's: the draft of the base model is there already, and is served in its place.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from logtune.app.critic import Part, drafted, revision, usage_of
from logtune.app.exchange import Exchange
from logtune.app.redaction import SHOWN_ERROR, Redaction
from logtune.app.routing import Router
from logtune.app.rules_prompt import with_rules
from logtune.edges.project_scope import unpicked
from logtune.edges.sse import cut
from logtune.edges.upstream import CHAT, STREAM_TYPE, Answer, Backend, UpstreamCall, once, released
from logtune.errors import RequestError
from logtune.records import Json
from logtune.stages.answer import CRITICS

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that has come to its end."""

    answer: Answer
    body: bytes
    completion: Mapping[str, Json] | None  # None: it is none

    def again(self) -> Answer:
        """The same, for whoever reads it next."""
        return replace(self.answer, chunks=once(self.body), release=released)


class Refusal(RequestError):
    """A model server's answer that is none, on the way to another one."""

    def __init__(self, what: str, whole: Whole) -> None:
        super().__init__(what, whole.answer.status)
        self.whole = whole


class Unrevised(RequestError):
    """A critic's way has broken off after the draft, which is there."""

    def __init__(self, what: str, status: int, draft: Whole) -> None:
        super().__init__(what, status)
        self.draft = draft


class TooLarge(RequestError):
    """An answer of more than `most` bytes, where it has to be held as a whole."""

    def __init__(self, most: int) -> None:
        super().__init__(cut(most), 502, code="answer_too_large")


class Answering:
    """Asks the backend for what a choice says; `served_name` is the base model's name there.

    `most`: bytes of an answer on the way to another one.
    """

    def __init__(self, backend: Backend, router: Router, served_name: str, redaction: Redaction, most: int) -> None:
        self._most = most
        self._backend = backend
        self._router = router
        self._served_name = served_name
        self._redaction = redaction

    async def open(self, exchange: Exchange) -> Answer:
        """The answer of the chosen candidate; the base model's when its adapter is lost, or its critic fails."""
        lost = exchange.choice.adapter
        try:
            answer = await self.unless_lost(exchange)
        except Unrevised as error:
            LOG.warning("%s; the base model answers", error.what)
            exchange.choice = exchange.choice.given_up(error.what)
            return self._draft(exchange, error.draft) or await self._base(exchange)
        if answer is not None:
            return answer
        exchange.choice = exchange.choice.given_up(f"the model server has lost {lost}")
        return await self._base(exchange)

    async def unless_lost(self, exchange: Exchange) -> Answer | None:
        """The answer of the chosen candidate; None where the server has lost its adapter: it is loaded again.

        Unrevised where a critic says nothing, or what it says does not help.
        """
        try:
            answer = await self._candidate(exchange)
            if exchange.choice.adapter is None or answer.status != 404 or exchange.path != CHAT:
                return answer
            await answer.close()
        except RequestError as error:
            if exchange.choice.adapter is None or error.status != 404 or exchange.path != CHAT:
                raise
        self._router.lost(exchange.choice.adapter)
        LOG.warning(
            "the model server has lost %s; the base model answers until it is loaded again", exchange.choice.adapter
        )
        return None

    async def _candidate(self, exchange: Exchange) -> Answer:
        model = exchange.choice.model or self._served_name
        if exchange.choice.kind in CRITICS:
            return await self._reviewed(exchange, model)
        body = unpicked(exchange.body) if self._router.killed() else exchange.body
        rules = exchange.choice.rules
        return await self._call(exchange, model, with_rules(body, rules) if rules else body)

    async def _reviewed(self, exchange: Exchange, critic: str) -> Answer:
        """The answer as revised; what the base model refuses to draft is its own answer, and passes as it came."""
        came: list[Whole] = []

        async def ask(name: str, body: Mapping[str, Json]) -> Mapping[str, Json]:
            found = await self._part(exchange, name or self._served_name, body)
            came.append(found)
            return found.completion or {}

        try:
            revised = await revision(ask, critic, exchange.body)
            if revised is None:
                exchange.choice = exchange.choice.given_up("a critic reviews plain text alone")
                return await self._base(exchange)
            answer = await self._call(exchange, self._served_name, revised)
        except RequestError as error:
            if came:  # of the second call alone a 404 says something of the critic's adapter
                status = error.status if len(came) == 1 else 502
                raise Unrevised(_failure(error, len(came)), status, came[0]) from error
            exchange.choice = exchange.choice.given_up("the base model gave no draft")
            if isinstance(error, TooLarge):
                return await self._base(exchange)
            if isinstance(error, Refusal):
                return error.whole.again()
            raise
        if answer.status < 400:
            return answer
        await answer.close()
        raise Unrevised(_failed("the revision", answer.status), 502, came[0])

    def _draft(self, exchange: Exchange, draft: Whole) -> Answer | None:
        """The draft as the answer; None where the client has asked for several choices, of which it is one."""
        if exchange.body.get("n") not in (None, 1):
            return None
        exchange.called = self._served_name
        del exchange.parts[0]  # it is no step on the way any more
        if not exchange.body.get("stream"):
            return draft.again()
        options = exchange.body.get("stream_options")
        counted = isinstance(options, dict) and bool(options.get("include_usage"))
        events = drafted(draft.completion or {}, include_usage=counted)
        return replace(draft.answer, content_type=STREAM_TYPE, chunks=once(events), release=released)

    async def _part(self, exchange: Exchange, model: str, body: Mapping[str, Json]) -> Whole:
        """One call on the way to an answer, in one piece; RequestError when there is no completion."""
        asked = time.perf_counter()
        answer = await self._call(exchange, model, body)
        opened = time.perf_counter()
        try:
            whole = await read_whole(answer, self._most)
        finally:
            exchange.backend_s += time.perf_counter() - opened
        completion, problem = read_answer(answer.status, whole)
        found = Whole(answer, whole, completion)
        if completion is None:
            raise Refusal(problem or "no answer", found)
        exchange.parts.append(
            Part(usage_of((), completion.get("usage")), round(1000 * (time.perf_counter() - asked), 3))
        )
        return found

    async def _base(self, exchange: Exchange) -> Answer:
        return await self._call(exchange, self._served_name, exchange.body)

    async def _call(self, exchange: Exchange, model: str, body: Mapping[str, Json]) -> Answer:
        exchange.called = model
        raw = exchange.raw if body is exchange.body else json.dumps(body).encode()
        asked = exchange.asked = time.perf_counter()
        if self._redaction.quick(len(exchange.raw)):  # once the model is at work, while nobody waits for this
            asyncio.get_running_loop().call_soon(exchange.clean, self._redaction)
        call = UpstreamCall(
            id=exchange.id, body=body, raw=raw, model=model, headers=exchange.client, path=exchange.path
        )  # fmt: skip
        try:
            return await self._backend.open(call)
        finally:
            exchange.backend_s += time.perf_counter() - asked


async def read_whole(answer: Answer, most: int) -> bytes:
    """The body of an answer, which is closed; TooLarge above `most` bytes."""
    chunks, size = list[bytes](), 0
    try:
        async for chunk in answer.chunks:
            chunks.append(chunk)
            size += len(chunk)
            if size > most:
                raise TooLarge(most)
    finally:
        await answer.close()
    return b"".join(chunks)


def read_answer(status: int, body: bytes) -> tuple[dict[str, Json] | None, str | None]:
    """The completion in a whole answer, and why there is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if status == 200 and isinstance(value, dict) and "choices" in value:
        return value, None
    shown = body[:SHOWN_ERROR].decode("utf-8", "replace")
    if isinstance(value, dict) and "\\u" in shown:  # escapes would hide from the redaction what they say
        shown = json.dumps(value, ensure_ascii=False)[:SHOWN_ERROR]
    return None, f"the model server answered {status}: {shown}"


def _failure(error: RequestError, calls: int) -> str:
    """Why there is no revised answer after so many calls; a server's own words may repeat what the user said."""
    what = "the critic" if calls == 1 else "the revision"
    return _failed(what, error.status) if isinstance(error, Refusal) else f"{what} failed: {error.what[:200]}"


def _failed(what: str, status: int) -> str:
    return f"{what} failed: the model server answered {status}"
