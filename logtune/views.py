"""What the rows of the pipeline look up on a cycle's board."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from logtune.records import Cluster, Decision, Derived, Interaction, Message, PreferencePair, Rule, Signal
from logtune.runner import Cycle


def given(records: Sequence[Derived]) -> Callable[[], Awaitable[Sequence[Derived]]]:
    """Work that is done already: the records."""

    async def work() -> Sequence[Derived]:
        return records

    return work


def signals_of(cycle: Cycle) -> dict[str, list[Signal]]:
    """Interaction id -> its signals."""
    found: dict[str, list[Signal]] = defaultdict(list)
    for signal in cycle.board.all(Signal):
        found[signal.interaction_id].append(signal)
    return found


def teaching(cycle: Cycle) -> list[Interaction]:
    """The interactions that may teach something."""
    teaches = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches != "nothing"}
    return [item for item in cycle.board.all(Interaction) if item.id in teaches]


def rules_by_interaction(cycle: Cycle) -> dict[str, list[Rule]]:
    """Interaction id -> the merged rules that rest on it."""
    found: dict[str, list[Rule]] = defaultdict(list)
    for rule in cycle.board.all(Rule):
        for member in rule.interaction_ids if rule.merged_from else ():
            found[member].append(rule)
    return found


def pairs_of(cycle: Cycle, group: Cluster) -> list[PreferencePair]:
    """The pairs of a cluster."""
    members = set(group.interaction_ids)
    return [pair for pair in cycle.board.all(PreferencePair) if pair.interaction_id in members]


def users_of(cycle: Cycle) -> dict[str, str]:
    """Interaction id -> its user, else its session, else itself."""
    return {item.id: item.user or item.session or item.id for item in cycle.board.all(Interaction)}


def prompt_of(item: Interaction) -> tuple[Message, ...]:
    """The messages that the answer answered."""
    return (*item.context, Message(role="user", content=item.query))


def max_tokens(cycle: Cycle, item: Interaction) -> int:
    """The longest answer that the request allowed, else the gate's setting."""
    request = cycle.logs[item.log_id].request
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    return limit if isinstance(limit, int) and limit > 0 else cycle.config.evaluate.max_tokens
