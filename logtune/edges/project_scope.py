"""One project's view of what all projects share: at the model server, its adapters alone exist.

AdapterServer, Backend, Chat, Likelihood of everybody -> the same, where adapters of other projects are neither seen
nor asked, loaded or unloaded

At the server a project's adapter is called `<name>@<project>`; the default project's keeps the name it has everywhere
else, which holds one "@". So whose an adapter is can be read off its name, also by another gateway or after a restart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from logtune.edges.adapter_server import ours
from logtune.edges.upstream import Answer, Backend, UpstreamCall
from logtune.errors import RequestError
from logtune.ports import AdapterServer, Chat, ChatCall, ChatReply, Likelihood
from logtune.records import Json, Message

DEFAULT = "default"  # the project of the configured store
PICKING = ("lora_path", "lora_name", "adapter_id")  # fields by which SGLang and LoRAX are told an adapter too


def unpicked(body: Mapping[str, Json]) -> Mapping[str, Json]:
    """A request without the fields that pick an adapter; the same object where it has none."""
    return body if body.keys().isdisjoint(PICKING) else {key: body[key] for key in body if key not in PICKING}


@dataclass(frozen=True, slots=True)
class Names:
    """What the adapters of one project are called at the server."""

    project: str = DEFAULT

    def there(self, name: str) -> str:
        """The name at the server of what this project calls `name`; a name with two "@" is one of the server's."""
        return f"{name}@{self.project}" if self.project != DEFAULT and name.count("@") == 1 else name

    def here(self, name: str) -> str | None:
        """What this project calls an adapter of ours at the server; None: it is another project's."""
        adapter, mark, project = name.rpartition("@")
        if "@" not in adapter:
            return name if mark and self.project == DEFAULT else None
        return adapter if project == self.project else None


class ScopedAdapters:
    """An AdapterServer that holds one project's adapters."""

    def __init__(self, server: AdapterServer, project: str) -> None:
        self._server = server
        self._names = Names(project)

    async def load(self, name: str, path: str) -> None:
        """As the server."""
        await self._server.load(self._names.there(name), path)

    async def unload(self, name: str) -> None:
        """As the server."""
        await self._server.unload(self._names.there(name))

    async def names(self) -> list[str]:
        """The project's adapters; others of the server, ours or not, are left out."""
        found = [self._names.here(name) for name in await self._server.names()]
        return [name for name in found if name is not None]

    async def changes(self, name: str, prompt: tuple[Message, ...], answer: str) -> bool:
        """As the server."""
        return await self._server.changes(self._names.there(name), prompt, answer)


class ScopedBackend:
    """A Backend where only one project's adapters can be asked for, besides what the server has that is not ours.

    `served_name` is the base model's name, which is everybody's whatever it looks like.
    """

    def __init__(self, backend: Backend, project: str, served_name: str) -> None:
        self._backend = backend
        self._names = Names(project)
        self._served_name = served_name

    async def open(self, call: UpstreamCall) -> Answer:
        """As the backend; RequestError 404 for another project's adapter."""
        for field in PICKING:
            if field in call.body:
                self._check(field, call.body[field])
        if not ours(call.model) or call.model == self._served_name:
            return await self._backend.open(call)
        name = self._names.there(call.model)
        self._check("model", name)
        return await self._backend.open(call if name == call.model else replace(call, model=name))

    async def models(self) -> list[dict[str, Json]]:
        """The rows that the project may see, its adapters under its own names."""
        rows = [(row, self._seen(str(row.get("id")))) for row in await self._backend.models()]
        return [row if row.get("id") == name else {**row, "id": name} for row, name in rows if name is not None]

    async def close(self) -> None:
        """Nothing: the backend is everybody's."""

    def _check(self, field: str, value: Json) -> None:
        """RequestError 404 where a field of the request names another project's adapter."""
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and ours(name) and self._names.here(name) is None:
                what = f"the model {name[:80]!r} does not exist; GET /v1/models lists those there are"
                raise RequestError(what, 404, param=field, code="model_not_found")

    def _seen(self, name: str) -> str | None:
        """What the project calls a model of the server; None: it does not see it."""
        return self._names.here(name) if ours(name) and name != self._served_name else name


class ScopedChat:
    """A Chat whose adapters are one project's."""

    def __init__(self, chat: Chat, project: str) -> None:
        self._chat = chat
        self._names = Names(project)

    async def complete(self, call: ChatCall) -> ChatReply:
        """As the chat."""
        name = self._names.there(call.model)
        return await self._chat.complete(call if name == call.model else replace(call, model=name))


class ScopedLikelihood:
    """A Likelihood whose adapters are one project's."""

    def __init__(self, likelihood: Likelihood, project: str) -> None:
        self._likelihood = likelihood
        self._names = Names(project)

    def nll(self, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str], model: str = "") -> list[float]:
        """As the likelihood."""
        return self._likelihood.nll(prompts, answers, self._names.there(model))
