"""The gateway over the embedded engine itself: a tiny random model with a real adapter, and the packaged models."""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gateway_kit import Kit, WatchedStore, adapter_for, cluster_of, deployed, gateway
from openai import AsyncOpenAI, BadRequestError, OpenAI

pytest.importorskip("torch", reason="needs the extra local")

from test_local_model import write_adapter

from logtune.app import build
from logtune.config import build as settings
from logtune.edges.local_model import LocalModel
from logtune.edges.upstream import EmbeddedBackend
from logtune.edges.weights import base_model
from logtune.ids import identified
from logtune.testing import tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # in peft
]
LATE = "where is my late parcel"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Kit]:
    """A gateway with an adapter for one cluster, its folder written by PEFT."""
    folder = base_model(str(tiny_model(tmp_path / "base")))
    cluster = cluster_of("late_parcel", LATE)
    made = adapter_for(cluster)
    weights = write_adapter(tmp_path / "adapters" / made.path, folder, 2, "all-linear", seed=1)
    total = hashlib.sha256((weights / "adapter_model.safetensors").read_bytes()).hexdigest()
    store = WatchedStore(f"sqlite:///{tmp_path / 'logtune.db'}")
    deployed(store, cluster, identified(replace(made, sha256=total)), at=1.0)
    store.close()
    engine = LocalModel(folder, dtype="float32", max_batch=8)
    with gateway(tmp_path, backend=EmbeddedBackend(engine), server=engine) as kit:
        yield kit
    engine.close()


async def test_routed_and_unrouted_streamed_and_whole_in_one_batch(tiny: Kit) -> None:
    async with AsyncOpenAI(base_url=tiny.v1, api_key="none", max_retries=0) as api:

        async def ask(text: str, stream: bool) -> tuple[str, str, int]:
            messages = [{"role": "user", "content": text}]
            raw = await api.chat.completions.with_raw_response.create(
                model="base", messages=messages, max_tokens=24, stream=stream,
                **({"stream_options": {"include_usage": True}} if stream else {}),
            )  # fmt: skip
            name, answer = raw.headers["x-logtune-adapter"], raw.parse()
            if not stream:
                return name, answer.choices[0].message.content, answer.usage.completion_tokens
            chunks = [chunk async for chunk in answer]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            return name, text, chunks[-1].usage.completion_tokens

        questions = [(text, stream) for text in (LATE, "something else entirely") for stream in (True, False)] * 4
        answers = await asyncio.gather(*(ask(*question) for question in questions))
    late, other = {answers[0], answers[1]}, {answers[2], answers[3]}
    assert set(answers[::4]) | set(answers[1::4]) == late
    assert len(late) == len(other) == 1  # the same streamed and whole, token counts included
    assert late.pop()[0].startswith("ada-")
    assert other.pop()[0] == "base"
    records = tiny.logs()
    assert len(records) == len(questions)
    assert {record.usage["completion_tokens"] for record in records} == {answers[0][2], answers[2][2]}


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_is_refused_not_cut(tiny: Kit, stream: bool) -> None:
    with OpenAI(base_url=tiny.v1, api_key="none", max_retries=0) as api, pytest.raises(BadRequestError) as refused:
        api.chat.completions.create(model="base", messages=[{"role": "user", "content": "x" * 3000}], stream=stream)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    assert "the model reads 2048" in refused.value.message
    assert tiny.logs()[0].response is None


def test_the_packaged_models_answer_the_official_client(tmp_path: Path) -> None:
    config = settings({"store": {"home": str(tmp_path)}})
    engine, embedder = build.engine(config), build.embedder(config)
    with gateway(tmp_path, backend=EmbeddedBackend(engine), server=engine, embedder=embedder) as kit:
        with OpenAI(base_url=kit.v1, api_key="none", max_retries=0) as api:
            messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
            whole = api.chat.completions.create(model="base", messages=messages, max_tokens=16)
            stream = list(api.chat.completions.create(model="base", messages=messages, max_tokens=16, stream=True))
            stopped = api.chat.completions.create(model="base", messages=messages, max_tokens=16, stop=["Par"])
        text = str(whole.choices[0].message.content)
        assert "Paris" in text
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
        assert stopped.choices[0].message.content == text.partition("Par")[0]
        assert kit.store.count(type(kit.logs()[0])) == 3
    engine.close()
