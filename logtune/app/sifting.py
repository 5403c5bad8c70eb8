"""A streaming pass of the filter's cheap part over everything in the store, on all cores, in bounded memory.

store -> batches of encoded logs -> workers (decode, screen) -> near copies, in order -> counts and examples a reason

Only texts that stand for themselves are judged here: what an interaction may teach depends on feedback and on what the
deployment is for, which `logtune cycle` looks at.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple

from logtune.config import FilterSettings
from logtune.edges.schema import decode
from logtune.records import SHADOW, Json, LogRecord
from logtune.stages.interactions import answer_text, request_messages
from logtune.stages.noise import NoiseModel
from logtune.stages.screen import Copies, Item, Screened, screen

BATCH = 512  # logs given to a worker at once
AHEAD = 3  # batches under way for each worker: the most that is in memory
EXAMPLES = 3  # of each reason
KEPT = 200  # characters of an example
CLEAN = "kept"


class Example(NamedTuple):
    """A query that was sifted out."""

    id: str
    query: str
    scores: dict[str, float]


@dataclass(slots=True)
class Sifted:
    """What a pass found."""

    total: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # reason, or CLEAN
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def add(self, items: Sequence[Item], batch: Screened, copies: Copies) -> None:
        """Count a batch."""
        for item, finding in zip(items, copies.findings(batch), strict=True):
            reason = finding.reason if finding else CLEAN
            self.total += 1
            self.counts[reason] = self.counts.get(reason, 0) + 1
            shown = self.examples.setdefault(reason, [])
            if finding is not None and len(shown) < EXAMPLES:
                shown.append(Example(item.id, item.query, dict(finding.scores)))


def sift(
    bodies: Iterable[str], settings: FilterSettings, workers: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Sifted:  # fmt: skip
    """Screen all logs; `bodies`: as the store holds them, in order. `workers` 0: in this process."""
    found, copies = Sifted(), Copies(settings)
    for items, batch in _screened(bodies, settings, (os.cpu_count() or 1) if workers is None else workers):
        found.add(items, batch, copies)
        if found.total % (100 * BATCH) < BATCH:
            progress(f"{found.total:,} logs read")
    return found


Done = tuple[Sequence[Item], Screened]


def _screened(bodies: Iterable[str], settings: FilterSettings, workers: int) -> Iterator[Done]:
    """Screened batches in the order of the logs; never more than AHEAD of them a worker are under way."""
    batches = _batches(bodies)
    if not workers:
        model = _shipped()
        yield from (_work(batch, model, settings) for batch in batches)
        return
    from collections import deque

    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (settings,)) as pool:
        under_way = deque(pool.submit(_in_worker, batch) for batch in islice(batches, workers * AHEAD))
        while under_way:
            yield under_way.popleft().result()
            under_way.extend(pool.submit(_in_worker, batch) for batch in islice(batches, 1))


def _batches(bodies: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(bodies)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _shipped() -> NoiseModel:
    from logtune.app.noise_parameters import noise_model

    return noise_model()


_held: list[tuple[NoiseModel, FilterSettings]] = []  # in a worker: what its batches are screened with


def _start(settings: FilterSettings) -> None:
    _held.append((_shipped(), settings))


def _in_worker(batch: Sequence[str]) -> Done:
    model, settings = _held[-1]
    return _work(batch, model, settings)


def _work(batch: Sequence[str], model: NoiseModel, settings: FilterSettings) -> Done:
    items = [item for body in batch if (item := _item(body)) is not None]
    shown = [Item(item.id, item.query[:KEPT], "", "") for item in items]  # what has to travel between processes
    return shown, screen(items, model, settings)


def _item(body: str) -> Item | None:
    """As `item_of` an encoded log, of which only what is screened is made."""
    row = json.loads(body)
    try:
        if row.get("source") == SHADOW:  # an answer that nobody saw teaches nothing, in a cycle too
            return None
        return _asked(row["id"], row["request"], row.get("response"), row.get("user") or row.get("session") or "")
    except (KeyError, TypeError, AttributeError):
        return item_of(decode(LogRecord, body))  # tells what is wrong with it


def item_of(log: LogRecord) -> Item | None:
    """What is screened of a log; None where it asks nothing or was not answered."""
    return _asked(log.id, log.request, log.response, log.user or log.session or "")


def _asked(name: str, request: Mapping[str, Json], response: Mapping[str, Json] | None, owner: str) -> Item | None:
    answer, messages = answer_text(response), request_messages(request)
    if not answer or not messages or messages[-1].role != "user":
        return None
    opening = next((message.content for message in messages[:-1] if message.role == "user"), "")
    return Item(name, messages[-1].content, answer, owner, opening)
