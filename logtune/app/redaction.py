"""What the gateway and an import cut out of records before they exist, by the settings `redact`.

LogRecord fields, feedback bodies -> Redaction -> the same with placeholders, and pseudonyms for ids that are personal

An id that is an e-mail address or a phone number gets a keyed pseudonym: one user's records still belong together, and
feedback that names the user by the same id finds them.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

from logtune.config import Config
from logtune.edges.pseudonyms import load_key, pseudonym
from logtune.edges.store import Reject
from logtune.records import Feedback, Json, LogRecord
from logtune.stages.redact import Redactor

LOG = logging.getLogger(__name__)
LARGE = 32_768  # bytes of a request and its answer above which they are read off the event loop: about 2 ms
LONGEST_ERROR = 300  # characters
SHOWN_ERROR = 4 * LONGEST_ERROR  # what is read of one before it is cut, so that no half of an address stays
PHONE_ID = re.compile(r"\+?\d(?:[ .()-]{0,2}\d){9,14}")  # as messengers name their users
NAMES, TEXTS = ("id", "user", "supersedes"), ("comment", "correction", "source", "name")  # of feedback
ID_FIELDS = ("user", "safety_identifier", "prompt_cache_key")
METADATA_IDS = ("user_id", "session_id")
PREFIX = "prefix-"
REMAINS = re.compile(r"\S*@\S*|\d(?:[ .-]?\d){5,}")  # what may be half of something where a text was cut
Made = TypeVar("Made")


class Redaction:
    """Cuts out what the settings say; `of` makes one. Nothing of what it cuts out is kept."""

    def __init__(self, redactor: Redactor, key: bytes) -> None:
        self._redactor = redactor
        self._key = key
        # In memory alone, a few thousand of each: a user comes again, and there are few models and reasons.
        self.name: Callable[[str], str] = lru_cache(maxsize=4096)(self._name)
        self.label: Callable[[str], str] = lru_cache(maxsize=512)(self.text)

    @classmethod
    def of(cls, config: Config) -> "Redaction":
        """By `config.redact`; ConfigError where the recogniser of names or the key of the pseudonyms cannot be used."""
        settings, names = config.redact, None
        if settings.names == "presidio":
            from logtune.edges.names import recogniser

            names = recogniser(settings.names_model)
        kept = frozenset(text.lower() for text in settings.keep)
        files = settings.files == "drop"
        redactor = Redactor(kinds=frozenset(settings.kinds), names=names, keep=kept, files=files)
        return cls(redactor, load_key(Path(config.store.home)) if settings.kinds else b"")

    async def made(self, size: int, make: Callable[[], Made]) -> Made:
        """What `make` makes of `size` bytes: here, or in a thread where that would hold up others."""
        return make() if self.quick(size) else await asyncio.to_thread(make)

    def quick(self, size: int) -> bool:
        """Whether `size` bytes are read in so little time that the event loop may do it."""
        return size <= LARGE and self._redactor.names is None

    def text(self, text: str) -> str:
        """A text without what is personal."""
        return self._redactor.text(text)

    def maybe(self, text: str | None) -> str | None:
        """The same of a text that may be missing."""
        return None if text is None else self._redactor.text(text)

    def error(self, text: str | None) -> str | None:
        """Why there is no answer, in short: a model server's own words may repeat the request."""
        return None if text is None else self._redactor.text(text[:SHOWN_ERROR])[:LONGEST_ERROR]

    def _name(self, name: str) -> str:
        """An id; the pseudonym of one that is personal."""
        if not self._key or not (PHONE_ID.fullmatch(name) or self._redactor.identifies(name)):
            return name
        return pseudonym(self._key, name)

    def session(self, name: str | None, source: str) -> str | None:
        """A session's id; one that is a hash of what was said is hashed again, with the key, so none can guess it."""
        if name is None or not self._key:
            return name
        if source == PREFIX.removesuffix("-"):
            return PREFIX + pseudonym(self._key, name).rpartition("-")[2]
        return self.name(name)

    def request(self, body: Mapping[str, Json]) -> Mapping[str, Json]:
        """A chat request; the ids in it become those of the record."""
        if not self._key:
            return self._object(body)
        ids, metadata = self._ids(body, ID_FIELDS), body.get("metadata")
        rest: dict[str, Json] = {**body, **dict.fromkeys(ids)}  # ids are not read twice
        inner = self._ids(metadata, METADATA_IDS) if isinstance(metadata, dict) else {}
        if inner:
            rest["metadata"] = {**cast("dict[str, Json]", metadata), **dict.fromkeys(inner)}
        made = {**self._object(rest), **ids}
        if inner and isinstance(made.get("metadata"), dict):
            made["metadata"] = {**cast("dict[str, Json]", made["metadata"]), **inner}
        return made

    def response(self, body: Mapping[str, Json] | None) -> Mapping[str, Json] | None:
        """An answer."""
        return None if body is None else self._object(body)

    def feedback(self, body: Mapping[str, Json]) -> dict[str, Json]:
        """The body of feedback, before it is read."""
        made = dict(body)
        for field, change in [*((name, self.name) for name in NAMES), *((name, self.text) for name in TEXTS)]:
            value = made.get(field)
            if isinstance(value, str):
                made[field] = change(value)
        return made

    def imported(self, record: LogRecord | Feedback | Reject) -> LogRecord | Feedback | Reject:
        """What a line of a file stands for."""
        if isinstance(record, Reject):
            return replace(record, excerpt=self._cut(record.excerpt), detail=self._cut(record.detail))
        if isinstance(record, Feedback):
            return replace(
                record, id=self.name(record.id), target=self.name(record.target), comment=self.maybe(record.comment),
                correction=self.maybe(record.correction), source=self.text(record.source), name=self.text(record.name),
                user=self.maybe_name(record.user), supersedes=self.maybe_name(record.supersedes),
            )  # fmt: skip
        return replace(
            record, id=self.name(record.id), request=self.request(record.request),
            response=self.response(record.response), model=self.text(record.model), error=self.error(record.error),
            user=self.maybe_name(record.user), session=self.session(record.session, record.session_source),
            traces=self.names(record.traces), route_reason=self.text(record.route_reason),
            usage=self.response(record.usage) or {},
        )  # fmt: skip

    def maybe_name(self, name: str | None) -> str | None:
        """The same of an id that may be missing."""
        return None if name is None else self.name(name)

    def names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Ids, each as `name` gives it."""
        return tuple(map(self.name, names))

    def _object(self, value: Mapping[str, Json]) -> Mapping[str, Json]:
        """An object; one that cannot be read to its end is not kept at all."""
        try:
            found = self._redactor.redacted(cast("dict[str, Json]", value))
        except Exception as error:  # whatever the reason is, the text must not go on unread
            LOG.exception("a record was stored without its text, which could not be redacted")
            return {"not_redacted": type(error).__name__}
        return cast("dict[str, Json]", found)

    def _cut(self, text: str) -> str:
        """A text that was cut somewhere."""
        return REMAINS.sub("[...]", self._redactor.text(text)) if self._key else text

    def _ids(self, body: Mapping[str, Json], fields: Sequence[str]) -> dict[str, Json]:
        given = {field: body.get(field) for field in fields}
        return {field: self.name(value) for field, value in given.items() if isinstance(value, str)}
