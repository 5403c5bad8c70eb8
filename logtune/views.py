"""What the rows of the pipeline look up on a cycle's board."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from logtune.records import (
    Cluster,
    Decision,
    Derived,
    Interaction,
    Message,
    PreferencePair,
    Rule,
    Signal,
    Standing,
)
from logtune.runner import Cycle
from logtune.stages.implicit import is_act, weighty
from logtune.stages.prompted import ACTIVE


def given(records: Sequence[Derived]) -> Callable[[], Awaitable[Sequence[Derived]]]:
    """Work that is done already: the records."""

    async def work() -> Sequence[Derived]:
        return records

    return work


def signals_of(cycle: Cycle) -> dict[str, list[Signal]]:
    """Interaction id -> the signals that were said: ratings, edits, comments and turns."""
    found: dict[str, list[Signal]] = defaultdict(list)
    for signal in cycle.board.all(Signal):
        if not is_act(signal):
            found[signal.interaction_id].append(signal)
    return found


def weighed_signals(cycle: Cycle) -> dict[str, Sequence[Signal]]:
    """Interaction id -> what was said and, beside that, done."""
    found: dict[str, list[Signal]] = defaultdict(list)
    for signal in cycle.board.all(Signal):
        found[signal.interaction_id].append(signal)
    return weighty(found)


def teaching(cycle: Cycle) -> list[Interaction]:
    """The interactions that may teach something, and once it is known whose words hold, those that do."""
    teaches = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches != "nothing"} - held(cycle)
    return [item for item in cycle.board.all(Interaction) if item.id in teaches]


def held(cycle: Cycle) -> set[str]:
    """Ids of the interactions, rules and pairs that are held back."""
    return {item.lesson_id for item in cycle.board.all(Standing) if item.state == "held"}


def ended(cycle: Cycle) -> set[str]:
    """Interactions behind rules that people ended."""
    merged = (rule for rule in cycle.board.all(Rule) if rule.merged_from and rule.state not in ACTIVE)
    return {member for rule in merged for member in rule.interaction_ids}


def taught(cycle: Cycle, group: Cluster) -> tuple[PreferencePair, ...]:
    """What those that served a cluster's requests before have learned, without what is believed or said no more.

    Lessons go with their requests where clusters merge and split; those whose requests are in no cluster any more stay
    with the name that they were taught to.
    """
    out, members = held(cycle) | ended(cycle), set(group.interaction_ids)
    said = set(cycle.aged) | {pair.id for pair in cycle.board.all(PreferencePair)}
    placed = {member for other in cycle.board.all(Cluster) for member in other.interaction_ids}
    mine = {
        pair.id: pair
        for name, pairs in cycle.lessons.items()
        for pair in pairs
        if pair.interaction_id in members or (name == group.name and pair.interaction_id not in placed)
    }
    return tuple(pair for pair in mine.values() if pair.id in said and pair.interaction_id not in out)


def rules(cycle: Cycle) -> list[Rule]:
    """The merged rules that may be used; their distinct users are those who are believed."""
    standings = {item.lesson_id: item for item in cycle.board.all(Standing)}
    found = []
    for rule in cycle.board.all(Rule):
        mine = standings.get(rule.id)
        if rule.merged_from and rule.state in ACTIVE and (mine is None or mine.state == "trusted"):
            found.append(rule if mine is None else replace(rule, distinct_users=mine.users))
    return found


def rules_by_interaction(cycle: Cycle) -> dict[str, list[Rule]]:
    """Interaction id -> the merged rules in use that rest on it."""
    found: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules(cycle):
        for member in rule.interaction_ids:
            found[member].append(rule)
    return found


def pairs_of(cycle: Cycle, group: Cluster) -> list[PreferencePair]:
    """The pairs of a cluster that may be used: neither held themselves, nor are all of their rules."""
    members, out = set(group.interaction_ids), held(cycle)
    out |= {part for rule in cycle.board.all(Rule) if rule.id in out for part in rule.merged_from}
    pairs = cycle.board.all(PreferencePair)
    mine = [pair for pair in pairs if pair.interaction_id in members and pair.id not in out]
    return [pair for pair in mine if not pair.rule_ids or not out.issuperset(pair.rule_ids)]


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
