"""Tuning the packaged embedder to name noise: thin changes of its upper layers, and a head over its tokens.

The lower layers stay as they are, so what they make of each text is computed once. bfloat16 throughout, but for the
changes themselves and the optimiser.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from filter_data import Text, columns
from filter_training import HARD_WEIGHT, OWN_WEIGHT, POSITIVE, Floats, Kind, Mask, learns, weights_of
from torch.nn import functional

from logtune.edges.noise_encoder import FIRST, HEAD, PARTS, TAIL, Tuning, pooled, token_ids
from logtune.edges.noise_encoder import weights_of as own_weights
from logtune.edges.vectors import load_embedder, padded
from logtune.edges.weights import embedder_model
from logtune.ids import digest
from logtune.stages.noise import CLASSES

RANK, EPOCHS, BATCH, BUCKET = 16, 3, 48, 40  # of so many batches together the texts of like length go together
RATE, HEAD_RATE, DECAY = 1e-3, 3e-3, 0.01  # highest rates; they rise for a tenth of the steps, then fall
DROPPED, HEAD_DROPPED = 0.1, 0.2
RARE = -3.0  # log odds to begin with
Rows = npt.NDArray[np.int64]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class States:
    """What the layers below `FIRST` make of each text: row i of `tokens` is one token."""

    tokens: "torch.Tensor"  # (T, D)
    starts: Rows
    lengths: Rows

    def of(self, rows: Rows) -> "tuple[torch.Tensor, torch.Tensor]":
        """(N, T, D) of some texts, and their mask."""
        longest = int(self.lengths[rows].max())
        found = torch.zeros(len(rows), longest, self.tokens.shape[1], dtype=self.tokens.dtype)
        mask = torch.zeros(len(rows), longest)
        for at, row in enumerate(rows):
            begin, length = self.starts[row], self.lengths[row]
            found[at, :length], mask[at, :length] = self.tokens[begin : begin + length], 1
        return found, mask


def lower(texts: Sequence[str]) -> States:
    """Every text through the layers that stay."""
    model, tokenizer = _own()
    ids = token_ids(tokenizer, texts)
    lengths = np.array([len(one) for one in ids])
    starts = np.cumsum(lengths) - lengths
    tokens = torch.zeros(int(lengths.sum()), model.config.hidden_size, dtype=torch.bfloat16)
    model.encoder.layer = model.encoder.layer[:FIRST]
    for rows in np.array_split(np.argsort(lengths), max(1, len(ids) // 64)):
        given, mask = padded([ids[int(row)] for row in rows])
        with torch.inference_mode():
            states = model(input_ids=given, attention_mask=mask).last_hidden_state
        for at, row in enumerate(rows):
            tokens[starts[row] : starts[row] + lengths[row]] = states[at, : lengths[row]]
    return States(tokens, starts, lengths)


def _own() -> tuple[Any, Any]:
    return load_embedder(embedder_model("all-minilm-l6-v2").path, "bfloat16")


class Changed(torch.nn.Module):
    """A weight that stays, and a thin change that is learned."""

    def __init__(self, weight: "torch.Tensor", bias: "torch.Tensor") -> None:
        super().__init__()
        self.weight, self.shift = weight, bias
        self.down = torch.nn.Parameter(torch.randn(RANK, weight.shape[1]) / math.sqrt(weight.shape[1]))
        self.up = torch.nn.Parameter(torch.zeros(weight.shape[0], RANK))

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        """Of any shape whose last axis is the inputs."""
        change = functional.linear(functional.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))
        return functional.linear(x, self.weight, self.shift) + change


class Layer(torch.nn.Module):
    """One upper layer; attention by plain products, which are faster for short rows on a processor."""

    def __init__(self, own: Any, heads: int) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleDict({part: _changed(own, part) for part in PARTS})
        self.heads = heads
        self._norms: list[Any] = [own.attention.output.LayerNorm, own.output.LayerNorm]  # in a list: not learned

    def forward(self, x: "torch.Tensor", hidden: "torch.Tensor") -> "torch.Tensor":
        """(N, T, D); `hidden` is added to the attention's log odds."""
        count, length, width = x.shape
        x = functional.dropout(x, DROPPED, self.training)
        asked = self.parts["asked"](x).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        odds = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5 + hidden
        seen = (torch.softmax(odds, -1) @ value).transpose(1, 2).reshape(count, length, width)
        x = self._norms[0](x + self.parts["attended"](seen))
        return cast("torch.Tensor", self._norms[1](x + self.parts["outer"](functional.gelu(self.parts["inner"](x)))))


def _changed(own: Any, part: str) -> Changed:
    linear = own_weights(own, part)
    return Changed(*(torch.cat([getattr(one, name).detach() for one in linear]) for name in ("weight", "bias")))


