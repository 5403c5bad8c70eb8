"""How far a cluster reaches: its own requests inside, requests of no topic in particular outside."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
FEW = 0.05  # share of strangers that may come in
SLACK = 2 / 3  # of the usual radius, where no more strangers come in for it: few members tell little of new requests
WORTH = 3.0  # times the share of members left out that strangers must be kept out, else these ask what strangers ask


@dataclass(frozen=True, slots=True)
class Reach:
    """The cosine similarity from which a request belongs to a cluster, and which members do."""

    radius: float
    members: npt.NDArray[np.bool_]  # (N,); those outside are strangers too


def reach(own: Floats, strangers: Floats, usual: float, most: float) -> Reach:
    """How far a cluster reaches.

    `own`, shape (N,): the closeness of its members, each as if it were new; `strangers`, shape (M,): of other requests.
    The radius lets FEW strangers in, within two limits: it is no narrower than the quantile `most` of `own`, and no
    wider than the SLACK of the quantile `usual`, which it is where M = 0. Narrower than that usual one it parts the
    cluster from strangers among its own members, if that is WORTH it; else all of them stay.
    """
    plain, narrowest = (float(value) for value in np.quantile(own, [usual, max(usual, most)]))
    if not len(strangers):
        return Reach(plain, np.ones(len(own), bool))
    widest = min(plain, SLACK * plain)
    radius = min(narrowest, max(widest, float(np.quantile(strangers, 1 - FEW))))
    if radius <= plain:
        return Reach(radius, np.ones(len(own), bool))
    left_out, kept_out = (float(np.mean((each >= plain) & (each < radius))) for each in (own, strangers))
    return Reach(radius, own >= radius) if kept_out >= WORTH * left_out else Reach(plain, np.ones(len(own), bool))
