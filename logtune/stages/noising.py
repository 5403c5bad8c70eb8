"""Unigram noising (Xie et al. 2017): in each pass some words of a request are replaced by words of other requests.

TrainingPair*, their tokens -> a collator. So what the requests behind one answer share is learned, and not their words;
a request whose answer no other one shares stays as it is: its words may be what the answer is about.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from logtune.ports import TrainingPair

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_trainer import SFTTrainer

Tokens = tuple[int, ...]
Example = dict[str, list[int]]  # of TRL: prompt_ids, chosen_ids and more
Collate = Callable[[list[Example]], object]


@dataclass(frozen=True, slots=True)
class Noising:
    """Noises a batch, then collates it: the same batch of the same pass in the same way, wherever a training begins."""

    collate: Collate
    places: Mapping[tuple[Tokens, Tokens], slice]  # (prompt, chosen answer) -> the words of the request in the prompt
    words: Sequence[int]  # what replaces them: the tokens of all these requests
    share: float  # of the words, 0..1
    seed: int
    passes: Callable[[], float]  # made so far

    def __call__(self, examples: list[Example]) -> object:
        """The batch with some words replaced."""
        return self.collate([self._noised(example) for example in examples])

    def _noised(self, example: Example) -> Example:
        key = tuple(example["prompt_ids"]), tuple(example["chosen_ids"])
        if key not in self.places:
            return example
        draw = random.Random(f"{self.seed} {int(self.passes() + 1e-6)} {key}")
        prompt, place = list(example["prompt_ids"]), self.places[key]
        for index in range(place.start, place.stop):
            if draw.random() < self.share:
                prompt[index] = draw.choice(self.words)
        return {**example, "prompt_ids": prompt}


def noise(
    trainer: "DPOTrainer | SFTTrainer", pairs: Sequence[TrainingPair], tokenizer: "PreTrainedTokenizerBase",
    share: float, seed: int,
) -> None:  # fmt: skip
    """Noise the requests of a trainer of these pairs from here on; its reference has read them as they are."""
    examples = cast("Dataset", trainer.train_dataset).select_columns(["prompt_ids", "chosen_ids"]).to_list()
    noised = noising(
        pairs, examples, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
        cast("Collate", trainer.data_collator), share, seed, lambda: trainer.state.epoch or 0.0,
    )  # fmt: skip
    trainer.data_collator = cast("Any", noised)  # a collator is whatever can be called


def noising(
    pairs: Sequence[TrainingPair], examples: Sequence[Example], tokens: Callable[[str], Sequence[int]],
    collate: Collate, share: float, seed: int, passes: Callable[[], float],
) -> Noising:  # fmt: skip
    """The collator for pairs, of which `examples` are what the trainer reads, in their order."""
    shared = shared_answers(pairs)
    places: dict[tuple[Tokens, Tokens], slice] = {}
    words: list[int] = []
    for pair, example in zip(pairs, examples, strict=True):
        place = last_of(example["prompt_ids"], tokens(pair.prompt[-1].content)) if pair.chosen in shared else None
        if place is not None:
            places[tuple(example["prompt_ids"]), tuple(example["chosen_ids"])] = place
            words += example["prompt_ids"][place]
    return Noising(collate=collate, places=places, words=words, share=share, seed=seed, passes=passes)


def shared_answers(pairs: Sequence[TrainingPair]) -> Collection[str]:
    """Right answers that several requests have."""
    requests: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        requests[pair.chosen].add(pair.prompt[-1].content)
    return {answer for answer, found in requests.items() if len(found) > 1}


def last_of(prompt: Sequence[int], words: Sequence[int]) -> slice | None:
    """Where the words stand last in a prompt; None: nowhere, so a tokenizer joined them with what is around."""
    size = len(words)
    starts = range(len(prompt) - size, -1, -1) if size else ()
    found = next((start for start in starts if list(prompt[start : start + size]) == list(words)), None)
    return None if found is None else slice(found, found + size)
