"""Who may ask the gateway, for which project, and how much.

headers -> Access.caller -> Caller (401)        Caller -> Access.admitted -> headers that tell its limits (429, 503)

All of it is looked up in memory: `follow` is told the keys of the store at every look. Limits hold for one process.
"""

import base64
import hmac
import ipaddress
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from logtune.config_gateway import ServeSettings
from logtune.edges.keyring import KEY, Key, hash_of
from logtune.edges.project_scope import DEFAULT
from logtune.errors import ConfigError, RequestError

# Where a key may stand. The last three are what clients of Anthropic, Portkey and Helicone send.
CREDENTIALS = ("authorization", "x-api-key", "x-portkey-api-key", "helicone-auth")
CHALLENGE = {"www-authenticate": 'Bearer realm="logtune"'}
NO_HASH = hash_of("")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever asks: a key, or anybody where none is needed."""

    project: str = DEFAULT
    key_id: str = ""  # "": anybody
    name: str = ""  # of the key


ANYBODY = Caller()


class Bucket:
    """A token bucket: a minute's requests at once, refilled evenly; `now` in seconds of a monotonic clock."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._at = now

    def take(self, now: float) -> float:
        """Take one request; 0, or the seconds until there is one."""
        self._refill(now)
        if self._left < 1:
            return (1 - self._left) * 60 / self.per_minute
        self._left -= 1
        return 0.0

    def headers(self, now: float) -> dict[str, str]:
        """The state, as OpenAI's headers tell it."""
        self._refill(now)
        full_s = (self.per_minute - self._left) * 60 / self.per_minute
        return {
            "x-ratelimit-limit-requests": str(self.per_minute),
            "x-ratelimit-remaining-requests": str(int(self._left)),
            "x-ratelimit-reset-requests": f"{full_s:.3f}s",
        }

    def _refill(self, now: float) -> None:
        self._left = min(self.per_minute, self._left + max(0.0, now - self._at) * self.per_minute / 60)
        self._at = now


