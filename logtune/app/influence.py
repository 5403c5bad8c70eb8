"""Store, rule -> Influence: on whom a rule rests, who behind it is held back and why, what people decided about it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from logtune.app.console import counted, moment
from logtune.edges.ledger import RuleLedger
from logtune.edges.store import Store
from logtune.records import Interaction, Rule, RuleEntry, Standing
from logtune.served import in_use
from logtune.stages import ledger

NAMED = 5  # users that a sentence names


@dataclass(frozen=True, slots=True)
class Decisions:
    """What people decided about rules."""

    entries: Sequence[RuleEntry]  # oldest first
    among: Sequence[Rule]  # the merged rules that hold now


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """On whom a rule rests."""

    standing: Standing | None  # of the newest cycle that weighed it; None: not weighed
    users: Mapping[str, int]  # who is believed -> logs, most first; of a log without a user its session, else the log
    held: Mapping[str, tuple[int, str]]  # who is held back -> logs, and why
    lines: tuple[RuleEntry, ...]  # of the ledger, that hold for it

    @property
    def sentence(self) -> str:
        """`rests on 3 users (ann 4, bob 1, cy 1)`, and who is held back."""
        names = [f"{user} {count}" for user, count in list(self.users.items())[:NAMED]]
        more = [f"{len(self.users) - NAMED} more"] if len(self.users) > NAMED else []
        said = f"{counted(len(self.users), 'user')} ({', '.join([*names, *more])})" if names else "nobody"
        if not self.held:
            return said
        reasons = Counter(reason for _, reason in self.held.values())
        why = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in reasons.most_common())
        return f"{said}; {counted(len(self.held), 'user')} held back ({why})"


def influence(store: Store, rule: Rule) -> Influence:
    """Of one rule, by the newest cycle that weighed it."""
    items = store.load(Interaction, rule.interaction_ids)
    decided = Decisions(RuleLedger(store).every(), [each for each in in_use(store, Rule) if each.merged_from])
    return of_rule(rule, items, newest(store.list(Standing, limit=None)), decided)


def newest(standings: Iterable[Standing]) -> dict[str, Standing]:
    """Lesson id -> its standing; `standings`: newest first."""
    found: dict[str, Standing] = {}
    for item in standings:
        found.setdefault(item.lesson_id, item)
    return found


def of_rule(
    rule: Rule, items: Sequence[Interaction], standings: Mapping[str, Standing], decisions: Decisions
) -> Influence:
    """Of one rule; `items`: its interactions, `standings`: by lesson id."""
    believed, held = Counter[str](), dict[str, tuple[int, str]]()
    for item in items:
        user, mine = item.user or item.session or item.log_id, standings.get(item.id)
        if mine is not None and mine.state == "held":
            held[user] = (held.get(user, (0, ""))[0] + 1, mine.reason)
        else:
            believed[user] += 1
    decided = ledger.decided(rule, decisions.entries, decisions.among)
    lines = tuple(line for line in (decided.state, decided.edit) if line is not None)
    return Influence(standing=standings.get(rule.id), users=dict(believed.most_common()), held=held, lines=lines)


def told(line: RuleEntry) -> str:
    """A line of the ledger in words."""
    done = {"pin": "pinned", "veto": "vetoed", "edit": "edited", "expire": "expired", "reset": "reset"}[line.action]
    what = f' to "{line.text}"' if line.action == "edit" else ""
    until = f" for what was said until {moment(line.until)}" if line.until is not None else ""
    return f"{done} by {line.who} at {moment(line.at)}{what}{until}" + (f": {line.note}" if line.note else "")
