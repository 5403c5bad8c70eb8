"""The shipped fakes keep the protocols' promises."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.errors import ModelError, TrainingError
from logtune.ports import (
    AdapterServer,
    Chat,
    ChatCall,
    ChatReply,
    Clock,
    Coverage,
    Embedder,
    Executor,
    Likelihood,
    TrainingJob,
    TrainingPair,
)
from logtune.records import Message
from logtune.testing import (
    FakeExecutor,
    FixedClock,
    FixedLikelihood,
    MemoryAdapterServer,
    Script,
    ScriptedChat,
    WordCoverage,
    WordEmbedder,
    sample_logs,
    tiny_model,
)


def test_each_fake_is_what_its_protocol_asks_for() -> None:
    chat: Chat = ScriptedChat()
    likelihood: Likelihood = FixedLikelihood()
    embedder: Embedder = WordEmbedder()
    coverage: Coverage = WordCoverage()
    adapters: AdapterServer = MemoryAdapterServer()
    executor: Executor = FakeExecutor()
    clock: Clock = FixedClock()
    assert all((chat, likelihood, embedder, coverage, adapters, executor, clock))


def said(script: Script, *queries: str) -> list[str]:
    chat = ScriptedChat(script)
    calls = [ChatCall(messages=(Message(role="user", content=query),)) for query in queries]
    replies = [asyncio.run(chat.complete(call)).text for call in calls]
    assert chat.calls == calls
    return replies


def test_a_script_is_a_text_a_list_a_mapping_or_a_function() -> None:
    assert said("yes", "a", "b") == ["yes", "yes"]
    assert said(["one", ChatReply(text="two")], "a", "b") == ["one", "two"]
    assert said({"parcel": "late", "": "other"}, "my parcel", "hi") == ["late", "other"]
    assert said(lambda call: call.messages[-1].content.upper(), "a") == ["A"]


def test_a_script_without_an_answer_is_an_error() -> None:
    with pytest.raises(ModelError, match="2 replies, this is call 3"):
        said(["one", "two"], "a", "b", "c")
    with pytest.raises(ModelError, match="no reply to 'hi'"):
        said({"parcel": "late"}, "hi")
    with pytest.raises(ModelError, match="out of order"):
        said([ModelError("out of order")], "hi")


@given(st.lists(st.text(max_size=30), max_size=5))
def test_word_vectors_are_unit_rows(texts: list[str]) -> None:
    vectors = WordEmbedder(64).embed(texts)
    assert vectors.shape == (len(texts), 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_texts_that_share_words_are_close() -> None:
    vectors = WordEmbedder().embed(["late parcel", "parcel late!", "refund money"])
    assert vectors[0] @ vectors[1] == pytest.approx(1)
    assert vectors[0] @ vectors[2] == pytest.approx(0)
    assert WordCoverage().covered("give the price", ["be brief", "the price in euros"]) == pytest.approx(2 / 3)
    assert WordCoverage().covered("give the price", []) == 0


def test_the_executor_gives_an_adapter_an_epoch_or_its_error() -> None:
    pair = TrainingPair(id="pair-1", prompt=(), chosen="a", rejected="b")
    job = TrainingJob(
        cluster_id="clu-1", kind="critic", base_path="", base_fingerprint="hf@1", pairs=(pair,), out_dir="", rank=4,
        settings={"epochs": 2},
    )  # fmt: skip
    lines: list[str] = []
    first, second = FakeExecutor().train(job, lines.append)
    assert (first.epoch, second.epoch, first.kind, first.parameters) == (1, 2, "critic", 4000)
    assert first.id != second.id
    assert second.losses[1] < second.losses[0]
    assert len(lines) == 2
    with pytest.raises(TrainingError, match="clu-1: no memory"):
        FakeExecutor(error="no memory").train(job, lines.append)


def test_the_clock_stands_or_steps() -> None:
    standing, stepping = FixedClock(5.0), FixedClock(5.0, step=2.0)
    assert [standing.now(), standing.now()] == [5.0, 5.0]
    assert [stepping.now(), stepping.now()] == [5.0, 7.0]


def test_sample_logs_are_the_same_each_time_and_their_feedback_finds_them() -> None:
    logs, feedback = sample_logs()
    assert (logs, feedback) == sample_logs()
    assert len({record.id for record in logs}) == len(logs) == 120
    assert {item.target for item in feedback} < {record.id for record in logs}
    assert len({record.user for record in logs}) == 40
    assert {item.kind for item in feedback} == {"edit", "comment", "rating"}


def test_the_tiny_model_loads_trains_and_takes_any_text(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra local or train")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_model(tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    chat = [{"role": "system", "content": "Sort."}, {"role": "user", "content": "où est 我的包裹 1234?\n"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids).startswith(
        "<|im_start|>system\nSort.<|im_end|>\n<|im_start|>user\noù est 我的包裹 1234?"
    )
    batch = torch.tensor([ids])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = model(batch, labels=batch).loss
    first.backward()
    optimizer.step()
    assert model(batch, labels=batch).loss < first
