"""TRL's DPO forward with each prompt computed once: [prompt chosen], [prompt rejected] -> [prompt chosen rejected].

Several short pairs whose prompts begin alike become one row: [shared, prompt chosen rejected, prompt chosen ...].

Both answers see the prompt and not each other, at the positions they would have alone, so every log-probability is the
same; and only labelled positions meet the vocabulary. TRL's own loss, reference and metrics work on the result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, cast

import torch

from logtune.stages.lean_lora import attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED = -100  # label of a position that is not scored
SHARED, UNUSED = 0, -2  # groups of tokens; a pair's prompt, chosen and rejected are 1, 2, 3, the next pair's 4, 5, 6
ONE_ROW = 512  # tokens of a row of several pairs, at most: attention grows with its square
LEAST_SAVED = 0.1  # share of the tokens that one row must save


@dataclass(frozen=True, slots=True)
class Packed:
    """B packed rows of T tokens, and where the N labelled tokens of the 2B x L batch find their prediction."""

    ids: torch.Tensor  # (B, T)
    positions: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, 1, T, T), True: attend
    predicted_by: torch.Tensor  # (N, 2): packed row, packed column of the hidden state
    labels: torch.Tensor  # (N,)
    scattered_to: torch.Tensor  # (N, 2): row, column of the (2B, L - 1) result


@dataclass(frozen=True, slots=True)
class Scored:
    """What TRL reads of a fused forward."""

    log_probs: torch.Tensor  # all (2B, L - 1), 0 where not labelled
    entropy: torch.Tensor
    mean_logits: torch.Tensor
    is_top1: torch.Tensor  # bool
    aux_loss: None = None


def share_prompts(model: "PreTrainedModel", *, checkpointed: bool = False) -> None:
    """Make `model(..., labels=..., fused_lm_head=True)` compute each prompt once; any other call stays as it was.

    `checkpointed`: the model is trained with gradient checkpointing.
    """
    original = cast("Callable[..., object]", model.forward)

    def forward(self: "PreTrainedModel", *args: object, **kwargs: object) -> object:
        ids, labels = kwargs.get("input_ids"), kwargs.get("labels")
        if not kwargs.get("fused_lm_head") or not isinstance(ids, torch.Tensor) or not isinstance(labels, torch.Tensor):
            return original(*args, **kwargs)
        return _score(self, pack(ids, cast("torch.Tensor", kwargs["attention_mask"]), labels), ids.shape, checkpointed)

    model.forward = MethodType(forward, model)


def pack(ids: torch.Tensor, attention: torch.Tensor, labels: torch.Tensor) -> Packed:
    """The packed form of a right-padded batch (2B, L): B rows with chosen, then B with rejected answers.

    Where all prompts begin alike, as with one system prompt, and little is packed, all pairs go into one row behind
    what they share.
    """
    found = _pairs(ids, attention, labels)
    alike = _alike([pair.prompt for pair in found])
    one_row = alike + sum(len(pair.tokens) - alike for pair in found)
    saved = len(found) * max(len(pair.tokens) for pair in found) - one_row
    if saved < LEAST_SAVED * one_row or one_row > ONE_ROW:
        return _packed(found, ids, labels, alike=0, rows=len(found))
    return _packed(found, ids, labels, alike=alike, rows=1)


@dataclass(frozen=True, slots=True)
class _Pair:
    """[prompt chosen rejected] of a pair, and where the answers begin."""

    tokens: list[int]
    prompt: list[int]
    chosen: int  # tokens of prompt and chosen answer
    number: int  # row of the chosen answer in the batch


def _pairs(ids: torch.Tensor, attention: torch.Tensor, labels: torch.Tensor) -> list[_Pair]:
    count = ids.shape[0] // 2
    starts = (labels != IGNORED).int().argmax(dim=1)  # first labelled column: where the answer begins
    listed, ends, found = ids.tolist(), attention.sum(dim=1).tolist(), []
    for i in range(count):
        start = int(min(starts[i], starts[i + count]))
        tokens = listed[i][: ends[i]] + listed[i + count][start : ends[i + count]]
        found.append(_Pair(tokens=tokens, prompt=listed[i][:start], chosen=ends[i], number=i))
    return found


def _alike(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with."""
    first, last = min(prompts), max(prompts)  # what these two share, all share
    return next((n for n, both in enumerate(zip(first, last, strict=False)) if both[0] != both[1]), len(first))


