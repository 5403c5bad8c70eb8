"""Interaction* -> train, selection, confirmation: who teaches, who chooses the checkpoint, who confirms it once.

By the salted hash of the user, else the session, else the interaction: the same side in every cycle. Of many such draws
of new users a cycle takes the one in which every right answer has its share of votes (`evenest`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from logtune.config import EvaluateSettings
from logtune.records import Interaction
from logtune.statistics import uniform, unit_of

MOST_DRAWS = 1_000
EFFORT = 50_000  # hashes to find the draw; chance spreads the votes of more users evenly enough


class Shares(NamedTuple):
    """How users fall on the held-out sides: shares in 0..1, and which draw."""

    choose: float  # the checkpoint
    confirm: float
    draw: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Interactions by what they are for; no user is on two sides."""

    train: tuple[Interaction, ...]
    selection: tuple[Interaction, ...]  # chooses the checkpoint; empty under preset uno, which uses `confirmation`
    confirmation: tuple[Interaction, ...]  # tested once


def split(
    interactions: Sequence[Interaction], settings: EvaluateSettings, salt: str,
    settled: Mapping[str, Shares] = MappingProxyType({}), draw: int = 0,
) -> Split:  # fmt: skip
    """Interactions by the salted hash of their user, else session, else id: the same side in every cycle.

    `settled`: shares of units, as `unit_of` names them, that came while others held; `draw`: of all others.

    Both held-out sides have their own end of the hash: changing one share moves users to or from `train` alone.
    Where a conversation began before its user was known, both units may fall on different sides; then what of it would
    train, or else choose, is left out.
    Few users may by luck leave a side empty; nothing is moved to mend that, `compare` then says not_enough_data.
    """
    sides: dict[str, list[Interaction]] = {"train": [], "selection": [], "confirmation": []}
    newest = Shares(settings.selection_share, settings.confirmation_share, draw)
    for item in interactions:
        unit = unit_of(item.user, item.session, item.id)
        sides[_side(unit, salt, settled.get(unit, newest))].append(item)
    torn = _torn(sides)
    return Split(**{name: tuple(i for i in items if i.id not in torn) for name, items in sides.items()})


def evenest(answers: Mapping[str, str], settings: EvaluateSettings, salt: str) -> int:
    """The draw that spreads the votes most evenly over right answers (unit -> the answer it wants).

    Rerandomisation (Morgan and Rubin 2012): of many draws the one with the least chi-square of votes over answers that
    at least two want and the others together, and of both held-out sides. No result decides, and what is rare votes as
    often as what is not.
    """
    wanted = Counter(answers.values())
    strata = {unit: answer if wanted[answer] > 1 else "" for unit, answer in answers.items()}
    sizes = dict(sorted(Counter(strata.values()).items()))  # in one order: sums of the same terms are to be equal

    def uneven(draw: int) -> float:
        shares = Shares(settings.selection_share, settings.confirmation_share, draw)
        sides = Counter((_side(unit, salt, shares), kind) for unit, kind in strata.items())
        votes = sum(_surprise(sides["confirmation", kind], shares.confirm * size) for kind, size in sizes.items())
        totals = (("selection", shares.choose), ("confirmation", shares.confirm))
        return votes + sum(
            _surprise(sum(sides[side, kind] for kind in sizes), share * len(strata)) for side, share in totals
        )

    return min(range(min(MOST_DRAWS, EFFORT // max(1, len(strata)))), key=uneven, default=0)


def _surprise(found: int, expected: float) -> float:
    """A term of chi-square."""
    return (found - expected) ** 2 / expected if expected else 0.0


def _side(unit: str, salt: str, shares: Shares) -> str:
    place = uniform("split", salt, *([str(shares.draw)] if shares.draw else []), unit)
    held = "confirmation" if place < shares.confirm else "train"
    return "selection" if place >= 1 - shares.choose else held


def _torn(sides: Mapping[str, Sequence[Interaction]]) -> set[str]:
    """Ids of interactions whose session has one user, unknown for a part of it, and is also on a side further on."""
    found: dict[str, dict[str, list[Interaction]]] = {}  # session -> side -> interactions
    for name in ("train", "selection", "confirmation"):
        for item in sides[name]:
            if item.session:
                found.setdefault(item.session, {}).setdefault(name, []).append(item)
    torn: set[str] = set()
    for parts in found.values():
        users = {item.user for items in parts.values() for item in items}
        if len(parts) > 1 and len(users) == 2 and users & {None, ""}:
            torn.update(item.id for items in list(parts.values())[:-1] for item in items)
    return torn
