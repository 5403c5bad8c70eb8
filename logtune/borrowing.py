"""The row of the pipeline that gives complaints without a right answer the one that requests around them were given.

Only users without a vote at the gate lend and borrow: an answer from the other side would be proven on itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from logtune.ids import identified
from logtune.knowing import contrasted
from logtune.records import Cluster, Decision, Interaction, PreferencePair
from logtune.runner import Cycle, Unit
from logtune.sides import sides_of
from logtune.stages import borrowed, pairs
from logtune.trusting import people
from logtune.views import held, pairs_of, teaching


def borrow(cycle: Cycle) -> Iterator[Unit]:
    """A unit a complaint that borrows an answer, once it is known whose words hold and which cluster they are in."""
    told = _told(cycle) if cycle.config.pairs.borrow else []
    asking = _asking(cycle) if told else []
    if not asking:
        return
    users, embedder, doubted = people(cycle), cycle.tools.embedder, held(cycle)
    loans = borrowed.borrow(
        embedder.embed([item.query for item in asking]),
        [users[item.id] for item in asking],
        [_read(pair, users[pair.interaction_id], believed=pair.interaction_id not in doubted) for pair in told],
        embedder.embed([cycle.board.get(Interaction, pair.interaction_id).query for pair in told]),
        cycle.config.pairs.borrow_precision,
    )
    for item, loan in zip(asking, loans, strict=True):
        if loan is not None and (pair := _pair(item, [told[row] for row in loan.told], loan.margin)) is not None:
            yield Unit((pair.id, cycle.tools.base_fingerprint), contrasted(cycle, item, pair))


def _told(cycle: Cycle) -> list[PreferencePair]:
    """The short right answers that users of the training side named: those in clusters, and those not believed."""
    usable, doubted = (p for group in cycle.board.all(Cluster) for p in pairs_of(cycle, group)), held(cycle)
    others = (pair for pair in cycle.board.all(PreferencePair) if pair.interaction_id in doubted)
    found = [pair for pair in chain(usable, others) if pair.origin in pairs.USERS_OWN]
    items = [cycle.board.get(Interaction, pair.interaction_id) for pair in found]
    learners = {item.id for item in sides_of(cycle, items).train}
    return [pair for pair in found if pair.interaction_id in learners and pairs.is_short(pair.chosen)]


def _asking(cycle: Cycle) -> list[Interaction]:
    """Complaints of the training side that are believed and made no pair."""
    paired = {pair.interaction_id for pair in cycle.board.all(PreferencePair)}
    complained = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches == "rule"} - paired
    return list(sides_of(cycle, [item for item in teaching(cycle) if item.id in complained]).train)


def _read(pair: PreferencePair, user: str, *, believed: bool) -> borrowed.Told:
    return borrowed.Told(id=pair.interaction_id, user=user, answer=pairs.plain(pair.chosen), believed=believed)


def _pair(item: Interaction, told: Sequence[PreferencePair], margin: float) -> PreferencePair | None:
    """None where the answer complained about is the one to borrow."""
    if pairs.plain(item.answer) == pairs.plain(told[0].chosen):
        return None
    made = pairs.build(item, (), told[0].chosen, item.answer, "borrowed", votes={"margin": round(margin, 4)})
    lenders = tuple(pair.interaction_id for pair in told)
    return None if made is None else identified(replace(made, id="", like_ids=lenders))