def _packed(pairs: Sequence[_Pair], ids: torch.Tensor, labels: torch.Tensor, *, alike: int, rows: int) -> Packed:
    """`rows` rows; the first `alike` tokens of every prompt are the first of the one row."""
    packed: list[list[int]] = [pairs[0].tokens[:alike] for _ in range(rows)]
    places = [list(range(alike)) for _ in range(rows)]
    groups = [[SHARED] * alike for _ in range(rows)]
    wanted, targets, scattered = [], [], []
    scored = labels.tolist()
    for pair in pairs:
        row, start = pair.number if rows > 1 else 0, len(pair.prompt)
        origin = len(packed[row]) - alike  # where its first token would be, were it not shared
        told, prompt = pair.chosen - start, 1 + 3 * pair.number
        other = len(pair.tokens) - pair.chosen
        packed[row] += pair.tokens[alike:]
        places[row] += [*range(alike, pair.chosen), *range(start, start + other)]
        groups[row] += [prompt] * (start - alike) + [prompt + 1] * told + [prompt + 2] * other
        for line, end, shift in ((pair.number, pair.chosen, 0), (pair.number + len(pairs), start + other, told)):
            for column in range(start, end):
                if scored[line][column] != IGNORED:
                    before = column - 1 + (shift if column > start else 0)
                    wanted.append((row, before if before < alike else origin + before))
                    targets.append(scored[line][column])
                    scattered.append((line, column - 1))
    width = max(map(len, packed))
    return Packed(
        ids=_filled(packed, width, 0).to(ids.device),
        positions=_filled(places, width, 0).to(ids.device),
        mask=_mask(_filled(groups, width, UNUSED)).to(ids.device),
        predicted_by=torch.tensor(wanted, device=ids.device),
        labels=torch.tensor(targets, device=ids.device),
        scattered_to=torch.tensor(scattered, device=ids.device),
    )


def _mask(group: torch.Tensor) -> torch.Tensor:
    """(B, T) -> (B, 1, T, T): a token sees what is shared, its own prompt and answer, as far as they precede."""
    prompt = group - (group - 1) % 3
    seen, sees = group[:, None, :], group[:, :, None]
    causal = torch.ones(group.shape[1], group.shape[1], dtype=torch.bool).tril()
    return (((seen == SHARED) | (seen == sees) | (seen == prompt[:, :, None])) & causal)[:, None]


def _filled(rows: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _score(model: "PreTrainedModel", packed: Packed, shape: torch.Size, checkpointed: bool) -> Scored:
    backbone = cast("Callable[..., object]", model.base_model)
    with attention(packed.ids, checkpointed=checkpointed):
        states = backbone(
            input_ids=packed.ids, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
        ).last_hidden_state  # type: ignore[attr-defined]  # a model output
    picked = states[packed.predicted_by[:, 0], packed.predicted_by[:, 1]]
    head = cast("torch.nn.Module", model.get_output_embeddings())
    logits = head(picked).float()
    logs = torch.log_softmax(logits, dim=-1)

    def scattered(values: torch.Tensor) -> torch.Tensor:
        empty = values.new_zeros((shape[0], shape[1] - 1))
        return empty.index_put((packed.scattered_to[:, 0], packed.scattered_to[:, 1]), values)

    plain = logs.detach()
    return Scored(
        log_probs=scattered(logs.gather(1, packed.labels[:, None])[:, 0]),
        entropy=scattered(-(plain.exp() * plain).sum(-1)),
        mean_logits=scattered(logits.detach().mean(-1)),
        is_top1=scattered(plain.argmax(-1) == packed.labels),
    )
