"""An answer larger than its record may be: the client gets all of it, the record part of it and says so."""

import http.client
import json
from collections.abc import Iterator

import pytest
from gateway_kit import chunk_line, gateway
from test_passthrough import STREAMED, Chain, chunk, completion, recording, says, whole

from logtune.edges.sse import DONE, StreamAssembler
from logtune.edges.upstream import HttpBackend
from logtune.records import Json

MOST = 2048
ASKED = b'{"model": "big", "messages": [{"role": "user", "content": "long"}]}'
LONG = completion(f'{{"role": "assistant", "content": "{"word " * 4000}"}}')


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with (
        recording(says(whole(LONG))) as recorder,
        gateway(tmp_path_factory.mktemp("large"), backend=HttpBackend(recorder.url), record_mb=MOST / 2**20) as kit,
    ):
        yield Chain(kit, recorder)


def test_a_whole_answer_passes_and_its_record_says_that_it_was_cut(chain: Chain) -> None:
    status, headers, answer = chain.answering(says(whole(LONG, x_request_id="r"))).post(ASKED)
    record = chain.record(headers)
    assert (status, answer, headers["x-request-id"]) == (200, LONG, "r")
    assert record.response is None
    assert "is larger than 0.00195312 MB" in record.error
    assert "serve.record_mb" in record.error


def test_one_that_breaks_off_breaks_off_for_the_client_too(chain: Chain) -> None:
    cut = whole(LONG)[:-100]

    def script(connection: object, _: object) -> bool:
        connection.sendall(cut)
        return False

    with pytest.raises(http.client.IncompleteRead):
        chain.answering(script).post(ASKED)
    *_, record = chain.kit.logs()
    assert "broke off" in record.error


@pytest.mark.parametrize("extra", [{}, {"logprobs": {"content": [{"token": "w", "logprob": -1}]}}])
def test_a_stream_passes_and_its_record_keeps_the_beginning(chain: Chain, extra: dict[str, Json]) -> None:
    events = [chunk_line({"content": "word ", "role": "assistant"})] * 1000
    if extra:
        events = [event.replace(b'"delta"', b'"logprobs": ' + json.dumps(extra["logprobs"]).encode() + b', "delta"')
                  for event in events]  # fmt: skip
    sent = b"".join([*events, chunk_line({}, "stop"), DONE])
    parts = b"".join(chunk(sent[start : start + 5000]) for start in range(0, len(sent), 5000))
    _, headers, answer = chain.answering(says(STREAMED + parts + b"0\r\n\r\n")).post(
        ASKED.replace(b"{", b'{"stream": true, ', 1)
    )
    record = chain.record(headers)
    assert answer == sent
    (choice,) = record.response["choices"]
    kept = choice["message"]["content"]
    assert kept == "word " * (len(kept) // 5)
    assert 5 < len(kept) <= MOST
    assert choice["finish_reason"] == "stop"
    assert "serve.record_mb" in record.error


def test_choices_without_end_do_not_fill_the_memory() -> None:
    seen = StreamAssembler(MOST)
    for number in range(100):
        seen.feed(b'data: {"choices": [{"index": %d, "delta": {}}]}\n\n' % number)
    made = seen.completion()
    assert made is not None
    assert len(made["choices"]) <= 11  # type: ignore[arg-type]
    assert "larger" in str(seen.problem())
