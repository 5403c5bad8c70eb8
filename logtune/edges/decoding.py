"""Passes of a causal model over rows of different lengths, with their keys and values kept: what decoding stands on.

A row's token at position p lies in slot p of that row, so nothing is padded on the left, rows join and leave at any
time, and one rule masks everything: a token sees the slots up to its own position. Slots behind a row's end hold
leftovers that no token can see before its own row overwrites them.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from logtune.edges.lora import Lora, LoraLayers
from logtune.errors import ModelError

CHUNK = 512  # tokens of a row in one pass: bounds the memory of masks and logits
SLOTS = 64  # a full cache grows by this many
SHARED_FROM = 8  # shorter common prefixes are not worth keeping
KEPT_TOKENS = 4096  # of shared prefixes, over all
RECENT = 64  # prompts that a new one is compared with

Tokens = Sequence[int]


class SlotCache(Cache):
    """Keys and values, shape (2, layers, rows, slots, heads, width); rows and slots grow as they are used."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(layers=[])
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        weight = next(model.parameters())
        self._data = torch.zeros(
            2, config.num_hidden_layers, 0, 0, heads, width, dtype=weight.dtype, device=weight.device
        )
        self._window = (0, 0, 0)
        self._places: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    def look(self, start: int, positions: Tensor, length: int) -> None:
        """Set what the next pass writes, positions (B, T) of the rows from `start`, and that it sees `length` slots."""
        count = positions.shape[0]
        self._window = (start, start + count, length)
        self._places = (torch.arange(start, start + count, device=positions.device)[:, None], positions)
        self._grow(start + count, int(positions.max()) + 1)

    def _grow(self, rows: int, slots: int) -> None:
        for axis, missing, step in ((2, rows - self._data.shape[2], 1), (3, slots - self._data.shape[3], SLOTS)):
            if missing > 0:
                shape = list(self._data.shape)
                shape[axis] = -(-missing // step) * step
                self._data = torch.cat([self._data, self._data.new_zeros(shape)], dim=axis)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, heads, T, width) of a layer; all that its rows see, (B, heads, length, width)."""
        start, stop, length = self._window
        keys, values = self._data[0, layer_idx], self._data[1, layer_idx]
        keys[self._places] = key_states.transpose(1, 2)
        values[self._places] = value_states.transpose(1, 2)
        return keys[start:stop, :length].transpose(1, 2), values[start:stop, :length].transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions are always told."""
        return 0

    def take(self, row: int, length: int) -> Tensor:
        """A copy of a row's first slots, (2, layers, length, heads, width)."""
        return self._data[:, :, row, :length].clone()

    def put(self, row: int, prefix: Tensor) -> None:
        """Fill a row's first slots."""
        self._grow(row + 1, prefix.shape[2])
        self._data[:, :, row, : prefix.shape[2]] = prefix

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Make row `target` the same as row `source` in its first slots."""
        self._grow(target + 1, length)
        self._data[:, :, target, :length] = self._data[:, :, source, :length]


@dataclass(frozen=True, slots=True)
class Logits:
    """What a pass says comes next after token `places[i]` of row `rows[i]`: scores (len(rows), vocabulary), float32."""

    rows: tuple[int, ...]
    places: tuple[int, ...]
    scores: Tensor


class Passes:
    """A model, its adapters and the prefixes that requests share."""

    def __init__(self, model: PreTrainedModel, loras: LoraLayers) -> None:
        self.model = model
        self.loras = loras
        self.device = next(model.parameters()).device
        self.prefixes = Prefixes()
        self._wanted: tuple[Tensor, Tensor] | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._pick)

    def _pick(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        """Only the hidden states that logits are wanted of go through the output head, as one row (1, N, width)."""
        return (inputs[0][self._wanted][None],) if self._wanted else None

    @torch.inference_mode()
    def run(
        self, cache: SlotCache, start: int, rows: Sequence[Tokens], offsets: Sequence[int],
        loras: Sequence[Lora | None], keep: Sequence[int],
    ) -> Iterator[Logits]:  # fmt: skip
        """Append tokens to the rows from `start`, row i at position offsets[i], and give, chunk by chunk, the logits
        after the last keep[i] tokens of each.
        """
        for begin in range(0, max(map(len, rows)), CHUNK):
            part = [row[begin : begin + CHUNK] for row in rows]
            wanted = [
                (number, begin + place)
                for number, row in enumerate(part)
                for place in range(max(0, len(rows[number]) - keep[number] - begin), len(row))
            ]
            scores = self._pass(
                cache, start, part, [offset + begin for offset in offsets], loras, [(r, p - begin) for r, p in wanted]
            )
            yield Logits(tuple(row for row, _ in wanted), tuple(place for _, place in wanted), scores)

    def _pass(
        self, cache: SlotCache, start: int, rows: Sequence[Tokens], offsets: Sequence[int],
        loras: Sequence[Lora | None], wanted: Sequence[tuple[int, int]],
    ) -> Tensor:  # fmt: skip
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.device)
        positions = torch.tensor(offsets, device=self.device)[:, None] + torch.arange(width, device=self.device)
        length = max(offset + len(row) for offset, row in zip(offsets, rows, strict=True))
        cache.look(start, positions, length)
        unseen = torch.arange(length, device=self.device) > positions[:, None, :, None]
        mask = torch.zeros(unseen.shape, dtype=next(self.model.parameters()).dtype, device=self.device)
        mask.masked_fill_(unseen, float("-inf"))
        picked = torch.tensor(wanted, dtype=torch.long, device=self.device).reshape(-1, 2)
        self._wanted = (picked[:, 0], picked[:, 1])
        try:
            with self.loras.using(loras):
                out = self.model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
                )
        finally:
            self._wanted = None
        return cast(Tensor, out.logits)[0].float()

    @torch.inference_mode()
    def prefill(self, cache: SlotCache, start: int, prompts: Sequence[Tokens], loras: Sequence[Lora | None]) -> Tensor:
        """Fill the rows from `start` with prompts, known prefixes copied; logits after each prompt, (B, vocabulary)."""
        known = [self.prefixes.find(lora, prompt) for lora, prompt in zip(loras, prompts, strict=True)]
        for row, prefix in enumerate(known):
            if prefix is not None:
                cache.put(start + row, prefix)
        offsets = [0 if prefix is None else prefix.shape[2] for prefix in known]
        rest = [prompt[offset:] for prompt, offset in zip(prompts, offsets, strict=True)]
        found: dict[int, Tensor] = {}
        for logits in self.run(cache, start, rest, offsets, loras, [1] * len(rest)):
            found |= dict(zip(logits.rows, logits.scores, strict=True))
        for row, (lora, prompt, offset) in enumerate(zip(loras, prompts, offsets, strict=True)):
            shared = self.prefixes.note(lora, prompt, offset)
            if shared:
                self.prefixes.keep(lora, prompt[:shared], cache.take(start + row, shared))
        return torch.stack([found[row] for row in range(len(prompts))])


class Prefixes:
    """Keys and values of token prefixes that several prompts to an adapter began with, such as a system prompt."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Lora | None, tuple[int, ...]], Tensor] = OrderedDict()
        self._recent: deque[tuple[Lora | None, tuple[int, ...]]] = deque(maxlen=RECENT)

    def find(self, lora: Lora | None, prompt: Tokens) -> Tensor | None:
        """The longest kept prefix of a prompt; its last token is never in it, since its logits are wanted."""
        fits = [key for key in self._kept if key[0] is lora and _common(key[1], prompt) == len(key[1]) < len(prompt)]
        if not fits:
            return None
        best = max(fits, key=lambda key: len(key[1]))
        self._kept.move_to_end(best)
        return self._kept[best]

    def note(self, lora: Lora | None, prompt: Tokens, known: int) -> int:
        """Remember the prompt; the length of the prefix shared with a recent one that is worth keeping, or 0."""
        tokens = tuple(prompt[:KEPT_TOKENS])
        shared = max((_common(other, tokens) for owner, other in self._recent if owner is lora), default=0)
        self._recent.append((lora, tokens))
        shared = min(shared, len(prompt) - 1)
        return shared if shared >= known + SHARED_FROM else 0

    def keep(self, lora: Lora | None, tokens: Tokens, prefix: Tensor) -> None:
        """Keep a prefix; those not used for longest make room."""
        self._kept[(lora, tuple(tokens))] = prefix
        while sum(len(key[1]) for key in self._kept) > KEPT_TOKENS:
            self._kept.popitem(last=False)

    def forget(self, lora: Lora) -> None:
        """Drop what belongs to an adapter."""
        for key in [key for key in self._kept if key[0] is lora]:
            del self._kept[key]
        self._recent = deque((item for item in self._recent if item[0] is not lora), maxlen=RECENT)


def _common(left: Tokens, right: Tokens) -> int:
    length = min(len(left), len(right))
    for place in range(length):
        if left[place] != right[place]:
            return place
    return length


def check_causal(model: PreTrainedModel) -> None:
    """Refuse models whose layers don't all attend to the whole past: their keys and values are kept otherwise."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if sliding or kinds != {"full_attention"}:
        raise ModelError(
            f"the embedded engine serves models of full attention, this one has {', '.join(sorted(kinds))}",
            'serve it with vLLM and set model.engine = "openai"',
        )
