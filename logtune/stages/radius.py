"""How far a cluster reaches: its own requests inside, requests of no topic in particular outside."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def radius_of(own: Floats, strangers: Floats, least: float, most: float) -> float:
    """The cosine similarity from which a request belongs to a cluster.

    `own`, shape (N,): of its members, each as if it were new; `strangers`, shape (M,): of other requests, with M = 0
    where there are none. Between the quantiles `least` and `most` of `own` it parts the two best: the share of own
    requests inside less the share of strangers inside is largest (Youden's J, Cancer 3:32, 1950). Of equals the widest.
    """
    widest, narrowest = np.quantile(own, [least, max(least, most)])
    if not len(strangers):
        return float(widest)
    tried = np.unique([widest, *own[(own > widest) & (own < narrowest)], narrowest])
    return float(tried[np.argmax(_inside(own, tried) - _inside(strangers, tried))])


def _inside(closeness: Floats, tried: Floats) -> Floats:
    """(T,): the share of `closeness` that each of T ascending radii lets in."""
    return 1 - np.searchsorted(np.sort(closeness), tried) / len(closeness)
