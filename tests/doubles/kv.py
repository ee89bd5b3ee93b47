"""Workers KV as it may behave at its worst, and in a friendly mode for unit tests.

``SimulatedKv()`` is friendly: no staleness, no faults, no waiting beyond one turn of the loop; it
runs on any event loop and can be used as the ``KvNamespace`` itself. ``kv.at(location, …)`` makes
the handle of one invocation, with staleness and faults as asked for.

What the platform promises is kept in both modes: its limits (breaking one is a
``SimulationError``, also kept in ``violations``), and that a value was current at some moment of
the last ``staleness`` seconds.
"""

import asyncio
import json
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NoReturn, TypeVar

from marketplace.ports.errors import KvError, KvRateLimited, KvValueTooLarge
from marketplace.ports.kv import (
    KV_BULK_GET_LIMIT,
    KV_LIST_LIMIT,
    KV_METADATA_LIMIT,
    KV_VALUE_LIMIT,
    KV_WRITE_INTERVAL,
    KvKey,
    KvListPage,
    KvNamespace,
)
from tests.doubles.chance import Chance
from tests.doubles.errors import SimulationError
from tests.doubles.network import IMMEDIATE, Fault, Network, call

T = TypeVar("T")

KV_KEY_LIMIT: Final = 512  # bytes
KV_OPERATIONS_LIMIT: Final = 1000  # an invocation
KV_MINIMUM_TTL: Final = 60  # seconds
KV_STALENESS: Final = 60.0  # seconds


class KvOperationKind(StrEnum):
    """What can be asked of KV."""

    GET = "get"
    GET_MANY = "get_many"
    PUT = "put"
    DELETE = "delete"
    LIST = "list"


_WRITES: Final = {KvOperationKind.PUT, KvOperationKind.DELETE}


@dataclass(frozen=True, slots=True)
class KvOperation:
    """One call, as a decision about faults sees it. ``key`` is the first key or the prefix."""

    kind: KvOperationKind
    key: str

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.kind in _WRITES


