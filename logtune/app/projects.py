"""Projects: each has a store and a home of its own, so one project's logs, feedback and adapters never meet another's.

Config, name -> the Config of that project        the main store's keys -> which projects there are
"""

import re
from pathlib import Path

from logtune.config import Config, StoreSettings
from logtune.edges.keyring import Keyring
from logtune.edges.project_scope import DEFAULT
from logtune.edges.store import Store
from logtune.errors import InputError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class ProjectStore(StoreSettings):
    """Where a project's records are kept; made by `for_project` alone."""

    project: str
    """Its name."""


def project_of(config: Config) -> str:
    """Whose settings these are."""
    return config.store.project if isinstance(config.store, ProjectStore) else DEFAULT


def for_project(config: Config, name: str) -> Config:
    """The settings of a project, from those of the default one; InputError for a name that cannot be one.

    Its home is a folder of the home, where SQLite's file lies too; in PostgreSQL it has a schema `logtune_NAME`.
    """
    if not NAME.fullmatch(name):
        hint = "use up to 32 of a-z, 0-9 and -, beginning with a letter or digit"
        raise InputError(f"{name[:80]!r} is no name for a project", hint)
    if name == DEFAULT:
        return config
    home = Path(config.store.home) / "projects" / name
    own = {**config.store.model_dump(), "url": _url(config.store.url, name, home), "home": str(home), "project": name}
    store = ProjectStore.model_validate(own)
    return config.model_copy(update={"store": store})


def open_store(config: Config) -> Store:
    """The store of a project's settings; its folder is made where it is missing."""
    if project_of(config) != DEFAULT:
        Path(config.store.home).mkdir(parents=True, exist_ok=True)
    return Store(config.store.url)


def known(config: Config) -> list[str]:
    """The projects there are: the default one, and those that a key was ever made for; `config` is the default's."""
    main = Store(config.store.url)
    try:
        return sorted({DEFAULT, *(key.project for key in Keyring(main).every())})
    finally:
        main.close()


def existing(config: Config, name: str) -> Config:
    """The settings of a project that exists; InputError for another, so that a slip of the pen makes no store."""
    found = for_project(config, name)
    if name != DEFAULT and name not in (names := known(config)):
        hint = f"there are: {', '.join(names)}; logtune keys create NAME --project {name} begins it"
        raise InputError(f"there is no project {name!r}", hint)
    return found


def _url(url: str, name: str, home: Path) -> str:
    from sqlalchemy.engine import URL, make_url

    if url.startswith("sqlite"):
        return URL.create("sqlite", database=str(home / "logtune.db")).render_as_string()
    # A schema of its own: names hold no underscore, so two projects never get the same one.
    own = {"options": f"-csearch_path=logtune_{name.replace('-', '_')}"}
    return make_url(url).update_query_dict(own).render_as_string(hide_password=False)