class Access:
    """Keys, and what each has used of its limits. State is held for the keys of the store alone, so it is bounded."""

    def __init__(self, settings: ServeSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._mode = settings.keys
        self._most, self._most_per_key = settings.max_concurrent, settings.max_concurrent_per_key
        self._rate = settings.rate_per_minute
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self.followed = False  # whether the keys were ever known
        self._buckets: dict[str, Bucket] = {}
        self._under_way: dict[str, int] = {}  # by key id
        self._total = 0
        self.needed = settings.keys == "always"

    def follow(self, keys: Sequence[Key]) -> None:
        """Know these keys from now on. Once there was one, they stay needed, even should the table be lost."""
        self.followed = True
        self._keys = {key.id: key for key in keys}
        self.needed = self.needed or (self._mode == "auto" and bool(keys))
        for gone in [key_id for key_id in self._buckets if key_id and key_id not in self._keys]:
            del self._buckets[gone]

    @property
    def under_way(self) -> int:
        """Requests under way in all."""
        return self._total

    @property
    def remembered(self) -> int:
        """Keys of whose rate something is remembered."""
        return len(self._buckets)

    def active(self) -> int:
        """How many keys let somebody in."""
        return sum(key.revoked_at is None for key in self._keys.values())

    def projects(self) -> list[str]:
        """Projects that somebody can ask for."""
        return sorted({key.project for key in self._keys.values() if key.revoked_at is None})

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Who sends these headers (lower-case names); RequestError 401 for a missing, wrong or revoked key.

        503 until the keys are known: a store that fails must not open the door.
        """
        if not self.followed and self._mode != "never":
            what = "the keys could not be read from the store yet"
            raise RequestError(what, 503, code="keys_unavailable", headers={"retry-after": "1"})
        if not self._keys and not self.needed:
            return ANYBODY
        texts = _texts(headers)
        for text in texts:
            if KEY.fullmatch(text):
                return self._owner(text)
        if self.needed:
            what = "a key is needed: send Authorization: Bearer lt-..." if not texts else "this is no key of logtune"
            raise RequestError(what, 401, code="invalid_api_key", headers=CHALLENGE)
        return ANYBODY

    def _owner(self, text: str) -> Caller:
        key = self._keys.get(text.split("-", 2)[1])
        if not hmac.compare_digest(hash_of(text), key.hash if key else NO_HASH) or key is None:
            raise RequestError("the key is not known", 401, code="invalid_api_key", headers=CHALLENGE)
        if key.revoked_at is not None:
            raise RequestError(f"the key {key.id} was revoked", 401, code="invalid_api_key", headers=CHALLENGE)
        return Caller(key.project, key.id, key.name)

    def admitted(self, caller: Caller) -> "Admission":
        """Counts a request as under way within `with`; RequestError 503 or 429 above a limit."""
        return Admission(self, caller)

    def enter(self, caller: Caller) -> Mapping[str, str]:
        """Begin a request; headers for its answer."""
        if self._total >= self._most:
            what = f"{self._most} requests are under way; try again soon"
            raise RequestError(what, 503, code="overloaded", headers={"retry-after": "1"})
        own = self._under_way.get(caller.key_id, 0)
        if self._most_per_key and own >= self._most_per_key:
            what = f"{own} requests of this key are under way; wait for one to end"
            raise RequestError(what, 429, code="rate_limit_exceeded", headers={"retry-after": "1"})
        told = self._take(caller)
        self._total += 1
        self._under_way[caller.key_id] = own + 1
        return told

    def leave(self, caller: Caller) -> None:
        """End a request."""
        self._total -= 1
        self._under_way[caller.key_id] -= 1
        if not self._under_way[caller.key_id]:
            del self._under_way[caller.key_id]

    def _take(self, caller: Caller) -> Mapping[str, str]:
        key = self._keys.get(caller.key_id)
        own = key.rate_per_minute if key else None
        rate = self._rate if own is None else own
        if not rate:
            return {}
        now, bucket = self._clock(), self._buckets.get(caller.key_id)
        if bucket is None or bucket.per_minute != rate:
            bucket = self._buckets[caller.key_id] = Bucket(rate, now)
        wait_s = bucket.take(now)
        if wait_s:
            what = f"more than {rate} requests a minute; try again in {wait_s:.1f} s"
            told = {"retry-after": str(math.ceil(wait_s)), **bucket.headers(now)}
            raise RequestError(what, 429, code="rate_limit_exceeded", headers=told)
        return bucket.headers(now)


class Admission:
    """A request's place among those under way; a class, for a generator would take several times as long."""

    __slots__ = ("_access", "_caller")

    def __init__(self, access: Access, caller: Caller) -> None:
        self._access = access
        self._caller = caller

    def __enter__(self) -> Mapping[str, str]:
        """Take the place; gives headers for the answer."""
        return self._access.enter(self._caller)

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._access.leave(self._caller)


def without_credentials(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers without what may hold a key: neither a model server nor a record has any business with it."""
    return {name: value for name, value in headers.items() if name not in CREDENTIALS}


def _texts(headers: Mapping[str, str]) -> list[str]:
    """What the headers present as keys, also the password of Basic credentials."""
    return [_bare(headers[name].strip()) for name in CREDENTIALS if name in headers and headers[name].strip()]


def _bare(value: str) -> str:
    scheme, _, rest = value.partition(" ")
    scheme = scheme.lower()
    if scheme == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode("utf-8", "replace").partition(":")[2]
        except ValueError:
            return ""
    return rest.strip() if scheme == "bearer" else value


def check_address(settings: ServeSettings, keys: Sequence[Key]) -> str:
    """Refuse to let everybody in from other machines (ConfigError); a warning where the settings ask for just that."""
    if is_loopback(settings.host):
        return ""
    if settings.keys == "never":
        return f"serve.keys is 'never': whoever reaches {settings.host} may ask, and teaches the model"
    if keys or settings.keys == "always":
        return ""
    raise ConfigError(
        f"serve.host is {settings.host}, which other machines reach, and there is no key",
        "logtune keys create NAME makes one; or keep serve.host at 127.0.0.1 behind what guards your model server",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; a name other than localhost counts as public."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
