"""Who gets which arm: one lot a user and experiment, a share that only grows, and who can be compared.

unit, experiment -> lot in 0..1        lot, steps of the share, time -> arm, chance, whether the unit is compared

The candidate has the lots below its share, so a share that grows takes users from the base and gives none back. A user
whom a later step will move has a lot between the present share and the last one. Who that is, is known from the start:
they get the base now, and are left out of the comparison by their lot, whether or not they ever come back.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from logtune.config_experiment import ExperimentSettings
from logtune.records import Step
from logtune.sequential import Bools
from logtune.statistics import Floats, uniform

FINENESS = 0.8  # of the shares that traffic allows, each by so much below the next: a step is worth its name


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


def worth(chance: Floats) -> Floats:
    """What a compared unit tells, in units of even arms."""
    return 4 * chance * (1 - chance)


def next_share(settings: ExperimentSettings, known: npt.NDArray[np.int64], leads: Bools, active: int) -> Floats:
    """The share that is allowed now; each shape of `known`.

    known   units in the candidate arm whose windows are over: they allow the steps of the ramp
    leads   whether their outcomes tell nothing against the candidate
    active  units that come within a window: those in the candidate arm are had before anything is known of them, so
            they may be `max_waiting`, and where the candidate leads as many as are known already
    """
    step = np.asarray(settings.ramp, dtype=np.float64)[np.searchsorted(settings.ramp_users, known, side="right")]
    doubled = np.floor(np.log2(np.maximum(known / settings.max_waiting, 1.0)))
    most = settings.max_waiting * np.where(leads, 2.0**doubled, 1.0)
    below = np.log(settings.ramp[-1] * max(active, 1) / most) / -math.log(FINENESS)  # steps of fineness
    fine = settings.ramp[-1] * FINENESS ** np.ceil(np.maximum(below, 0.0) - 1e-9)
    return np.minimum(step, np.maximum(np.round(fine, 6), 1e-6))
