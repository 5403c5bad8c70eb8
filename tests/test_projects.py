"""Projects in PostgreSQL: a schema each, made when the first key is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_store import MISSING, Postgres

from logtune.app.projects import existing, for_project, known, open_store
from logtune.config import build
from logtune.edges.keyring import Keyring
from logtune.errors import InputError
from logtune.records import LogRecord


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    if MISSING:
        pytest.skip(MISSING)
    made = Postgres()
    yield made
    made.stop()


def test_each_project_has_a_schema_of_its_own(server: Postgres, tmp_path: Path) -> None:
    config = build({"store": {"url": server.url, "home": str(tmp_path)}})
    main = open_store(config)
    log = LogRecord(id="l1", request={}, response=None, at=1.0)
    for name in ("acme", "my-shop"):
        Keyring(main).create("k", name)
        for _ in range(2):  # made once, then found
            store = open_store(for_project(config, name))
            store.add_logs([log])
            assert store.count(LogRecord) == 1
            assert not Keyring(store).every()
            store.close()
    assert main.count(LogRecord) == 0
    main.close()
    assert known(config) == ["acme", "default", "my-shop"]
    assert existing(config, "acme").store.url.endswith("options=-csearch_path%3Dlogtune_acme")
    with pytest.raises(InputError, match="there is no project 'other'"):
        existing(config, "other")
