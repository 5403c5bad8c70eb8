"""`logtune rules`: which rules there are, on whom they rest, and what people decide about them."""

import getpass
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import click

from logtune.app.commands.records import KINDS, details, known, make
from logtune.app.console import Console, common, harmless, one_line
from logtune.errors import InputError
from logtune.ids import new_id
from logtune.records import Interaction, Rule, RuleAction, RuleEntry

if TYPE_CHECKING:
    from logtune.app.influence import Influence
    from logtune.edges.store import Store

KIND = KINDS["rules"]
LONGEST = 2000  # letters of an edit, a note or a name
ABOUT: Mapping[RuleAction, str] = {
    "pin": "Keep a rule in use however few users stand behind it, and before all others in a prompt.",
    "veto": "Use a rule no more: it leaves prompts at once, and from the next cycle on it trains nothing.",
    "edit": "Put a rule in other words; they are told once a cycle has proven them. A right answer: its text.",
    "expire": "End a rule that is out of date: what was said so far counts no more, what users say from now on does.",
    "reset": "Take back every pin, veto, edit and expiry of a rule: its evidence alone decides again.",
}
EXAMPLE = {"edit": ' "Answer in two sentences."', "expire": " --until 2026-05-01", "veto": ' --note "campaign is over"'}
rules = make("rules", KIND)


def _verb(action: RuleAction) -> click.Command:
    @common
    def run(
        say: Console, rule_id: str, who: str | None, note: str, text: str = "", until: datetime | None = None
    ) -> None:
        with say.store() as (store, _):
            rule = cast("Rule", known(store, "rules", KIND, rule_id))
            entry = _entry(store, rule, action, who, note, text, until)
            decide(say, store, entry)

    params = [
        click.argument("rule_id", metavar="ID"),
        click.option("--who", metavar="NAME", help="Who decides.  [default: the user of this machine]"),
        click.option("--note", metavar="TEXT", default="", help="Why, for those who read it later."),
    ]
    if action == "edit":
        params.insert(1, click.argument("text", metavar="TEXT"))
    if action == "expire":
        dates = click.DateTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])
        params.append(click.option("--until", type=dates, help="UTC.  [default: its newest evidence]"))
    command = run
    for param in reversed(params):
        command = param(command)
    example = f"\n\n\b\nExample:\n  logtune rules {action} rule-3f9c{EXAMPLE.get(action, '')}"
    return click.command(action, help=ABOUT[action] + example)(command)


def _entry(
    store: "Store", rule: Rule, action: RuleAction, who: str | None, note: str, text: str, until: datetime | None
) -> RuleEntry:
    for name, value in (("the new text", text), ("the note", note), ("the name", who or "")):
        if len(value) > LONGEST:
            raise InputError(f"{name} has {len(value)} letters", f"give at most {LONGEST}")
    if action == "edit" and not text.strip():
        raise InputError("the new text is empty", "logtune rules veto ends a rule")
    end = None
    if action == "expire":
        newest = max((item.at for item in store.load(Interaction, rule.interaction_ids)), default=0.0)
        end = until.replace(tzinfo=UTC).timestamp() if until else newest
    return RuleEntry(
        id=f"led-{new_id()}", action=action, rule_id=rule.id, rule_text=rule.text, parts=rule.merged_from or (rule.id,),
        who=who or getpass.getuser(), at=time.time(), text=_worded(rule, text), until=end, note=note,
        interaction_ids=rule.interaction_ids,
    )  # fmt: skip


def _worded(rule: Rule, text: str) -> str:
    """The new words; of a right answer they stay one."""
    from logtune.stages.distill import ANSWER
    from logtune.stages.prompted import in_words

    plain = " ".join(text.split())
    return ANSWER + plain if plain and not in_words(rule) and not plain.startswith(ANSWER) else plain


def decide(say: Console, store: "Store", entry: RuleEntry) -> None:
    """Write a line of the ledger, or say that it holds already."""
    from logtune.app.influence import told
    from logtune.edges.ledger import RuleLedger

    line = RuleLedger(store).add(entry)
    new = line.id == entry.id
    words = f'"{one_line(line.rule_text)}" {told(line)}'
    after = "a gateway follows within seconds, the next cycle too" if new else "it was so already; nothing is changed"
    say.answer({"changed": new, "entry": line}, [f"{harmless(words)} ({line.rule_id}); {after}."])


@click.command("show")
@click.argument("record_id", metavar="ID")
@common
def show(say: Console, record_id: str) -> None:
    """Every field of one rule, on whom it rests, what people decided about it, and its lineage.

    \b
    Example:
      logtune rules show rule-3f9c
    """
    from logtune.app.influence import influence
    from logtune.app.serving_now import logs_and_users, sources

    with say.store() as (store, _):
        rule = cast("Rule", known(store, "rules", KIND, record_id))
        logs, users = logs_and_users(sources(store, rule))
        lineage = {
            "parents": store.parents(rule.id), "children": store.children(rule.id), "logs": logs, "users": users,
        }  # fmt: skip
        found = influence(store, rule)
    document = {"kind": "Rule", "record": rule, "influence": found, "rests_on": found.sentence, **lineage}
    say.answer(document, [*details(rule, lineage), *_influence(found)])


def _influence(found: "Influence") -> Iterator[str]:
    from logtune.app.influence import told
    from logtune.stages.standing import REASONS

    yield f"  {'rests on:':<18} {harmless(one_line(found.sentence))}"
    if found.standing is not None:
        yield f"  {'standing:':<18} {found.standing.state}: {REASONS.get(found.standing.reason, found.standing.reason)}"
    for line in found.lines:
        yield f"  {'decided:':<18} {harmless(one_line(told(line)))}"


@click.command("ledger")
@common
def ledger(say: Console) -> None:
    """Every decision about rules, newest first: who, when, what.

    \b
    Example:
      logtune rules ledger
    """
    from logtune.app.influence import told
    from logtune.edges.ledger import RuleLedger

    with say.store() as (store, _):
        lines = RuleLedger(store).every()[::-1]
    written = [harmless(one_line(f'{line.rule_id}  "{line.rule_text}" {told(line)}')) for line in lines]
    say.answer(list(lines), written or ["Nobody has decided anything about a rule yet."])


for command in (show, ledger, *map(_verb, ABOUT)):
    rules.add_command(command)
COMMANDS = {"rules": rules}
