"""Server-sent events of a streamed chat or text completion, put together again for the log.

bytes as they pass -> StreamAssembler -> one chat.completion or text_completion object

It only reads: what the client gets are the bytes as they came. Garbage is counted, never raised, because a log must not
break an answer.
"""

import json
from collections.abc import Mapping

from logtune.records import Json

LONGEST_LINE = 8 << 20  # bytes; a line without an end beyond it is garbage
LISTED = ("content", "reasoning_content", "reasoning", "refusal")  # texts that arrive in pieces


def event(value: Mapping[str, Json]) -> bytes:
    """One event with a JSON object."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


HEAD: tuple[str, ...] = (
    "id",
    "created",
    "model",
    "system_fingerprint",
    "service_tier",
)  # what all chunks of an answer say
MOST = 8 << 20  # bytes of an answer that are kept
EACH = 200  # bytes that a choice takes beside what it says
DONE = b"data: [DONE]\n\n"


class StreamAssembler:
    """Feed it the bytes of a stream, cut anywhere; `done` once [DONE] was in them. It keeps about `most` bytes."""

    def __init__(self, most: int = MOST) -> None:
        self.done = False
        self._most = most
        self._size = 0  # of what is kept
        self.error: str | None = None  # what an error event said
        self.garbage = 0  # lines that were no event of a chat completion
        self._rest = b""
        self._missing = HEAD
        self.head: dict[str, Json] = {}  # id, model and so on, as soon as they are known
        self._usage: dict[str, Json] = {}
        self._choices: dict[int, dict[str, Json]] = {}

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line:
                self._line(line.rstrip(b"\r"))
        if len(self._rest) > LONGEST_LINE:
            self._rest, self.garbage = b"", self.garbage + 1

    def completion(self) -> dict[str, Json] | None:
        """What has arrived as one completion; None when no choice has. A cut choice has finish_reason None."""
        if self._rest:
            self.feed(b"\n")  # the end of the stream ends its last line
        if not self._choices:
            return None
        choices: list[Json] = [self._choices[index] for index in sorted(self._choices)]
        kind = "text_completion" if all("text" in choice for choice in self._choices.values()) else "chat.completion"
        whole = {**self.head, "object": kind, "choices": choices}
        return {**whole, "usage": self._usage} if self._usage else whole

    def problem(self) -> str | None:
        """What was wrong with the stream so far; None: nothing."""
        if self.error:
            return self.error
        if self._size > self._most:
            return cut(self._most)
        if self.garbage:
            return f"{self.garbage} lines of the stream were no event"
        ended = self.done or any(choice["finish_reason"] for choice in self._choices.values())
        return None if ended else "the stream stopped before its end"

    def _line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":  # comments, other fields, blank lines
            self.garbage += 1 if name not in (b"", b"event", b"id", b"retry") else 0
            return
        text = value.removeprefix(b" ")
        if text == b"[DONE]":
            self.done = True
            return
        try:
            parsed = json.loads(text.decode("utf-8", "surrogatepass"))  # else json looks for other encodings
        except (ValueError, RecursionError):
            self.garbage += 1
            return
        self._chunk(parsed, len(text))

    def _chunk(self, chunk: Json, size: int) -> None:
        if not isinstance(chunk, dict):
            self.garbage += 1
            return
        if chunk.get("error"):
            problem = chunk["error"]
            self.error = str(problem.get("message", problem) if isinstance(problem, dict) else problem)
            return
        for key in self._missing:
            if chunk.get(key) is not None:
                self.head[key] = chunk[key]
                self._missing = tuple(name for name in HEAD if name not in self.head)
        usage, choices = chunk.get("usage"), chunk.get("choices")
        if isinstance(usage, dict):
            self._usage = usage
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                self._choice(choice, size)

    def _choice(self, piece: dict[str, Json], size: int) -> None:
        """Take a piece of a choice, of a line of `size` bytes; beyond the measure its end alone."""
        index = piece.get("index", 0)
        number = index if isinstance(index, int) else 0
        text, delta = piece.get("text"), piece.get("delta")
        if number not in self._choices:
            self._size += EACH
            if self._size > self._most:
                return
            message: dict[str, Json] = {"role": "assistant", "content": None}
            said: dict[str, Json] = {"text": ""} if isinstance(text, str) and delta is None else {"message": message}
            self._choices[number] = {"index": number, **said, "finish_reason": None}
        choice = self._choices[number]
        if piece.get("finish_reason") is not None:
            choice["finish_reason"] = piece["finish_reason"]
        self._size += _size_of(piece, size)
        if self._size > self._most:
            return
        if isinstance(piece.get("logprobs"), dict):
            _extend_logprobs(choice, piece["logprobs"])
        old, whole = choice.get("text"), choice.get("message")
        if isinstance(old, str) and isinstance(text, str):
            choice["text"] = old + text
        if isinstance(delta, dict) and isinstance(whole, dict):
            _extend_message(whole, delta)


def cut(most: int) -> str:
    """What a record says of an answer that is not kept whole."""
    return f"the answer is larger than {most / 2**20:g} MB, and no more of it is kept (serve.record_mb)"


def _size_of(piece: Mapping[str, Json], line: int) -> int:
    """Bytes that a piece adds: its words, or about as many as its whole line where it holds more than those."""
    delta = piece.get("delta") or {}
    if isinstance(delta, dict) and len(delta) == 1 and isinstance(delta.get("content"), str):
        return line if piece.get("logprobs") else len(str(delta["content"]))  # nearly all of them
    if isinstance(delta, dict) and not piece.get("logprobs"):
        words = [value for value in (*delta.values(), piece.get("text")) if value is not None]
        if all(isinstance(value, str) for value in words):
            return sum(len(value) for value in words if isinstance(value, str))
    return line


def _extend_message(message: dict[str, Json], delta: dict[str, Json]) -> None:
    for key, value in delta.items():
        old = message.get(key)
        if key in LISTED and isinstance(value, str):
            message[key] = (old if isinstance(old, str) else "") + value
        elif key == "tool_calls" and isinstance(value, list):
            calls = old if isinstance(old, list) else []
            message[key] = calls
            for call in value:
                if isinstance(call, dict):
                    _extend_tool_call(calls, call)
        elif value is not None and not (key in LISTED and isinstance(old, str)):
            message[key] = value


def _extend_tool_call(calls: list[Json], piece: dict[str, Json]) -> None:
    index = piece.get("index", len(calls))
    found = next((call for call in calls if isinstance(call, dict) and call.get("index") == index), None)
    if found is None:
        calls.append({**piece, "index": index})
        return
    function, more = found.setdefault("function", {}), piece.get("function")
    if isinstance(function, dict) and isinstance(more, dict):
        arguments = f"{function.get('arguments') or ''}{more.get('arguments') or ''}"
        function.update({key: value for key, value in more.items() if value is not None} | {"arguments": arguments})


def _extend_logprobs(choice: dict[str, Json], piece: Json) -> None:
    whole = choice.setdefault("logprobs", {})
    if not isinstance(whole, dict) or not isinstance(piece, dict):
        return
    for key, value in piece.items():
        old = whole.get(key)
        whole[key] = [*old, *value] if isinstance(old, list) and isinstance(value, list) else value
