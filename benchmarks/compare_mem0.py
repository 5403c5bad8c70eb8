"""mem0 itself as a system of the comparison: optional, `pip install mem0ai`, and a teacher that writes its memories.

It runs offline: its model is the teacher of the comparison, its embedder logtune's, its vectors lie in the folder of
the system, and its telemetry is off.
"""

import asyncio
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from compare_logs import Dialogue, Lessons
from compare_prompted import Plain, Taught, told
from compare_types import Prepared, Prompt, Setting, Unavailable

from logtune.errors import LogtuneError
from logtune.ports import Chat, ChatCall, Embedder, Tools
from logtune.records import Message

if TYPE_CHECKING:
    from mem0 import Memory

EVERYBODY = {"user_id": "everybody"}  # what one user wanted is to help the next
SHOWN = 4  # memories in a prompt
CLOSE = 0.1  # score from which they are shown: its default
INSTRUCTIONS = (
    "Remember what users want of answers to requests like theirs: the right answer they name, or how it should be."
)


class Mem0(Plain):
    """Memories that mem0 writes, merges and finds; a dialogue is read once."""

    learns = True

    def __init__(self, setting: Setting, tools: Tools) -> None:
        if tools.teacher is None:
            raise Unavailable("mem0 writes its memories with a teacher, and there is none: give its URL")
        if importlib.util.find_spec("mem0") is None:
            raise Unavailable("mem0ai is not installed: pip install mem0ai")
        self._folder, self._tools, self._teacher = setting.folder / "mem0", tools, tools.teacher
        self._say = setting.say
        self._memory: Memory | None = None

    async def open(self) -> None:
        """As in the protocol."""
        self._folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {"MEM0_TELEMETRY": "False", "MEM0_DIR": str(self._folder / "home")}  # read when it is imported
        from mem0 import Memory

        size = self._tools.embedder.embed(["a"]).shape[1]
        vectors = {"path": str(self._folder / "vectors"), "on_disk": True, "embedding_model_dims": size}
        unused = {"provider": "openai", "config": {"api_key": "unused"}}
        self._memory = Memory.from_config({
            "vector_store": {"provider": "qdrant", "config": vectors}, "llm": unused, "embedder": unused,
            "history_db_path": str(self._folder / "history.db"), "custom_instructions": INSTRUCTIONS,
        })  # fmt: skip
        self._memory.llm = Writer(self._teacher, asyncio.get_running_loop())
        self._memory.embedding_model = Vectors(self._tools.embedder)

    async def learn(self, lessons: Lessons) -> Taught:
        """As in the protocol."""
        file = self._folder / "read.json"
        read = set(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else set()
        fresh = [each for each in lessons.dialogues if each.told and each.id not in read]
        failed = await asyncio.to_thread(self._add, fresh)
        file.write_text(json.dumps(sorted(read | {each.id for each in fresh})), encoding="utf-8")
        kept = len(self._there().get_all(filters=EVERYBODY, top_k=10**6)["results"])
        return Taught(note=f"{kept} memories of {len(read) + len(fresh)} dialogues, {failed} failed this week")

    def _add(self, fresh: Sequence[Dialogue]) -> int:
        failed = 0
        for each in fresh:
            turns = (("user", each.query), ("assistant", each.answer), ("user", each.told))
            try:
                self._there().add([{"role": role, "content": text} for role, text in turns], **EVERYBODY)
            except (LogtuneError, ValueError) as error:
                failed += 1
                self._say(f"mem0: {each.id}: {error}")
        return failed

    def prepare(self, prompt: Prompt) -> Prepared:
        """As in the protocol."""
        found = self._there().search(prompt[-1].content, filters=EVERYBODY, top_k=SHOWN, threshold=CLOSE)["results"]
        lines = [f"- {row['memory']}" for row in reversed(found)]
        return Prepared(
            messages=told(prompt, "\n".join(["Notes from earlier conversations:", *lines]) if lines else "")
        )

    async def close(self) -> None:
        """As in the protocol."""
        if self._memory is not None:
            self._memory.vector_store.client.close()
            self._memory.close()
            self._memory = None

    def _there(self) -> "Memory":
        assert self._memory is not None
        return self._memory


class Writer:
    """The teacher as mem0 calls a model: from a thread, in its own terms."""

    def __init__(self, teacher: Chat, loop: asyncio.AbstractEventLoop) -> None:
        self._teacher, self._loop = teacher, loop

    def generate_response(
        self, messages: Sequence[Mapping[str, str]], response_format: object = None, **options: object
    ) -> str:
        """The reply; JSON where a format is asked for."""
        asked = tuple(Message(role=m["role"], content=m["content"]) for m in messages)
        schema = {"type": "object"} if response_format else None
        call = ChatCall(messages=asked, schema=cast("Any", schema), max_tokens=600, purpose="memory")
        return asyncio.run_coroutine_threadsafe(self._teacher.complete(call), self._loop).result().text


class Vectors:
    """logtune's embedder as mem0 calls one."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        """One vector."""
        return cast("list[float]", self._embedder.embed([text])[0].tolist())

    def embed_batch(self, texts: Sequence[str], memory_action: str = "add") -> list[list[float]]:
        """One vector a text."""
        return cast("list[list[float]]", self._embedder.embed(list(texts)).tolist())