KvFaults = Callable[[KvOperation], Fault | None]
"""Decides about each operation in turn; None lets it pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvConduct:
    """How KV behaves towards one location. The defaults are friendly."""

    stale_reads: float = 0.0  # share of reads that may see an older state
    blind_to_own: float = 0.0  # share of those that may miss the location's own writes, too
    caches: bool = False  # a location shows what it read, also that there was nothing, for a while
    network: Network = IMMEDIATE


@dataclass(slots=True)
class _Version:
    """A state of a key from ``since`` on. ``value`` None: there is no such key."""

    since: float
    value: bytes | None
    metadata: Any = None
    expires_at: float | None = None
    location: str = ""


class SimulatedKv(KvNamespace):
    """The store behind all locations; also a friendly handle on itself, for unit tests."""

    def __init__(
        self,
        *,
        chance: Chance | None = None,
        page_limit: int = KV_LIST_LIMIT,
        rate_limited: bool = False,
        staleness: float = KV_STALENESS,
        operations_limit: int | None = None,
    ) -> None:
        """``page_limit`` below 1,000 forces paging. ``rate_limited`` refuses quick rewrites.

        ``operations_limit`` bounds the calls made on this object itself; handles made by ``at``
        have the platform's limit.
        """
        self.page_limit = page_limit
        self.rate_limited = rate_limited
        self.staleness = staleness
        self.faults: KvFaults | None = None  # for the calls made on this object itself
        self.operations: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()  # of a second write within a second, by key
        self.given_up = 0  # calls whose answer came after the caller had stopped waiting
        self.violations: list[SimulationError] = []
        self.on_write: Callable[[str, bytes | None, bytes | None], None] | None = None
        self._chance = chance or Chance(0)
        self._versions: dict[str, list[_Version]] = {}
        self._names: list[str] = []  # sorted; code point order is UTF-8 order
        self._last_write: dict[str, float] = {}
        self._cached: dict[tuple[str, str], tuple[float, _Version]] = {}  # by location and key
        self._self = KvHandle(
            self,
            location="local",
            faults=lambda operation: self.faults(operation) if self.faults else None,
            conduct=KvConduct(),
            operations_limit=operations_limit,
        )

    def at(
        self,
        location: str,
        faults: KvFaults | None = None,
        *,
        conduct: KvConduct | None = None,
        operations_limit: int | None = KV_OPERATIONS_LIMIT,
    ) -> "KvHandle":
        """The binding of one invocation, which runs in a location."""
        return KvHandle(
            self,
            location=location,
            faults=faults,
            conduct=conduct or KvConduct(),
            operations_limit=operations_limit,
        )

    # For tests: looks at the newest state and changes it, without rules, faults or counting

    def peek(self, key: str) -> bytes | None:
        """The newest value."""
        return self._current(key).value

    def peek_json(self, key: str) -> Any:
        """The newest value as decoded JSON, or None."""
        value = self.peek(key)
        return None if value is None else json.loads(value)

    def peek_metadata(self, key: str) -> Any:
        """The newest metadata."""
        return self._current(key).metadata

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that exist now."""
        return [name for name in self._names_with(prefix) if self.peek(name) is not None]

    def damage(self, key: str, value: bytes | None, *, metadata: Any = None) -> None:
        """Overwrite a key unseen by the code under test, or remove it (None)."""
        self._store(key, _Version(self.now(), value, metadata, location="damage"))

    def visible(self, key: str, *, margin: float = 0.0) -> list[bytes | None]:
        """Every value that some read may see now, or saw ``margin`` seconds ago: those current
        within the staleness window."""
        now = self.now()
        oldest = now - self.staleness - margin
        versions = self._versions.get(key, [])
        moments = [oldest, *(version.since for version in versions if version.since > oldest), now]
        return [self._at_moment(key, moment).value for moment in moments]

    def now(self) -> float:
        """The loop's time; outside of a loop the beginning of time."""
        loop = asyncio._get_running_loop()
        return 0.0 if loop is None else loop.time()

    # The store

    def _current(self, key: str) -> _Version:
        if asyncio._get_running_loop() is None:  # a test that looks when all is over
            return self._versions.get(key, [_NOTHING])[-1]
        return self._at_moment(key, self.now())

    def _at_moment(self, key: str, moment: float) -> _Version:
        for version in reversed(self._versions.get(key, ())):
            if version.since <= moment:
                if version.expires_at is not None and version.expires_at <= moment:
                    break
                return version
        return _NOTHING

    def _seen(self, key: str, location: str, conduct: KvConduct) -> _Version:
        """The state that a read at a location gets to see."""
        now = self.now()
        chance = self._chance
        versions = self._versions.get(key)
        if versions is None:
            return _NOTHING
        oldest = now - self.staleness
        if versions[-1].since <= oldest or not chance.happens(conduct.stale_reads):
            return self._at_moment(key, now)
        if not chance.happens(conduct.blind_to_own):
            own = [version.since for version in versions if version.location == location]
            oldest = max(own[-1], oldest) if own else oldest
        moments = [oldest, *(version.since for version in versions if version.since > oldest)]
        return self._at_moment(key, chance.pick(moments))

    def _read(self, key: str, location: str, conduct: KvConduct) -> bytes | None:
        """What a get at a location gets to see: what was read there last, if it caches that."""
        if not conduct.caches:
            return self._seen(key, location, conduct).value
        now, place = self.now(), (location, key)
        until, version = self._cached.get(place, (0.0, _NOTHING))
        if now >= until:
            version = self._at_moment(key, now)
            self._cached[place] = now + self._chance.between(0, self.staleness), version
        return version.value

    def _store(self, key: str, version: _Version) -> None:
        versions = self._versions.get(key)
        if versions is None:
            insort(self._names, key)
            self._versions[key] = [version]
            return
        oldest = version.since - self.staleness
        while len(versions) > 1 and versions[1].since <= oldest:
            versions.pop(0)
        versions.append(version)

    def _names_with(self, prefix: str, after: str | None = None) -> Sequence[str]:
        names = self._names
        start = bisect_left(names, prefix)
        if after is not None:
            start = max(start, bisect_right(names, after))
        # No key that starts with the prefix sorts after the prefix and the greatest character.
        return names[start : bisect_right(names, prefix + "\U0010ffff" * 2)]

    def _write(self, key: str, version: _Version) -> None:
        """What both kinds of write do in the store. Raises KvRateLimited."""
        now = version.since = self.now()
        if self.rate_limited:
            if now - self._last_write.get(key, -KV_WRITE_INTERVAL) < KV_WRITE_INTERVAL:
                self.refusals[key] += 1
                raise KvRateLimited(f"429: a second write to {key!r} within a second")
            self._last_write[key] = now
        if version.expires_at is not None:
            version.expires_at += now
        if self.on_write is not None:
            self.on_write(key, self.peek(key), version.value)
        self._store(key, version)
        self._cached.pop((version.location, key), None)

    def violation(self, message: str) -> NoReturn:
        """The code under test broke a rule of the platform."""
        error = SimulationError(message)
        self.violations.append(error)
        raise error

    # The friendly handle

    async def get(self, key: str, *, max_bytes: int = KV_VALUE_LIMIT) -> bytes | None:
        return await self._self.get(key, max_bytes=max_bytes)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        return await self._self.get_many(keys)

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        metadata: str | None = None,
        expiration_ttl: int | None = None,
    ) -> None:
        await self._self.put(key, value, metadata=metadata, expiration_ttl=expiration_ttl)

    async def delete(self, key: str) -> None:
        await self._self.delete(key)

    async def list(
        self, *, prefix: str, cursor: str | None = None, limit: int = KV_LIST_LIMIT
    ) -> KvListPage:
        return await self._self.list(prefix=prefix, cursor=cursor, limit=limit)


_NOTHING: Final = _Version(since=0.0, value=None)


