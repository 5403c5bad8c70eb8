"""Who gets which arm: one lot a user and experiment, a share that only grows, and who can be compared.

unit, experiment -> lot in 0..1        lot, steps of the share, time -> arm, chance, whether the unit is compared

The candidate has the lots below its share, so a share that grows takes users from the base and gives none back. A user
whom a later step will move has a lot between the present share and the last one. Who that is, is known from the start:
they get the base now, and are left out of the comparison by their lot, whether or not they ever come back.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from logtune.records import Step
from logtune.sequential import Bools
from logtune.statistics import Floats, uniform


def lot(experiment: str, unit: str) -> float:
    """What a unit (`statistics.unit_of`) draws in an experiment: the same on every machine, in every process."""
    return uniform("lot", experiment, unit)


def step_at(steps: Sequence[Step], at: float) -> Step | None:
    """The last step that has come into force; None: none has. All who know it agree, whenever they came to know it."""
    return next((step for step in reversed(steps) if step.since <= at), None)


def chance_at(share: Floats, last: float) -> Floats:
    """Chance of the candidate arm among the compared units; `last`: the share that the ramp ends with."""
    return share / (share + 1 - last)


def compared(lots: Floats, share: Floats, last: float) -> Bools:
    """Which units no step will move."""
    return (lots < share) | (lots >= last)


def next_share(ramp: Sequence[float], ramp_users: Sequence[int], units: npt.NDArray[np.int64]) -> Floats:
    """The share that so many units in the candidate arm allow."""
    return np.asarray(ramp, dtype=np.float64)[np.searchsorted(np.asarray(ramp_users), units, side="right")]
