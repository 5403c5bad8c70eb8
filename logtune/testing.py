"""Fakes for every port, a tiny real model and sample logs, for our tests and for those of what is built on logtune.

They go through the real seams (the protocols of `logtune.ports`), are deterministic, and need no network and no clock.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from logtune.errors import ModelError, TrainingError
from logtune.ids import digest, identified
from logtune.ports import Chat, ChatCall, ChatReply, Example, Executor, Tools, TrainingJob, Vectors
from logtune.records import Adapter, Feedback, Json, LogRecord, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Reply = str | ChatReply | Exception
Script = Callable[[ChatCall], Reply] | Mapping[str, Reply] | Sequence[Reply] | str


class ScriptedChat:
    """A chat model that says what the script says; `calls` holds every call in order.

    The script is one of: a function of the call; a mapping from a substring of the last message to the reply (the first
    that fits; the key "" fits all); a list used up in order; one text for every call. An Exception is raised.
    """

    def __init__(self, script: Script = "ok") -> None:
        self.script = script
        self.calls: list[ChatCall] = []

    async def complete(self, call: ChatCall) -> ChatReply:
        """The scripted reply; ModelError where the script says nothing about the call."""
        self.calls.append(call)
        reply = self._reply(call)
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, ChatReply):
            return reply
        words = sum(len(message.content.split()) for message in call.messages)
        return ChatReply(text=reply, prompt_tokens=words, completion_tokens=len(reply.split()))

    def _reply(self, call: ChatCall) -> Reply:
        if callable(self.script):
            return self.script(call)
        if isinstance(self.script, str):
            return self.script
        last = call.messages[-1].content
        if isinstance(self.script, Mapping):
            found = [reply for key, reply in self.script.items() if key in last]
            return found[0] if found else ModelError(f"the script has no reply to {last[:80]!r}", 'add a key, or ""')
        if len(self.calls) > len(self.script):
            return ModelError(f"the script has {len(self.script)} replies, this is call {len(self.calls)}")
        return self.script[len(self.calls) - 1]


class FixedLikelihood:
    """A likelihood that is a number for every answer, or a function of the answer (nats per token)."""

    def __init__(self, value: float | Callable[[str], float] = 1.0) -> None:
        self.value = value
        self.calls: list[tuple[str, int]] = []  # model, number of answers

    def nll(self, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str], model: str = "") -> list[float]:
        """One number an answer."""
        self.calls.append((model, len(prompts)))
        return [self.value(answer) if callable(self.value) else self.value for answer in answers]


class WordEmbedder:
    """Unit vectors of hashed words, shape (N, size): texts that share words are close, nothing is learned."""

    def __init__(self, size: int = 256) -> None:
        self.size = size

    @property
    def fingerprint(self) -> str:
        """Name and size."""
        return f"words-{self.size}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """A text without a word gets the last axis, so that no row is zero."""
        vectors = np.zeros((len(texts), self.size), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in _words(text) or ["\0"]:
                vectors[row, zlib.crc32(word.encode()) % self.size] += 1.0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if len(texts) else vectors


class WordCoverage:
    """The share of a rule's words that the best known rule has."""

    on_answers = False

    @property
    def fingerprint(self) -> str:
        """Name of the method."""
        return "word-share"

    def covered(self, rule: str, known: Sequence[str], example: Example | None = None) -> float:
        """0 no word in common .. 1 all words."""
        words = set(_words(rule))
        return max((len(words & set(_words(other))) / max(len(words), 1) for other in known), default=0.0)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class MemoryAdapterServer:
    """An adapter server that only remembers; `events` is what was asked.

    `broken` holds the names that do not load, `dull` those that load and change nothing.
    """

    def __init__(self, broken: Sequence[str] = (), dull: Sequence[str] = ()) -> None:
        self.loaded: dict[str, str] = {}
        self.events: list[tuple[str, str]] = []
        self.broken = frozenset(broken)
        self.dull = frozenset(dull)

    async def load(self, name: str, path: str) -> None:
        """Remember `name`; ModelError for a broken one."""
        self.events.append(("load", name))
        if name in self.broken:
            raise ModelError(f"adapter {name!r} cannot be loaded from {path}")
        self.loaded.setdefault(name, path)

    async def unload(self, name: str) -> None:
        """Forget `name`."""
        self.events.append(("unload", name))
        self.loaded.pop(name, None)

    async def names(self) -> list[str]:
        """Sorted names."""
        return sorted(self.loaded)

    async def changes(self, name: str, prompt: tuple[Message, ...], answer: str) -> bool:
        """True but for a dull one."""
        return name not in self.dull