class KvHandle(KvNamespace):
    """The binding as one invocation has it."""

    def __init__(
        self,
        kv: SimulatedKv,
        *,
        location: str,
        faults: KvFaults | None,
        conduct: KvConduct,
        operations_limit: int | None,
    ) -> None:
        self.location = location
        self.operations = 0
        self.listed: set[str] = set()  # keys that lists have told this invocation
        self._kv = kv
        self._faults = faults
        self._conduct = conduct
        self._operations_limit = operations_limit

    async def get(self, key: str, *, max_bytes: int = KV_VALUE_LIMIT) -> bytes | None:
        self._check_key(key)

        def read() -> bytes | None:
            return self._kv._read(key, self.location, self._conduct)

        value = await self._perform(KvOperation(KvOperationKind.GET, key), read)
        if value is not None and len(value) > max_bytes:
            raise KvValueTooLarge(f"{key!r} has {len(value)} bytes, allowed are {max_bytes}")
        return value

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        if not 1 <= len(keys) <= KV_BULK_GET_LIMIT:
            self._kv.violation(f"a bulk get of {len(keys)} keys")
        for key in keys:
            self._check_key(key)

        def read() -> dict[str, bytes | None]:
            return {key: self._kv._read(key, self.location, self._conduct) for key in keys}

        values = await self._perform(KvOperation(KvOperationKind.GET_MANY, keys[0]), read)
        total = sum(len(value) for value in values.values() if value is not None)
        if total > KV_VALUE_LIMIT:
            raise KvValueTooLarge(f"a bulk get of {total} bytes")
        return values

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        metadata: str | None = None,
        expiration_ttl: int | None = None,
    ) -> None:
        self._check_key(key)
        if len(value) > KV_VALUE_LIMIT:
            self._kv.violation(f"a value of {len(value)} bytes for {key!r}")
        try:
            value.decode()
        except UnicodeDecodeError:
            self._kv.violation(f"a value for {key!r} that is not UTF-8")
        if metadata is not None:
            size = len(json.dumps(metadata, ensure_ascii=False).encode())
            if size > KV_METADATA_LIMIT:
                self._kv.violation(f"metadata of {size} bytes for {key!r}")
        if expiration_ttl is not None and expiration_ttl < KV_MINIMUM_TTL:
            self._kv.violation(f"a time to live of {expiration_ttl} s for {key!r}")
        await self._perform(
            KvOperation(KvOperationKind.PUT, key),
            # `_write` fills in the moment, and makes the time to live a moment.
            lambda: self._kv._write(
                key, _Version(0.0, value, metadata, expiration_ttl, self.location)
            ),
        )

    async def delete(self, key: str) -> None:
        self._check_key(key)
        await self._perform(
            KvOperation(KvOperationKind.DELETE, key),
            lambda: self._kv._write(key, _Version(0.0, None, location=self.location)),
        )

    async def list(
        self, *, prefix: str, cursor: str | None = None, limit: int = KV_LIST_LIMIT
    ) -> KvListPage:
        if not 1 <= limit <= KV_LIST_LIMIT:
            self._kv.violation(f"a list page of {limit} keys")
        after = None if cursor is None else self._read_cursor(cursor, prefix)
        operation = KvOperation(KvOperationKind.LIST, prefix)
        page = await self._perform(
            operation,
            lambda: self._page(prefix, after, min(limit, self._kv.page_limit)),
            # As many cursors as there are empty pages: none is handed back as it was given.
            empty=lambda: KvListPage((), json.dumps([prefix, after, self.operations])),
        )
        self.listed.update(key.name for key in page.keys)
        return page

    def _page(self, prefix: str, after: str | None, limit: int) -> KvListPage:
        kv = self._kv
        keys: list[KvKey] = []
        for name in kv._names_with(prefix, after):
            version = kv._seen(name, self.location, self._conduct)
            if version.value is None:
                continue
            if len(keys) == limit:
                return KvListPage(keys, json.dumps([prefix, keys[-1].name]))
            keys.append(KvKey(name, version.metadata))
        return KvListPage(keys, None)

    def _read_cursor(self, cursor: str, prefix: str) -> str | None:
        try:
            cursor_prefix, after, *_ = json.loads(cursor)
        except ValueError:
            self._kv.violation(f"a cursor that KV never gave out: {cursor!r}")
        if cursor_prefix != prefix:
            self._kv.violation(f"a cursor for {cursor_prefix!r} used with {prefix!r}")
        return after if isinstance(after, str) else None

    def _check_key(self, key: str) -> None:
        if not key or key in {".", ".."} or len(key.encode()) > KV_KEY_LIMIT:
            self._kv.violation(f"a key that KV refuses: {key!r:.80}")

    async def _perform(
        self, operation: KvOperation, act: Callable[[], T], empty: Callable[[], T] | None = None
    ) -> T:
        """Count, decide about faults, and let the platform act."""
        self.operations += 1
        self._kv.operations[operation.kind] += 1
        if self._operations_limit is not None and self.operations > self._operations_limit:
            self._kv.violation(f"more than {self._operations_limit} KV operations")
        fault = self._faults(operation) if self._faults is not None else None
        if fault is Fault.EMPTY_PAGE:
            act, fault = empty or act, None
        try:
            return await call(
                act,
                fault=fault,
                error=lambda: KvError(f"{operation.kind} {operation.key!r} failed"),
                network=self._conduct.network,
                chance=self._kv._chance,
            )
        except asyncio.CancelledError:
            self._kv.given_up += 1
            raise
