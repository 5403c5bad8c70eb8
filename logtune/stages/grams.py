"""texts -> the hashed character and word n-grams in them, many texts at once, in numpy alone.

The texts of a batch lie behind each other as bytes; a feature is a number below BUCKETS. Case, the digit and the kind
of white space do not count. Nothing is looked up a text at a time: 200 characters cost some microseconds.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]

BITS = 17
BUCKETS = 1 << BITS
HEAD, TAIL = 1500, 500  # characters that are read of a longer text: what attacks begin and end with
AT_ONCE = 1 << 20  # characters of whole texts, whose words are numbered with some 36 times as many bytes of memory
_MIX = np.uint32(0x9E3779B1)  # 2**32 divided by the golden ratio: its multiples spread evenly
_POWERS = [np.uint32(pow(0x01000193, power, 1 << 32)) for power in range(8)]
_PRIME = 0x100000001B3  # of 64-bit FNV; odd, so that it has an inverse modulo 2**64


def _table() -> Bytes:
    table = np.arange(256, dtype=np.uint8)
    table[ord("0") : ord("9") + 1] = ord("0")
    table[[9, 10, 11, 12, 13]] = ord(" ")
    return table


_FOLDED = _table()
_IN_WORD = np.zeros(256, np.bool_)
_IN_WORD[[*range(ord("0"), ord("9") + 1), *range(ord("a"), ord("z") + 1), *range(128, 256), ord("'")]] = True


class Batch(NamedTuple):
    """Texts as bytes: text i is data[starts[i]:ends[i]], and begins and ends with a space."""

    data: Bytes
    starts: Places
    ends: Places


def batch(texts: Sequence[str]) -> Batch:
    """The texts of a batch in the form that features are read from."""
    raw = [b" %b " % _plain(text).encode("utf-8", "replace") for text in texts]
    joined = _FOLDED[np.frombuffer(b"".join(raw), np.uint8)]
    ends = np.cumsum([len(item) for item in raw], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if raw else ends
    space = joined == ord(" ")
    kept = ~(space[1:] & space[:-1])
    kept = np.concatenate([np.ones(min(1, len(joined)), np.bool_), kept])
    kept[starts] = True
    shift = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept, dtype=np.int64)])
    return Batch(joined[kept], shift[starts], shift[ends])


def _plain(text: str) -> str:
    read = text if len(text) <= HEAD + TAIL else f"{text[:HEAD]} {text[-TAIL:]}"
    return (read if read.isascii() else unicodedata.normalize("NFKC", read)).lower()


class Run(NamedTuple):
    """Features of one kind: those of text i are hashes[begins[i]:stops[i]]."""

    hashes: Hashes  # 32 bits each
    begins: Places
    stops: Places


def runs(texts: Batch) -> Iterator[Run]:
    """Character 3- to 5-grams, words, pairs of neighbours, and pairs with one word between."""
    yield from characters(texts)
    yield from _words(texts)


def characters(texts: Batch, sizes: Sequence[int] = (3, 4, 5)) -> Iterator[Run]:
    """All character n-grams of each text, spaces included; `sizes` rises."""
    data = texts.data.astype(np.uint32)
    total = np.zeros(len(data), np.uint32)
    for place in range(max(sizes)):
        total = total[: len(data) - place] + data[place:] * _POWERS[place]
        if place + 1 in sizes:
            stops = np.maximum(texts.ends - place, texts.starts)
            yield Run(total ^ np.uint32((place + 1) * 0x61C88647 & 0xFFFFFFFF), texts.starts, stops)


def _words(texts: Batch) -> Iterator[Run]:
    inside = np.concatenate([[False], _IN_WORD[texts.data], [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    first, last = edges[::2], edges[1::2]
    hashes = _spans(texts.data, first, last)
    begins = np.searchsorted(first, texts.starts)
    stops = np.searchsorted(first, texts.ends)
    yield Run(_short(hashes), begins, stops)
    for distance in (1, 2):
        pairs = hashes[:-distance] * np.uint64(2 * distance + 1) ^ (hashes[distance:] << np.uint64(1))
        yield Run(_short(pairs), begins, np.maximum(stops - distance, begins))


def word_keys(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A number for the words of each text: equal where they are, whatever stands between them and in which case."""
    blocks = np.cumsum([len(text) for text in texts]) // AT_ONCE
    parts = groupby(zip(blocks.tolist(), texts, strict=True), key=itemgetter(0))
    found = [_word_keys([text for _, text in part]) for _, part in parts]
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _word_keys(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    raw = [text.lower().encode("utf-8", "surrogatepass") + b" " for text in texts]
    data = np.frombuffer(b"".join(raw), np.uint8)
    inside = _IN_WORD[data]
    kept = inside.copy()
    kept[1:] |= inside[:-1]  # one sign behind each word
    ends = np.concatenate([[0], np.cumsum([len(item) for item in raw], dtype=np.int64)])
    places = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[ends]
    hashes = _spans(np.where(inside, data, np.uint8(ord(" ")))[kept], places[:-1], places[1:])
    return np.asarray((hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9), np.uint64)


def _spans(data: Bytes, first: Places, last: Places) -> npt.NDArray[np.uint64]:
    """A hash of data[first:last] for each pair, wherever it stands: sums of powers, divided by that of the place."""
    with np.errstate(over="ignore"):
        powers = _powers(len(data), _PRIME)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((data.astype(np.uint64) + np.uint64(1)) * powers)])
        # A text without words may begin where the data ends, so there is one power more.
        found = (sums[last] - sums[first]) * _powers(len(data) + 1, pow(_PRIME, -1, 1 << 64))[first]
        return np.asarray(found, np.uint64)