class Upper(torch.nn.Module):
    """The upper layers and the head."""

    def __init__(self) -> None:
        super().__init__()
        model, _ = _own()
        heads, width = model.config.num_attention_heads, model.config.hidden_size
        self.layers = torch.nn.ModuleList([Layer(own, heads) for own in model.encoder.layer[FIRST:]])
        self.head = torch.nn.Linear(2 * width, len(CLASSES))
        torch.nn.init.normal_(self.head.weight, std=0.02)
        torch.nn.init.constant_(self.head.bias, RARE)

    def forward(self, x: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        """(N, C) log odds."""
        hidden = ((1 - mask) * -1e4).to(x.dtype)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, hidden)
        read = functional.dropout(pooled(x, mask), HEAD_DROPPED, self.training)
        return cast("torch.Tensor", self.head(read))


def fit(states: States, rows: Rows, wanted: Floats, counts: Floats, say: Say) -> Upper:
    """The upper layers that learned from these rows."""
    torch.manual_seed(0)
    draw, net = np.random.default_rng(0), Upper()
    head = list(net.head.parameters())
    groups = [{"params": list(net.layers.parameters()), "lr": RATE}, {"params": head, "lr": HEAD_RATE}]
    adam = torch.optim.AdamW(groups, weight_decay=DECAY)
    steps, started = EPOCHS * math.ceil(len(rows) / BATCH), time.monotonic()
    course = torch.optim.lr_scheduler.OneCycleLR(adam, [RATE, HEAD_RATE], total_steps=steps + EPOCHS, pct_start=0.1)
    aim, each = (torch.from_numpy(array) for array in (wanted, counts / counts.mean(axis=0)))
    for epoch in range(EPOCHS):
        for part in _batches(states.lengths[rows], draw):
            odds = net(*states.of(rows[part]))
            loss = functional.binary_cross_entropy_with_logits(odds, aim[part], reduction="none")
            adam.zero_grad()
            (each[part] * loss).mean().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()
            course.step()
        say(f"pass {epoch + 1} of {EPOCHS} after {time.monotonic() - started:.0f} s")
    return net.eval()


def _batches(lengths: Rows, draw: np.random.Generator) -> Iterator[Rows]:
    """Rows of like length together, the batches in any order."""
    order, found = draw.permutation(len(lengths)), []
    for begin in range(0, len(order), BATCH * BUCKET):
        near = order[begin : begin + BATCH * BUCKET]
        near = near[np.argsort(lengths[near], kind="stable")]
        found += [near[at : at + BATCH] for at in range(0, len(near), BATCH)]
    draw.shuffle(found)
    yield from found


def applied(net: Upper, states: States, rows: Rows) -> Floats:
    """(N, C) log odds."""
    found = np.zeros((len(rows), len(CLASSES)), np.float32)
    for part in np.array_split(np.argsort(states.lengths[rows]), max(1, len(rows) // 64)):
        if len(part):
            with torch.inference_mode():
                found[part] = net(*states.of(rows[part])).numpy()
    return found


def tuned(rows: Sequence[Text], states: States, say: Say) -> Kind:
    """The rung `tuned`."""
    course = [RANK, EPOCHS, BATCH, BUCKET, RATE, HEAD_RATE, DECAY, DROPPED, HEAD_DROPPED, FIRST, HEAD, TAIL]
    texts = digest([[row.text, row.label, row.source, row.group] for row in rows])

    def score(out: Mask) -> Floats:
        return applied(learned(rows, states, out, say), states, np.flatnonzero(out))

    return Kind(digest([*course, OWN_WEIGHT, HARD_WEIGHT, POSITIVE, texts], 8), score)


def learned(rows: Sequence[Text], states: States, out: Mask, say: Say) -> Upper:
    """The upper layers that learned from all rows but those of `out`."""
    into = np.flatnonzero(~out & learns(rows))
    seen = [rows[int(row)] for row in into]
    wanted = columns(seen)
    return fit(states, into, wanted, weights_of(seen, wanted), say)


def as_tuning(net: Upper, name: str, embedder: str, line: Floats) -> Tuning:
    """What ships; `line`: of the odds of both readings together."""
    layers = cast("list[Layer]", list(net.layers))
    parts = {(FIRST + n, part): cast("Changed", layer.parts[part]) for n, layer in enumerate(layers) for part in PARTS}
    return Tuning(
        name=name, embedder=embedder, line=line,
        down={key: changed.down.detach().numpy() for key, changed in parts.items()},
        up={key: changed.up.detach().numpy() for key, changed in parts.items()},
        head=net.head.weight.detach().numpy(), bias=net.head.bias.detach().numpy(),
    )  # fmt: skip
