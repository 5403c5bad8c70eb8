import json
from itertools import pairwise

from gateway_kit import STREAM, chunk_line
from hypothesis import given
from hypothesis import strategies as st

from logtune.edges.sse import DONE, LONGEST_LINE, StreamAssembler, event
from logtune.records import Json


def assembled(*chunks: bytes) -> StreamAssembler:
    seen = StreamAssembler()
    for chunk in chunks:
        seen.feed(chunk)
    return seen


def message(seen: StreamAssembler, index: int = 0) -> dict[str, Json]:
    whole = json.loads(json.dumps(seen.completion()))
    found: dict[str, Json] = whole["choices"][index]["message"]
    return found


@given(st.lists(st.integers(1, len(STREAM)), max_size=12), st.booleans())
def test_the_same_stream_cut_anywhere_gives_the_same_completion(cuts: list[int], returns: bool) -> None:
    stream = STREAM.replace(b"\n", b"\r\n") if returns else STREAM
    edges = [0, *sorted(cuts), len(stream)]
    seen = assembled(*(stream[start:end] for start, end in pairwise(edges)))
    assert seen.done
    assert seen.problem() is None
    assert seen.completion() == assembled(STREAM).completion()
    assert message(seen)["content"] == "hello"


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=6)
CALLS = st.fixed_dictionaries(
    {"index": st.integers(0, 2)},
    optional={"id": st.text(max_size=3), "function": st.dictionaries(st.sampled_from(["name", "arguments"]), LEAVES)},
)
TEXTS = dict.fromkeys(("role", "content", "reasoning", "odd"), LEAVES)
DELTAS = st.fixed_dictionaries({}, optional={**TEXTS, "tool_calls": st.lists(CALLS, max_size=2)})
CHOICES = st.fixed_dictionaries(
    {"index": st.integers(0, 2), "delta": DELTAS | LEAVES},
    optional={"finish_reason": st.sampled_from([None, "stop", "length"]), "logprobs": LEAVES},
)
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, max_size=2)},
    optional={"id": st.text(max_size=4), "usage": st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)},
)


@given(st.lists(CHUNKS, max_size=5), st.lists(st.integers(0, 2000), max_size=8), st.booleans(), st.booleans())
def test_any_stream_cut_anywhere_gives_the_same_completion(
    chunks: list[dict[str, Json]], cuts: list[int], returns: bool, done: bool
) -> None:
    stream = b"".join(map(event, chunks)) + (DONE if done else b"")
    stream = stream.replace(b"\n", b"\r\n") if returns else stream
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    seen, whole = assembled(*(stream[start:end] for start, end in pairwise(edges))), assembled(stream)
    assert (seen.completion(), seen.problem(), seen.done) == (whole.completion(), whole.problem(), whole.done)
    assert whole.done is done
    assert whole.garbage == 0
    counted = {choice["index"] for chunk in chunks for choice in json.loads(json.dumps(chunk))["choices"]}
    found = whole.completion()
    assert len(json.loads(json.dumps(found))["choices"] if found else []) == len(counted)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_garbage_is_counted_and_never_raised(chunks: list[bytes]) -> None:
    seen = assembled(*chunks, b"\n", *(STREAM[:150], STREAM[150:]))
    assert seen.done
    assert message(seen)["content"] in ("hello", "lo")  # garbage may have swallowed no more than one line


def test_tool_calls_are_joined_by_their_index() -> None:
    def call(index: int, **function: str) -> Json:
        return {"index": index, "function": dict(function), **({"id": f"c{index}"} if "name" in function else {})}

    seen = assembled(
        chunk_line({"tool_calls": [call(0, name="f", arguments='{"a"')]}),
        chunk_line({"tool_calls": [call(1, name="g", arguments="")]}),
        chunk_line({"tool_calls": [call(0, arguments=": 1}"), call(1, arguments="{}")]}),
        chunk_line({}, "tool_calls"), DONE,
    )  # fmt: skip
    assert message(seen) == {
        "role": "assistant", "content": None,
        "tool_calls": [
            {"index": 0, "id": "c0", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"index": 1, "id": "c1", "function": {"name": "g", "arguments": "{}"}},
        ],
    }  # fmt: skip


def test_choices_logprobs_reasoning_and_usage_are_kept() -> None:
    def choice(index: int, token: str) -> Json:
        return {"index": index, "delta": {"content": token, "reasoning_content": "r"}, "logprobs": {"content": [token]}}

    chunks = [{"id": "i", "choices": [choice(1, "x"), choice(0, "a")]}, {"choices": [choice(0, "b")]}]
    seen = assembled(*map(event, chunks), event({"choices": [], "usage": {"total_tokens": 9}}), DONE)
    whole = seen.completion()
    assert whole is not None
    assert (whole["id"], whole["object"], whole["usage"]) == ("i", "chat.completion", {"total_tokens": 9})
    first, second = json.loads(json.dumps(whole["choices"]))
    assert (first["message"]["content"], second["message"]["content"]) == ("ab", "x")
    assert first["message"]["reasoning_content"] == "rr"
    assert first["logprobs"] == {"content": ["a", "b"]}


def test_what_went_wrong_is_said() -> None:
    assert assembled(b"").problem() == "the stream stopped before its end"
    assert assembled(STREAM.removesuffix(DONE)).problem() is None  # it had its finish reason
    assert assembled(b'data: {"error": {"message": "out of memory"}}\n\n').problem() == "out of memory"
    assert assembled(b'data: {"error": "no"}\n\n').problem() == "no"
    assert assembled(b"<html>\ndata: [1]\ndata: {\n", DONE).problem() == "3 lines of the stream were no event"
    assert assembled(b"").completion() is None


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    seen = assembled(*[b"x" * (1 << 20)] * (2 * (LONGEST_LINE >> 20)), b"\n", STREAM)
    assert seen.garbage >= 1
    assert message(seen)["content"] == "hello"


def test_the_last_line_needs_no_end() -> None:
    seen = assembled(chunk_line({"content": "all"}, "stop").rstrip())
    assert message(seen)["content"] == "all"