_KNOWN: dict[int, npt.NDArray[np.uint64]] = {}


def _powers(count: int, base: int) -> npt.NDArray[np.uint64]:
    known = _KNOWN.get(base)
    if known is None or len(known) < count:
        with np.errstate(over="ignore"):
            made = np.cumprod(np.full(max(count, 1 << 16), base, np.uint64)) * np.uint64(pow(base, -1, 1 << 64))
        known = _KNOWN[base] = np.asarray(made, np.uint64)
    return known[:count]


def _short(hashes: npt.NDArray[np.uint64]) -> Hashes:
    mixed = hashes ^ (hashes >> np.uint64(29))
    return ((mixed * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(32)).astype(np.uint32)


# --- what kinds of characters a text has ---

KINDS = ("upper", "lower", "digit", "space", "line", "!", "?", "@#", "brackets", "money", "other", "beyond ASCII")
SHAPE = len(KINDS) + 2  # numbers that `shape` gives of a text


def _kinds() -> Bytes:
    table = np.full(256, KINDS.index("other"), np.uint8)
    for kind, members in {
        "upper": range(ord("A"), ord("Z") + 1), "lower": range(ord("a"), ord("z") + 1), "space": b" \t",
        "digit": range(ord("0"), ord("9") + 1), "line": b"\n\r", "!": b"!", "?": b"?", "@#": b"@#",
        "brackets": b"<>{}[]|\\", "money": b"$%", "beyond ASCII": range(128, 256),
    }.items():  # fmt: skip
        table[list(members)] = KINDS.index(kind)
    return table


_KIND = _kinds()


def shape(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """(N, SHAPE): the share of each kind among a text's bytes, its length on a log scale, and whether it asks."""
    raw = [text[:HEAD].encode("utf-8", "replace") for text in texts]
    sizes = np.array([len(item) for item in raw])
    rows = np.repeat(np.arange(len(raw)) * len(KINDS), sizes)
    counted = np.bincount(rows + _KIND[np.frombuffer(b"".join(raw), np.uint8)], minlength=len(raw) * len(KINDS))
    shares = counted.reshape(len(raw), len(KINDS)) / np.maximum(sizes, 1)[:, None]
    length = np.log1p([len(text) for text in texts]) / 10
    asks = [float(text[-4:].rstrip().endswith("?")) for text in texts]
    return np.column_stack([np.sqrt(shares), length, asks]).astype(np.float32)


def buckets(hashes: Hashes) -> npt.NDArray[np.uint32]:
    """Feature numbers 0..BUCKETS-1."""
    return (hashes * _MIX) >> np.uint32(32 - BITS)
