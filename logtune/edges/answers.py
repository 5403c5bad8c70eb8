"""From tokens to an answer: sampling the next token, text that grows token by token, stop strings."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

COLDEST = 1e-4  # below, scores divided by the temperature leave float32's range, and the highest always wins anyway
UNFINISHED = "\ufffd"  # what a decoder gives for bytes that are not yet a whole character


def choose(scores: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """The next token: the highest score at temperature 0, else drawn from the smallest set of tokens whose probability
    reaches top_p (nucleus sampling, arXiv 1904.09751). `scores`: (vocabulary,), float32.
    """
    if not temperature > COLDEST:
        return int(scores.argmax())
    chances = torch.softmax(scores / temperature, dim=-1)
    if top_p < 1:
        ordered, order = chances.sort(descending=True)
        ordered[1:][(ordered.cumsum(0) - ordered)[1:] >= top_p] = 0
        return int(order[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(chances, 1, generator=generator))


class AnswerText:
    """The text of an answer as its tokens come; what is given out is never taken back.

    Held back: bytes of an unfinished character, and an end that may become a stop string.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self.text = ""  # all given out so far
        self.stopped = False  # a stop string came; the text ends before it
        self._decode = decode
        self._stop = [text for text in stop if text]
        self._tokens: list[int] = []
        self._read = self._context = 0  # tokens whose text is known; where the last ones of them begin
        self._held = ""

    def push(self, token: int) -> str:
        """Take a token; the text that it adds for sure."""
        self._tokens.append(token)
        return self._give(self._fresh(last=False), last=False)

    def finish(self) -> str:
        """The rest, once no token follows."""
        return "" if self.stopped else self._give(self._fresh(last=True), last=True)

    def _fresh(self, *, last: bool) -> str:
        """Text of the tokens not yet read. The ones before are decoded too: some decoders drop a leading space."""
        before = self._decode(self._tokens[self._context : self._read])
        whole = self._decode(self._tokens[self._context :])
        if len(whole) <= len(before) or (whole.endswith(UNFINISHED) and not last):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return whole[len(before) :]

    def _give(self, fresh: str, *, last: bool) -> str:
        self._held += fresh
        found = [at for text in self._stop if (at := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            given, self._held = self._held[: min(found)], ""
        else:
            keep = 0 if last else max((self._overlap(text) for text in self._stop), default=0)
            given, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self.text += given
        return given

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if self._held.endswith(stop[:size])), 0)
