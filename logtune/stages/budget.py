"""The adapter budget over the cycles: what each live adapter is worth, which goes first, which rank a cluster gets.

Evaluation*, requests a cluster -> worth of an adapter = gain x traffic
Wish*, budget -> rank of each cluster

Gain is the share of held-out votes that an adapter won from the base model less the share it lost; traffic the share of
all requests that goes to its cluster. So worth is the share of all requests that are better because of it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from logtune.records import Adapter, Deployment, Evaluation

CLEARLY = 1.25  # times the worth of those that go; so two of about the same worth don't push each other out in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may live, and what is known of what does."""

    base_parameters: int
    budget: float = 0.005  # share of the base model's parameters
    worth: Mapping[str, float] = field(default_factory=dict)  # by adapter id; one that has none never has to go


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A live adapter: what it takes, and what it is worth."""

    adapter_id: str
    clusters: tuple[str, ...]  # names; most adapters serve one
    kind: str
    rank: int
    parameters: int
    share: float  # of the base model's parameters
    gain: float | None  # -1..1; None: no gate has measured it
    traffic: float | None  # 0..1 of all requests; None: there were none
    worth: float | None  # gain x traffic
    goes: int | None = None  # 1: retires first, should room be needed; None: never by itself


Homes = Mapping[str, Sequence[str]]  # adapter id -> names of the clusters that it serves, or would


def homes(current: Mapping[str, Deployment]) -> dict[str, list[str]]:
    """Where each live adapter serves; most serve one cluster."""
    found: dict[str, list[str]] = {}
    for name, row in sorted(current.items()):
        if row.adapter_id is not None:
            found.setdefault(row.adapter_id, []).append(name)
    return found


def holdings(
    at: Homes, adapters: Mapping[str, Adapter], gain: Mapping[str, float], asked: Mapping[str, float],
    base_parameters: int,
) -> list[Holding]:  # fmt: skip
    """Every adapter, the one that goes first at the top; `adapters` and `gain` by id, `asked`: `traffic` by cluster."""
    worth = worths(at, gain, asked)
    found = [
        Holding(
            adapter_id=name, clusters=tuple(clusters), kind=adapters[name].kind, rank=adapters[name].rank,
            parameters=adapters[name].parameters, share=adapters[name].parameters / base_parameters,
            gain=gain.get(name), traffic=_asked(clusters, asked), worth=worth.get(name),
        )
        for name, clusters in at.items()
    ]  # fmt: skip
    return _numbered(found)


def worths(at: Homes, gain: Mapping[str, float], asked: Mapping[str, float]) -> dict[str, float]:
    """Adapter id -> gain x traffic, of those of which both are known."""
    known = {name: _asked(clusters, asked) for name, clusters in at.items() if name in gain}
    return {name: round(gain[name] * share, 6) for name, share in known.items() if share is not None}


def _asked(clusters: Sequence[str], asked: Mapping[str, float]) -> float | None:
    known = [asked[name] for name in clusters if name in asked]
    return sum(known) if known else None


def _numbered(found: Sequence[Holding]) -> list[Holding]:
    measured = sorted((h for h in found if h.worth is not None), key=lambda h: (h.worth or 0.0, h.adapter_id))
    rest = sorted((h for h in found if h.worth is None), key=lambda h: h.adapter_id)
    return [*(replace(holding, goes=place) for place, holding in enumerate(measured, start=1)), *rest]


def gains(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Adapter id -> gain over the base model, of those that have passed; `evaluations`: newest first.

    Where the gate did not measure it (nobody gave a right answer), what an adapter won is added to the gain of what it
    beat; a baseline without an adapter then counts as the base model.
    """
    passed: dict[str, Evaluation] = {}
    for item in evaluations:
        if item.adapter_id and item.outcome == "passed":
            passed.setdefault(item.adapter_id, item)
    return {name: round(_gain(name, passed), 4) for name in passed}


def _gain(name: str, passed: Mapping[str, Evaluation]) -> float:
    total, seen = 0.0, set[str]()
    while name in passed and name not in seen:
        seen.add(name)
        measured = passed[name].guards.get("over_base")
        gain = measured.get("gain") if isinstance(measured, dict) else None
        if isinstance(gain, (int, float)):
            total += gain
            break
        total, name = total + 2 * (passed[name].win_rate or 0.0) - 1, passed[name].baseline
    return max(-1.0, min(1.0, total))


def room(
    live: Mapping[str, int], worth: Mapping[str, float], least: int, gained: float | None
) -> tuple[str, ...] | None:
    """Which of the live adapters (id -> parameters) go so that at least `least` parameters come free; None: none may.

    The least worth goes first; what need not go after all stays. Together they must be worth clearly less than what
    comes (`gained`; None: that is not known, so nothing goes for it).
    """
    going = _first(sorted((name for name in live if name in worth), key=lambda name: (worth[name], name)), live, least)
    freed, lost = sum(live[name] for name in going), sum(worth[name] for name in going)
    return tuple(going) if freed >= least and gained is not None and gained > CLEARLY * max(0.0, lost) else None


def beyond(live: Mapping[str, int], worth: Mapping[str, float], least: int) -> tuple[str, ...]:
    """Which of the live adapters go where they take `least` parameters too many: the least worth first, at last those
    of which nothing is known.
    """
    return tuple(_first(sorted(live, key=lambda name: (name not in worth, worth.get(name, 0.0), name)), live, least))


def _first(order: Sequence[str], live: Mapping[str, int], least: int) -> list[str]:
    """As many from the front as free `least` parameters, without those that then need not go."""
    going: list[str] = []
    for name in order:
        if sum(live[each] for each in going) >= least:
            break
        going.append(name)
    for name in reversed(going.copy()):  # a small one that went first may have gone in vain
        if sum(live[each] for each in going if each != name) >= least:
            going.remove(name)
    return going


def traffic(sent: Sequence[str | None], names: Iterable[str]) -> dict[str, float]:
    """Cluster name -> share of the requests; `sent`: where each went, None: nowhere. {} without requests."""
    counts = Counter(sent)
    return {name: counts[name] / len(sent) for name in names} if sent else {}


# --- ranks ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A cluster that would train."""

    name: str
    serving: int = 0  # rank of the adapter that serves it; 0: none
    settled: bool = False  # nothing is new: what it was trained with stays


def ranks(wishes: Sequence[Wish], affordable: float, max_rank: int) -> dict[str, int]:
    """Rank of each cluster: powers of two, 0 where not even 1 is affordable. `affordable`: ranks of all together.

    A cluster keeps the rank that serves it, or grows to an even share where that fits; new ones share what is left.
    Where nothing is left they get an even share, and at deployment the worth decides who stays.
    """
    even = rank_within(affordable / max(1, len(wishes)), max_rank)
    found = {wish.name: min(wish.serving, max_rank) for wish in wishes if wish.serving}
    new = [wish.name for wish in wishes if not wish.serving]
    if new:
        left = rank_within((affordable - sum(found.values())) / len(new), max_rank)
        found |= dict.fromkeys(new, min(left, even) or even)
    for wish in wishes:
        grown = sum(found.values()) - found[wish.name] + even
        if wish.serving and not wish.settled and even > found[wish.name] and grown <= affordable:
            found[wish.name] = even
    return {name: rank if rank <= affordable else even for name, rank in found.items()}


def rank_within(share: float, most: int) -> int:
    """The highest power of two within a share and `most`; 0 below 1."""
    rank = 1
    while rank * 2 <= min(share, most):
        rank *= 2
    return rank if share >= 1 else 0