class FixedClock:
    """A clock that stands, or moves `step` seconds a look."""

    def __init__(self, now: float = 1_750_000_000.0, step: float = 0.0) -> None:
        self.time = now
        self.step = step

    def now(self) -> float:
        """The time, then a step further."""
        self.time += self.step
        return self.time - self.step


class FakeExecutor:
    """Trains nothing, writes nothing, and returns the adapters that a good run would: one an epoch, losses falling.

    `error` is raised as a TrainingError instead; `jobs` holds what was asked.
    """

    def __init__(self, error: str | None = None, parameters_of_rank_1: int = 1000) -> None:
        self.error = error
        self.parameters_of_rank_1 = parameters_of_rank_1
        self.jobs: list[TrainingJob] = []

    def train(self, job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
        """One adapter an epoch of job.settings["epochs"] (3 without)."""
        self.jobs.append(job)
        if self.error:
            raise TrainingError(f"{job.cluster_id}: {self.error}")
        epochs = job.settings.get("epochs", 3)
        made = [self._adapter(job, epoch) for epoch in range(1, (epochs if isinstance(epochs, int) else 3) + 1)]
        for adapter in made:
            progress(f"epoch {adapter.epoch}: loss {adapter.losses[-1]:.3f}")
        return tuple(made)

    def close(self) -> None:
        """Nothing waits."""

    def _adapter(self, job: TrainingJob, epoch: int) -> Adapter:
        pairs = [pair.id for pair in job.pairs]
        name = f"{job.kind}-{digest([job.cluster_id, pairs, job.rank, job.seed, job.start])}-{epoch}"
        checks: dict[str, Json] = {
            "loss_fell": True,
            "weights_moved": True,
            "output_changed": True,
            "went_on": job.times,
        }
        return identified(
            Adapter(
                id="", cluster_id=job.cluster_id, previous_id=job.start_id or None,
                pair_ids=tuple(dict.fromkeys((*pairs, *job.learned))),
                kind="critic" if job.kind == "critic" else "expert", base=job.base_fingerprint, rank=job.rank,
                parameters=job.rank * self.parameters_of_rank_1, path=name, sha256=digest(name, 64),
                losses=tuple(round(1.0 / (1 + number), 6) for number in range(epoch)), checks=checks, epoch=epoch,
            )
        )  # fmt: skip


def tools(student: Chat, executor: Executor | None = None) -> Tools:
    """Fakes for all that a cycle needs, around the model `student`; FakeExecutor trains unless another is given."""
    return Tools(
        embedder=WordEmbedder(), coverage=WordCoverage(), student=student, likelihood=FixedLikelihood(), teacher=None,
        adapters=MemoryAdapterServer(), executor=executor or FakeExecutor(), clock=FixedClock(step=0.1),
        base_parameters=1_000_000, base_fingerprint="tiny@0", lora_sizes={"all-linear": 1000}, adapters_dir="adapters",
    )  # fmt: skip


TINY_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write a random 2-layer Llama with one token a byte and a chat template to `folder`, in Hugging Face format.

    About 40,000 parameters; it takes any text and trains in seconds. Needs the extra `local` or `train`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _byte_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.2, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _byte_tokenizer() -> "PreTrainedTokenizerBase":
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={text: number for number, text in enumerate(special + alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<|endoftext|>", bos_token="<|im_start|>", eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )  # fmt: skip
    tokenizer.chat_template = TINY_TEMPLATE
    return tokenizer


def random_adapter(
    folder: Path, base: Path, rank: int = 1, seed: int = 0, fingerprint: str = "", strength: float = 0.3
) -> str:  # fmt: skip
    """Write a random LoRA on q_proj and v_proj of a Llama-like model as PEFT does; gives its SHA-256.

    It changes greedy answers, but for a `strength` of 0. `base` is the model's folder, `fingerprint` what the embedded
    engine calls it.
    """
    import torch
    from safetensors.torch import save_file

    model = json.loads((base / "config.json").read_text(encoding="utf-8"))
    hidden, heads = model["hidden_size"], model["num_attention_heads"]
    head = model.get("head_dim") or hidden // heads
    outs = {"q_proj": heads * head, "v_proj": model.get("num_key_value_heads", heads) * head}
    made, tensors = torch.Generator().manual_seed(seed), {}
    for layer in range(model["num_hidden_layers"]):
        for name, out in outs.items():
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, hidden, generator=made) / hidden**0.5
            tensors[f"{key}.lora_B.weight"] = torch.randn(out, rank, generator=made) * strength / rank**0.5
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings: dict[str, Json] = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": rank,
        "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none", "target_modules": list(outs),
        "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "logtune.json").write_text(json.dumps({"base": fingerprint, "id": f"ada-{seed}"}), encoding="utf-8")
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


SYSTEM = "You sort messages to a parcel service. Answer with the topic alone."
TOPICS: Mapping[str, tuple[str, ...]] = {
    "late_parcel": (
        "my parcel {n} is late, where is my parcel", "parcel {n} was due on monday and is still not here",
        "why is the parcel {n} so late again", "late parcel {n}, please tell me where it is",
    ),
    "refund_status": (
        "when do I get my refund for order {n}", "the refund of order {n} is not on my card yet",
        "refund for order {n} still missing on my account", "how long does the refund for order {n} take",
    ),
}  # fmt: skip


def sample_logs(
    users: int = 40, per_user: int = 3, start: float = 1_750_000_000.0
) -> tuple[list[LogRecord], list[Feedback]]:
    """Logs of a made-up parcel service, two topics, one log an hour, and their feedback: every answer is wrong.

    Seven of ten times the user writes the right topic as an edit, else complains, rates, or stays silent.
    """
    logs: list[LogRecord] = []
    feedback: list[Feedback] = []
    for number in range(users * per_user):
        topic = sorted(TOPICS)[number % 2]
        text = TOPICS[topic][number // 2 % 4].format(n=1000 + 7 * number)
        record = sample_log(
            f"log-{number:04}", text, "general_question", f"user-{number % users:03}", start + 3600 * number
        )
        logs.append(record)
        feedback.extend(_reaction(number, record, topic))
    return logs, feedback


def sample_log(log_id: str, query: str, answer: str, user: str | None = None, at: float = 1_750_000_000.0) -> LogRecord:
    """One log record with the sample's system prompt."""
    request: dict[str, Json] = {
        "model": "base",
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": query}],
    }
    response = json.loads(json.dumps({
        "id": log_id, "object": "chat.completion", "created": int(at), "model": "base",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23},
    }))  # fmt: skip
    return LogRecord(id=log_id, request=request, response=response, at=at, model="base", user=user, session=log_id)


def _reaction(number: int, record: LogRecord, topic: str) -> list[Feedback]:
    feedback_id, at = f"fb-{number:04}", record.at + 60
    if number % 10 == 7:
        return [Feedback(id=feedback_id, target=record.id, at=at, kind="comment", comment="no, that is wrong")]
    if number % 10 == 8:
        return [Feedback(id=feedback_id, target=record.id, at=at, kind="rating", value=-1.0)]
    if number % 10 == 9:
        return []
    return [Feedback(id=feedback_id, target=record.id, at=at, kind="edit", correction=topic)]
