"""Old evidence decays: the time of each piece of evidence -> what it weighs, and which of it still trains.

After a half-life evidence weighs half as much as new evidence about the same. How much one piece weighs beside another
never changes, since both go on ageing alike: so what trains changes only when something new is said.
"""

from collections.abc import Mapping

from logtune.records import DAY_S
from logtune.statistics import uniform

SALT = "logtune-decay"  # fixed: what has faded does not come back


def weight(age_s: float, half_life_days: float) -> float:
    """1 for new evidence, half of it after each half-life; 1 for ever where that is 0."""
    return 0.5 ** (max(0.0, age_s) / (half_life_days * DAY_S)) if half_life_days else 1.0


def unfaded(said_at: Mapping[str, float], half_life_days: float, *, always: int, most: int) -> set[str]:
    """Which of the lessons (id -> time) train: all new ones, of older ones a share that is their weight.

    Of `always` or fewer none fades, and of more than `most` only the first by priority train: weight divided by the lot
    that each lesson has drawn (priority sampling, Duffield, Lund and Thorup 2007).
    """
    newest = max(said_at.values(), default=0.0)
    priority = {
        name: weight(newest - at, half_life_days) / max(uniform(SALT, name), 1e-12) for name, at in said_at.items()
    }
    order = sorted(priority, key=lambda name: (-priority[name], name))
    kept = [name for place, name in enumerate(order) if priority[name] >= 1 or place < always]
    return set(kept[:most])
