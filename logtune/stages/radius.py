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
    radius = plain
    if len(strangers):
        radius = min(narrowest, max(min(plain, SLACK * plain), float(np.quantile(strangers, 1 - FEW))))
    if radius > plain and _between(strangers, plain, radius) < WORTH * _between(own, plain, radius):
        radius = plain
    return Reach(radius, own >= radius if radius > plain else np.ones(len(own), bool))


def _between(closeness: Floats, low: float, high: float) -> float:
    """The share that the narrower of two radii leaves out."""
    return float(np.mean((closeness >= low) & (closeness < high)))
