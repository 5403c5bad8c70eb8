"""`logtune keys`: who may ask the gateway, and for which project."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logtune.app.commands.records import Listed
from logtune.app.console import Console, moment, table, unscoped

if TYPE_CHECKING:
    from logtune.config import Config
    from logtune.edges.keyring import Key
    from logtune.edges.store import Store

SHOWN = ("id", "name", "project", "created_at", "revoked_at", "rate_per_minute")  # the hash is nobody's business


@click.group("keys", cls=Listed)
def keys() -> None:
    """Who may ask the gateway: each key belongs to a project, whose logs and adapters meet no other's.

    Once there is a key, every client needs one. A running gateway follows within serve.poll_s seconds.

    \b
    Examples:
      logtune keys create "web shop"
      logtune keys
      logtune keys revoke 3f9c
    """


@keys.command("create")
@click.argument("name")
@click.option("--project", metavar="NAME", default="default", show_default=True, help="A new name begins a project.")
@click.option(
    "--rate", type=click.IntRange(0), metavar="N", help="Requests a minute, 0: any.  [default: serve.rate_per_minute]"
)
@unscoped
def create(say: Console, name: str, project: str, rate: int | None) -> None:
    """Make a key and print it, once: only a hash of it is kept.

    \b
    Examples:
      logtune keys create "web shop"
      logtune keys create acme --project acme --rate 600 --json
    """
    from logtune.app.projects import for_project, open_store
    from logtune.edges.keyring import Keyring

    with say.store() as (store, config):
        open_store(for_project(config, project)).close()  # before the key: a project that cannot be kept gets none
        key, text = Keyring(store).create(name, project, rate)
        _copied(store, config)
    say.progress("This is shown once. Clients send it as Authorization: Bearer ..., which OpenAI's do with api_key.")
    say.answer({"key": text, **_fields(key)}, [text])


@keys.command("list")
@unscoped
def list_keys(say: Console) -> None:
    """Every key, oldest first, without its secret.

    \b
    Examples:
      logtune keys
      logtune keys list --json
    """
    from logtune.edges.keyring import Keyring

    with say.store() as (store, _):
        found = Keyring(store).every()
    say.answer([_fields(key) for key in found], _lines(found))


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@unscoped
def revoke(say: Console, key_id: str) -> None:
    """Let a key in no more; a unique beginning of its id is enough.

    \b
    Examples:
      logtune keys revoke 3f9c0d12ab45
      logtune keys revoke 3f9c --json
    """
    from logtune.edges.keyring import Keyring

    with say.store() as (store, config):
        key = Keyring(store).revoke(key_id)
        _copied(store, config)
    when = f"a running gateway refuses it within {config.serve.poll_s:g} s"
    say.answer(_fields(key), [f"Revoked {key.id} ({key.name}); {when}."])


def _copied(store: "Store", config: "Config") -> None:
    """Keep the copy beside the store in step: by it a revoked key stays out while the store cannot be read."""
    from logtune.edges.key_copy import KeyCopy
    from logtune.edges.keyring import Keyring

    KeyCopy(Path(config.store.home)).keep(Keyring(store).every())


def _fields(key: "Key") -> dict[str, object]:
    return {name: getattr(key, name) for name in SHOWN}


def _lines(found: "Sequence[Key]") -> Iterator[str]:
    if not found:
        yield "There is no key: whoever reaches the gateway may ask. logtune keys create NAME makes one."
        return
    yield from table(
        ("id", "name", "project", "created", "revoked", "a minute"),
        [
            (key.id, key.name, key.project, moment(key.created_at), moment(key.revoked_at), _rate(key.rate_per_minute))
            for key in found
        ],
    )


def _rate(rate: int | None) -> str:
    return "" if rate is None else "any" if rate == 0 else f"{rate:,}"


COMMANDS = {"keys": keys}
