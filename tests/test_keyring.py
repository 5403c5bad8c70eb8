"""Client keys at rest: made once, hashed, listed, revoked."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from logtune.edges.keyring import KEY, Keyring, hash_of
from logtune.edges.store import Store
from logtune.errors import InputError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    yield opened
    opened.close()


def test_a_key_is_shown_once_and_only_its_hash_is_kept(store: Store, tmp_path: Path) -> None:
    key, text = Keyring(store).create("web shop", "default", 60)
    assert re.fullmatch(r"lt-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", text)
    assert KEY.fullmatch(text)[1] == key.id
    assert key.hash == hash_of(text) != text
    assert Keyring(store).every() == [key]
    store.close()
    secret = text.split("-", 2)[2].encode()
    for file in tmp_path.iterdir():
        assert secret not in file.read_bytes(), file


def test_keys_differ_and_are_listed_oldest_first(store: Store) -> None:
    ring = Keyring(store)
    made = [ring.create("a", "acme")[0] for _ in range(5)]
    assert [key.id for key in ring.every()] == [key.id for key in sorted(made, key=lambda key: key.created_at)]
    assert len({key.hash for key in made}) == 5
    assert {key.project for key in made} == {"acme"}


def test_a_revoked_key_stays_listed_with_its_first_time(store: Store) -> None:
    ring = Keyring(store)
    key, _ = ring.create("a", "default")
    other, _ = ring.create("b", "default")
    first = ring.revoke(key.id[:9])
    assert first.revoked_at is not None
    assert ring.revoke(key.id) == first
    assert ring.every() == [first, other]


@pytest.mark.parametrize("wanted", ["", "zz", "0" * 13])
def test_a_key_that_is_not_there_cannot_be_revoked(store: Store, wanted: str) -> None:
    ring = Keyring(store)
    ring.create("a", "default")
    with pytest.raises(InputError, match="there is no key"):
        ring.revoke(wanted)


def test_a_beginning_that_several_share_revokes_none(store: Store) -> None:
    ring = Keyring(store)
    ids = [ring.create("a", "default")[0].id for _ in range(40)]  # of 40 ids two share their first of 16 digits
    shared = next(first for first in "0123456789abcdef" if sum(name.startswith(first) for name in ids) > 1)
    with pytest.raises(InputError, match="several keys"):
        ring.revoke(shared)
    assert all(key.revoked_at is None for key in ring.every())


@pytest.mark.parametrize("name", ["", "  ", "a" * 81])
def test_a_key_has_a_name_that_people_can_read(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="cannot be called"):
        Keyring(store).create(name, "default")
    assert Keyring(store).every() == []
