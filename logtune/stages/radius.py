"""How far a cluster reaches: its own requests inside, requests of no topic in particular outside."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reach:
    """The cosine similarity from which a request belongs to a cluster, and which members do."""

    radius: float
    members: npt.NDArray[np.bool_]  # (N,); those outside are strangers too


def reach(own: Floats, strangers: Floats, least: float, most: float) -> Reach:
    """How far a cluster reaches.

    `own`, shape (N,): the closeness of its members, each as if it were new; `strangers`, shape (M,): of other requests,
    with M = 0 where there are none. The radius is the quantile `least` of `own`, so only few new requests get lost, and
    all are members; unless a narrower one up to the quantile `most` parts members from strangers better: the share of
    members inside less the share of strangers inside is largest (Youden's J, Cancer 3:32, 1950).
    """
    widest, narrowest = np.quantile(own, [least, max(least, most)])
    tried = np.unique([widest, *own[(own > widest) & (own < narrowest)], narrowest])
    parted = _inside(own, tried) - (_inside(strangers, tried) if len(strangers) else 1.0)
    radius = float(tried[np.argmax(parted)])
    return Reach(radius, own >= (radius if radius > widest else -np.inf))


def _inside(closeness: Floats, tried: Floats) -> Floats:
    """(T,): the share of `closeness` that each of T ascending radii lets in."""
    return 1 - np.searchsorted(np.sort(closeness), tried) / len(closeness)
