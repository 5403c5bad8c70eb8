"""The embedded engine: one causal model in this process, with LoRA adapters chosen per request.

It is a Chat, a Likelihood and an AdapterServer. Passes and their cache: decoding.py; adapters: lora.py; the running
batch: batching.py; likelihoods: scoring.py.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

import jinja2
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from logtune.edges import scoring
from logtune.edges.batching import Batcher, Job
from logtune.edges.decoding import Passes, check_causal
from logtune.edges.dtypes import pick_dtype
from logtune.edges.lora import Lora, LoraLayers, rank_1_sizes
from logtune.edges.scoring import Score
from logtune.edges.weights import ModelFolder
from logtune.errors import LogtuneError, ModelError, RequestError
from logtune.ports import ChatCall, ChatReply, StreamPiece
from logtune.records import Json, Message

LEAST_CHANGE = 1e-3  # nats a token: rounding alone stays below, an adapter that learned anything does not


def folder_lora_sizes(folder: ModelFolder) -> dict[str, int]:
    """`LocalModel.lora_sizes` of a folder whose model serves elsewhere: from its config alone, no weights are read."""
    with torch.device("meta"):
        return rank_1_sizes(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder.path)))


class LocalModel:
    """A model folder, loaded; see the module. `close()` ends its thread."""

    def __init__(
        self, folder: ModelFolder, *, dtype: str = "auto", max_batch: int = 16, batch_wait_ms: float = 5.0,
        max_new_tokens: int = 256, template: Mapping[str, Json] | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.dtype, self.dtype_reason = pick_dtype(dtype)
        self.max_new_tokens = max_new_tokens  # of a call with max_tokens below 1
        self._model, self._tokenizer = _load(folder, self.dtype)
        self._template: dict[str, Any] = dict(template or {})  # arguments of the chat template
        self._tokenizing = threading.Lock()  # a fast tokenizer refuses a second thread
        self._loras = LoraLayers(self._model)
        self._passes = Passes(self._model, self._loras)
        self._ends = _end_tokens(self._model, self._tokenizer)
        self._context: int = getattr(self._model.config.get_text_config(), "max_position_embeddings", 1 << 30)
        self._loaded: dict[str, Lora] = {}
        self._batcher = Batcher(self._passes, self._decode, self._ends, max_batch, batch_wait_ms / 1000)

    @property
    def base_parameters(self) -> int:
        """Parameters of the base model."""
        return self.folder.parameters

    @property
    def fingerprint(self) -> str:
        """Of the base model's weights."""
        return self.folder.fingerprint

    def lora_sizes(self) -> dict[str, int]:
        """Parameters of a rank-1 LoRA by set of target modules: all-linear, attention (q_proj and v_proj)."""
        return rank_1_sizes(self._model)

    def close(self) -> None:
        """Answer what is under way with a ModelError and end the thread."""
        self._batcher.close()

    async def complete(self, call: ChatCall) -> ChatReply:
        """Answer one call; ModelError for an unknown adapter or a JSON schema, RequestError for a prompt longer than
        the context or refused by the chat template."""
        (piece,) = [piece async for piece in self._pieces(call, streams=False)]
        return ChatReply(
            text=piece.text, finish_reason=piece.finish_reason or "stop", prompt_tokens=piece.prompt_tokens,
            completion_tokens=piece.completion_tokens,
        )  # fmt: skip

    def stream(self, call: ChatCall) -> AsyncGenerator[StreamPiece]:
        """The answer as it is made; the last piece has the finish reason. Closing it frees its row. Errors as above."""
        return self._pieces(call, streams=True)

    async def _pieces(self, call: ChatCall, *, streams: bool) -> AsyncGenerator[StreamPiece]:
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[StreamPiece | LogtuneError]()

        def tell(piece: StreamPiece | LogtuneError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        lora = self._lora(call.model)
        prompt, limit = await asyncio.to_thread(self._prepare, call)
        job = Job(call=call, prompt=prompt, limit=limit, lora=lora, streams=streams, tell=tell)
        self._batcher.put(job)
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, LogtuneError):
                    raise piece
                yield piece
                if piece.finish_reason:
                    return
        finally:
            job.dropped = True

    def _prepare(self, call: ChatCall) -> tuple[list[int], int]:
        """The prompt's tokens, and how many may follow."""
        if call.schema is not None:
            raise ModelError("the embedded engine follows no JSON schema", "set teacher.url to a server that does")
        prompt = self._encode(call.messages)
        if len(prompt) >= self._context:
            what = f"the prompt has {len(prompt)} tokens, the model reads {self._context}"
            raise RequestError(what, param="messages", code="context_length_exceeded")
        wanted = call.max_tokens if call.max_tokens > 0 else self.max_new_tokens
        return prompt, min(wanted, self._context - len(prompt))

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            with self._tokenizing:
                tokens = self._tokenizer.apply_chat_template(
                    turns, add_generation_prompt=True, return_dict=False, **self._template
                )
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise RequestError(f"the chat template refuses the messages: {error}", param="messages") from error
        return cast("list[int]", tokens)

    def _decode(self, tokens: Sequence[int]) -> str:
        with self._tokenizing:
            text = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast(str, text)

    def _lora(self, name: str) -> Lora | None:
        if name in ("", "base"):
            return None
        if name not in self._loaded:
            loaded = ", ".join(sorted(self._loaded)) or "none"
            raise ModelError(f"there is no adapter '{name}'", f"loaded: {loaded}")
        return self._loaded[name]

    async def load(self, name: str, path: str) -> None:
        """Load a PEFT folder under an immutable name while serving goes on; ModelError if it does not fit."""
        if name not in self._loaded:
            lora = await asyncio.to_thread(self._loras.read, name, path, self.fingerprint)
            self._loaded.setdefault(name, lora)

    async def unload(self, name: str) -> None:
        """Unload `name`; answers under way still end with it."""
        lora = self._loaded.pop(name, None)
        if lora is not None:
            await asyncio.to_thread(self._batcher.between_steps, lambda: self._forget(lora))

    async def names(self) -> list[str]:
        """Loaded adapters, sorted."""
        return sorted(self._loaded)

    async def changes(self, name: str, prompt: tuple[Message, ...], answer: str) -> bool:
        """Whether the likelihood of a training answer moves: an adapter that learned anything moves it."""
        base, tuned = [await asyncio.to_thread(self.nll, [prompt], [answer], model) for model in ("", name)]
        return abs(base[0] - tuned[0]) >= LEAST_CHANGE

    def _forget(self, lora: Lora) -> None:
        self._loras.forget(lora)
        self._passes.prefixes.forget(lora)

    def nll(self, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str], model: str = "") -> list[float]:
        """Mean negative log-likelihood in nats per token; an empty answer is scored by its end-of-turn token."""
        return [-score.total / score.tokens for score in self.score(prompts, answers, model)]

    def score(self, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str], model: str = "") -> list[Score]:
        """Log-likelihood of each answer after its prompt, in order; answers to one prompt share its pass."""
        lora = self._lora(model)
        encoded = {prompt: tuple(self._encode(prompt)) for prompt in dict.fromkeys(prompts)}
        items = [(encoded[prompt], self._target(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
        longest = max((len(prompt) + len(target) for prompt, target in items), default=0)
        if longest > self._context:
            raise ModelError(
                f"prompt and answer have {longest} tokens, the model reads {self._context}", "shorten them"
            )
        scores: dict[int, Score] = {}
        for batch in scoring.batches(items):
            wanted = [items[number] for number in batch]

            def run(wanted: list[scoring.Item] = wanted) -> list[Score]:
                return scoring.score(self._passes, wanted, lora)

            scores |= zip(batch, self._batcher.between_steps(run), strict=True)
        return [scores[number] for number in range(len(items))]

    def _target(self, answer: str) -> tuple[int, ...]:
        with self._tokenizing:
            tokens = self._tokenizer(answer, add_special_tokens=False)["input_ids"]
        return tuple(cast("list[int]", tokens)) or (self._ends[0],)


def _load(folder: ModelFolder, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded = AutoModelForCausalLM.from_pretrained(folder.path, dtype=dtype, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder.path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder.path} cannot be loaded: {error}", "check the folder with logtune doctor") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    if not tokenizer.chat_template:
        raise ModelError(f"the tokenizer in {folder.path} has no chat template", "use an instruct model")
    model = cast(PreTrainedModel, loaded).eval()
    check_causal(model)
    if torch.cuda.is_available():
        torch.nn.Module.to(model, "cuda")
    return model, tokenizer


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer, the tokenizer's own first."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ends = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    return [end for end in dict.fromkeys(ends) if isinstance(end, int)]
