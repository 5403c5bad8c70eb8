"""PreferencePair* of a cluster -> ids of those beyond what one user may teach it.

Newer pairs come first. A cluster that one user alone has made is left as it is: there is nobody to be outvoted.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from logtune.config_trust import TrustSettings


def allowed(counts: Mapping[str, int], settings: TrustSettings) -> dict[str, int]:
    """User -> how many pairs of theirs may train; `counts`: user -> pairs they gave."""
    if len(counts) < 2:
        return dict(counts)
    typical, total = median(counts.values()), sum(counts.values())
    share = settings.most_of_cluster / (1 - settings.most_of_cluster)
    most = {user: min(settings.most_of_typical * typical, share * (total - count)) for user, count in counts.items()}
    return {user: min(counts[user], max(settings.always_allowed, int(limit))) for user, limit in most.items()}


def over_cap(owners: Mapping[str, str], said_at: Mapping[str, float], settings: TrustSettings) -> set[str]:
    """Ids of the pairs that are too many; `owners`: pair id -> user, `said_at`: pair id -> time."""
    mine: dict[str, list[str]] = defaultdict(list)
    for name, user in owners.items():
        mine[user].append(name)
    most = allowed(Counter(owners.values()), settings)
    return {name for user, names in mine.items() for name in _newest(names, said_at)[most[user] :]}


def _newest(names: Sequence[str], said_at: Mapping[str, float]) -> list[str]:
    return sorted(names, key=lambda name: (-said_at[name], name))
