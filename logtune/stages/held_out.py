"""Interaction* -> train, selection, confirmation: who teaches, who chooses the checkpoint, who confirms it once.

By the salted hash of the user, else the session, else the interaction: the same side in every cycle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from logtune.config import EvaluateSettings
from logtune.errors import InputError
from logtune.records import Interaction
from logtune.statistics import uniform, unit_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Interactions by what they are for; no user is on two sides."""

    train: tuple[Interaction, ...]
    selection: tuple[Interaction, ...]  # chooses the checkpoint; empty under preset uno, which uses `confirmation`
    confirmation: tuple[Interaction, ...]  # tested once


def split(
    interactions: Sequence[Interaction], settings: EvaluateSettings, salt: str,
    settled: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> Split:  # fmt: skip
    """Interactions by the salted hash of their user, else session, else id: the same side in every cycle.

    `settled`: shares (selection, confirmation) of units, as `unit_of` names them, that came while others held.

    Both held-out sides have their own end of the hash: changing one share moves users to or from `train` alone.
    Where a conversation began before its user was known, both units may fall on different sides; then what of it would
    train, or else choose, is left out.
    Few users may by luck leave a side empty; nothing is moved to mend that, `compare` then says not_enough_data.
    """
    if settings.selection_share + settings.confirmation_share >= 1:
        shares = f"selection_share {settings.selection_share} and confirmation_share {settings.confirmation_share}"
        raise InputError(f"{shares} leave nothing to train on", "lower them in [evaluate]; the defaults are 0.15 each")
    sides: dict[str, list[Interaction]] = {"train": [], "selection": [], "confirmation": []}
    for item in interactions:
        unit = unit_of(item.user, item.session, item.id)
        choose, confirm = settled.get(unit, (settings.selection_share, settings.confirmation_share))
        place = uniform("split", salt, unit)
        held = "confirmation" if place < confirm else "train"
        sides["selection" if place >= 1 - choose else held].append(item)
    torn = _torn(sides)
    return Split(**{name: tuple(i for i in items if i.id not in torn) for name, items in sides.items()})


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
