"""TRL's DPO forward with each prompt computed once: [prompt chosen], [prompt rejected] -> [prompt chosen rejected].

Both answers see the prompt and not each other, at the positions they would have alone, so every log-probability is the
same; and only labelled positions meet the vocabulary. TRL's own loss, reference and metrics work on the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, cast

import torch

from logtune.stages.lean_lora import attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED = -100  # label of a position that is not scored


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
    """The packed form of a right-padded batch (2B, L): B rows with chosen, then B with rejected answers."""
    pairs = ids.shape[0] // 2
    starts = (labels != IGNORED).int().argmax(dim=1)  # first labelled column: where the answer begins
    ends = attention.sum(dim=1)
    rows, places, groups, wanted, targets, scattered = [], [], [], [], [], []
    for i in range(pairs):
        start = int(min(starts[i], starts[i + pairs]))
        chosen, rejected = int(ends[i]), int(ends[i + pairs])
        rows.append(torch.cat([ids[i, :chosen], ids[i + pairs, start:rejected]]))
        places.append(torch.cat([torch.arange(chosen), torch.arange(start, rejected)]))
        groups.append(torch.cat([torch.zeros(start), torch.ones(chosen - start), torch.full((rejected - start,), 2)]))
        for row, end, shift in ((i, chosen, 0), (i + pairs, rejected, chosen - start)):
            for column in range(start, end):
                if labels[row, column] != IGNORED:
                    wanted.append((i, column - 1 if column == start else column - 1 + shift))
                    targets.append(int(labels[row, column]))
                    scattered.append((row, column - 1))
    width = max(len(row) for row in rows)
    group = torch.stack([_padded(row, width, 9) for row in groups])
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    sees = (group[:, None, :] == 0) | (group[:, None, :] == group[:, :, None])
    return Packed(
        ids=torch.stack([_padded(row, width, 0) for row in rows]).to(ids.device),
        positions=torch.stack([_padded(row, width, 0) for row in places]).to(ids.device),
        mask=(sees & causal)[:, None].to(ids.device),
        predicted_by=torch.tensor(wanted, device=ids.device),
        labels=torch.tensor(targets, device=ids.device),
        scattered_to=torch.tensor(scattered, device=ids.device),
    )


def _padded(row: torch.Tensor, width: int, value: int) -> torch.Tensor:
    return torch.nn.functional.pad(row.cpu().long(), (0, width - len(row)), value=value)


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
