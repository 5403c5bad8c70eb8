"""How much a training learns: the pairs within the token limits, and the passes over them.

pairs, number of a text's tokens, TrainSettings -> Fit        pairs, TrainSettings -> epochs
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from logtune.config import TrainSettings
from logtune.ports import TrainingPair

LEAST_EPOCHS = 3  # 300 pairs are learned in that many (docs/log.md)


@dataclass(frozen=True, slots=True)
class Fit:
    """Pairs that fit the token limits, and how many did not."""

    pairs: tuple[TrainingPair, ...]
    too_long: int
    longest_prompt: int = 0  # tokens, of all pairs
    longest_answer: int = 0

    def told(self, settings: TrainSettings) -> str:
        """What exceeds which limit, and what would not."""
        return (
            f"{self.too_long} of {len(self.pairs) + self.too_long} pairs are over the token limits and are left out: "
            f"the longest prompt has {self.longest_prompt} tokens (train.max_prompt_tokens "
            f"{settings.max_prompt_tokens}), the longest answer {self.longest_answer} (train.max_answer_tokens "
            f"{settings.max_answer_tokens})"
        )


def fitting(pairs: Sequence[TrainingPair], tokens: Callable[[str], int], settings: TrainSettings) -> Fit:
    """The pairs within the token limits. Nothing is cut: a cut prompt would teach another question."""
    sizes = [(sum(tokens(m.content) for m in p.prompt), max(tokens(p.chosen), tokens(p.rejected))) for p in pairs]
    kept = tuple(
        pair
        for pair, (prompt, answer) in zip(pairs, sizes, strict=True)
        if prompt <= settings.max_prompt_tokens and answer <= settings.max_answer_tokens
    )
    longest = [max((size[side] for size in sizes), default=0) for side in (0, 1)]
    return Fit(kept, len(pairs) - len(kept), *longest)


def epochs_for(pairs: int, settings: TrainSettings) -> int:
    """Passes over so many pairs: `epochs`, or as many whole ones as `steps` allow, but three if `epochs` does."""
    affordable = settings.steps // max(1, math.ceil(pairs / settings.batch))
    return min(settings.epochs, max(LEAST_EPOCHS, affordable))
