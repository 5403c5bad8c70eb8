"""How likely a model finds answers: log-likelihoods of answers after their prompts, many in one pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from logtune.edges.decoding import Passes, SlotCache, Tokens
from logtune.edges.lora import Lora

BATCH_TOKENS = 2048  # of prompts and answers in one batch, padding included

Item = tuple[tuple[int, ...], tuple[int, ...]]  # tokens of a prompt, tokens of an answer (at least one)


@dataclass(frozen=True, slots=True)
class Score:
    """Log-likelihood of an answer after its prompt."""

    total: float  # nats, negative
    tokens: int


def batches(items: Sequence[Item]) -> Iterator[list[int]]:
    """The items' numbers in batches of similar length, those with the same prompt side by side."""
    batch: list[int] = []
    for number in sorted(range(len(items)), key=lambda number: (len(items[number][0]), items[number])):
        longest = max(len(items[other][0]) + len(items[other][1]) for other in (*batch, number))
        if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def score(passes: Passes, items: Sequence[Item], lora: Lora | None) -> list[Score]:
    """Score each answer; a prompt goes through the model once however many answers follow it."""
    cache = SlotCache(passes.model)
    prompts = list(dict.fromkeys(prompt for prompt, _ in items))
    owners = [prompts.index(prompt) for prompt, _ in items]
    first = passes.prefill(cache, len(items), prompts, [lora] * len(prompts)).log_softmax(-1)
    totals = [float(first[owner, answer[0]]) for owner, (_, answer) in zip(owners, items, strict=True)]
    for row, owner in enumerate(owners):
        cache.copy(len(items) + owner, row, len(items[row][0]))
    for row, gain in _rest(passes, cache, items, lora):
        totals[row] += gain
    return [Score(total, len(answer)) for total, (_, answer) in zip(totals, items, strict=True)]


def _rest(
    passes: Passes, cache: SlotCache, items: Sequence[Item], lora: Lora | None
) -> Iterator[tuple[int, float]]:  # fmt: skip
    """Row and log-probability of every answer token but the first."""
    inputs: list[Tokens] = [answer[:-1] for _, answer in items]
    if not any(inputs):
        return
    lengths = [len(prompt) for prompt, _ in items]
    for logits in passes.run(cache, 0, inputs, lengths, [lora] * len(items), [len(tokens) for tokens in inputs]):
        wanted = [items[row][1][place + 1] for row, place in zip(logits.rows, logits.places, strict=True)]
        losses = torch.nn.functional.cross_entropy(
            logits.scores, torch.tensor(wanted, device=logits.scores.device), reduction="none"
        )
        yield from zip(logits.rows, (-losses).tolist(), strict=True)
