"""The storage ports made from the bindings of the Workers runtime. Importable only in Pyodide.

KV answers cross into Python as one JSON text or one byte buffer, never as proxies key by key:
that is several times faster and leaves nothing for JavaScript's collector to wait for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import pyodide_js
from js import JSON, Object, Response
from pyodide.ffi import JsException, to_js

import pgwire.hyperdrive
from marketplace.basics import json_text
from marketplace.basics.logs import Logger, log_to_stdout
from marketplace.kv.acknowledged import expect_acknowledged
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import KV_LATENESS, Env, Settings, split_secrets
from marketplace.ports.errors import KvValueTooLarge, QueueError, RateLimitError, StorageError
from marketplace.ports.isolate import FallbackCache
from marketplace.ports.known_database import KnownDatabase
from marketplace.ports.kv import KV_LIST_LIMIT, KV_VALUE_LIMIT, KvListPage
from marketplace.ports.rate_limit import RateLimits
from marketplace.postgres.db import postgres_connector
from marketplace.skills.seed import load_seed
from marketplace.worker.kv_answers import kv_error, read_list_page, read_values

_MAX_BULK_BYTES: Final = 8 * 1024 * 1024
"""Of JSON text that one bulk get may copy into Python's heap, where it is held twice while it is
decoded. The platform allows 25 MiB of values; a hundred skills within their limits have 2 MiB."""

_MAX_MESSAGE_DEPTH: Final = json_text.MAX_DEPTH - 10
"""Of brackets: a message that cannot be published is kept within a record of its own."""


class MissingBinding(StorageError):
    """The configuration lacks a binding that this Worker cannot do without."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the binding {name} is missing from the configuration", reason="missing")


def env_from_bindings(bindings: Any, fallback_cache: FallbackCache) -> Env:
    """The Env of one invocation. Raises MissingBinding, logged: not every runtime tells of it.

    ``bindings`` is the runtime's env object, wrapped by the SDK or not.
    """
    raw = _unwrapped(bindings)
    return Env(
        submissions_kv=WorkersKv(_binding(raw, "SUBMISSIONS_KV")),
        database=_database(_binding(raw, "HYPERDRIVE"), fallback_cache.database),
        publish_queue=WorkersQueue(_binding(raw, "PUBLISH_QUEUE")),
        maintenance_queue=WorkersQueue(_binding(raw, "MAINTENANCE_QUEUE")),
        settings=_settings(raw),
        rate_limits=_rate_limits(raw),
        seed=load_seed(),
        heap_bytes=_heap_bytes,
        fallback_cache=fallback_cache,
        expect_database=expect_acknowledged,
    )


def _heap_bytes() -> int:
    """Bytes of the WebAssembly memory that Python lives in. It grows and never shrinks."""
    return int(pyodide_js._module.HEAPU8.byteLength)  # noqa: SLF001 - the only place that tells


def _unwrapped(value: Any) -> Any:
    """The JavaScript object behind the SDK's wrapper, which converts every result on its own."""
    for attribute in ("_env", "_binding"):
        value = value.__dict__.get(attribute, value) if hasattr(value, "__dict__") else value
    return value


def _binding(raw: Any, name: str) -> Any:
    value = getattr(raw, name, None)
    if value is None:
        missing = MissingBinding(name)
        log_to_stdout("binding-missing", level="error", binding=name, detail=str(missing))
        raise missing
    return value


def _settings(raw: Any) -> Settings:
    def text(name: str) -> str:
        return str(getattr(raw, name, None) or "")

    lateness = text("KV_LATENESS")
    return Settings(
        internal_keys=split_secrets(text("INTERNAL_KEY")),
        jwt_secrets=split_secrets(text("JWT_SECRET")),
        jwt_issuer=text("JWT_ISSUER") or None,
        jwt_audience=text("JWT_AUDIENCE") or None,
        forges=tuple(text("FORGES").lower().replace(",", " ").split()),
        kv_lateness=float(lateness) if lateness.isdecimal() else KV_LATENESS,
        queues_began_at=text("QUEUES_BEGAN_AT"),
    )


def _rate_limits(raw: Any) -> RateLimits:
    def limit(name: str) -> WorkersRateLimit | None:
        binding = getattr(raw, name, None)
        return None if binding is None else WorkersRateLimit(binding)

    return RateLimits(**{field.name: limit(field.name.upper()) for field in fields(RateLimits)})


def _database(hyperdrive: Any, known: KnownDatabase) -> DatabaseSession:
    # Hyperdrive gives each transaction another session, and refuses settings for a whole one.
    return DatabaseSession(
        postgres_connector(
            lambda: pgwire.hyperdrive.connect(hyperdrive, session_settings="transaction")
        ),
        known,
    )


class WorkersKv:
    """``ports.kv.KvNamespace`` over a KV binding. ``log`` hears of what cannot be used in it."""

    def __init__(self, namespace: Any, *, log: Logger = log_to_stdout) -> None:
        self._namespace = namespace
        self._log = log

    async def get(self, key: str, *, max_bytes: int = KV_VALUE_LIMIT) -> bytes | None:
        if max_bytes >= KV_VALUE_LIMIT:
            buffer = await _kv(self._namespace.get(key, "arrayBuffer"))
            return _bytes(buffer) if hasattr(buffer, "byteLength") else None
        stream = await _kv(self._namespace.get(key, "stream"))
        if not hasattr(stream, "getReader"):
            return None
        value: bytes = await _kv(_read_at_most(stream.getReader(), max_bytes, key))
        return value

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        buffer = await _kv(self._values(keys))
        if buffer.byteLength > _MAX_BULK_BYTES:
            raise KvValueTooLarge(f"a bulk get brought {buffer.byteLength} bytes")
        return read_values(_bytes(buffer), keys)

    async def _values(self, keys: Sequence[str]) -> Any:
        """An ArrayBuffer of JSON text: made outside of Python's heap, its size known before it
        is copied there."""
        found = await self._namespace.get(to_js(list(keys)), "text")
        return await Response.json(Object.fromEntries(found)).arrayBuffer()

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        metadata: str | None = None,
        expiration_ttl: int | None = None,
    ) -> None:
        options: dict[str, Any] = {}
        if metadata is not None:
            options["metadata"] = metadata
        if expiration_ttl is not None:
            options["expirationTtl"] = expiration_ttl
        await _kv(self._namespace.put(key, to_js(value), _js_object(options)))

    async def delete(self, key: str) -> None:
        await _kv(self._namespace.delete(key))

    async def list(
        self, *, prefix: str, cursor: str | None = None, limit: int = KV_LIST_LIMIT
    ) -> KvListPage:
        options: dict[str, Any] = {"prefix": prefix, "limit": limit}
        if cursor is not None:
            options["cursor"] = cursor
        result = await _kv(self._namespace.list(_js_object(options)))
        return read_list_page(JSON.stringify(result), self._log)


class WorkersQueue:
    """``ports.queue.MessageQueue`` over a queue's producer binding."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def send_batch(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        messages = [{"body": body, "contentType": "json"} for body in bodies]
        try:
            await self._queue.sendBatch(_js_object(messages))
        except JsException as error:
            raise QueueError(str(error)) from error


class WorkersRateLimit:
    """``ports.rate_limit.RateLimit`` over a rate limit binding."""

    def __init__(self, limit: Any) -> None:
        self._limit = limit

    async def take(self, key: str) -> bool:
        try:
            return bool((await self._limit.limit(_js_object({"key": key}))).success)
        except JsException as error:
            raise RateLimitError(str(error)) from error


class WorkersMessage:
    """``ports.queue.QueueMessage`` over a message of a batch."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self.id: str = message.id
        self.attempts = int(message.attempts)
        self.body = _decoded(message.body)

    def ack(self) -> None:
        self._message.ack()

    def retry(self, *, delay_seconds: int) -> None:
        self._message.retry(_js_object({"delaySeconds": delay_seconds}))


def messages_of(batch: Any) -> Sequence[WorkersMessage]:
    return [WorkersMessage(message) for message in _unwrapped(batch).messages]


def _decoded(body: Any) -> Any:
    """A message body as Python data; one that is no JSON becomes text, which names no submission.

    Never raises: one broken message must not take the whole batch with it.
    """
    try:
        text = JSON.stringify(body)
        if not isinstance(text, str):
            return str(body)
        if json_text.is_too_deep(text, _MAX_MESSAGE_DEPTH):
            return "unreadable: nested too deeply"
        return json_text.decode(text)
    except (JsException, json_text.InvalidData) as error:
        return f"unreadable: {str(error)[:100]}"


def _js_object(value: Any) -> Any:
    return to_js(value, dict_converter=Object.fromEntries)


def _bytes(buffer: Any) -> bytes:
    value: bytes = buffer.to_bytes()
    return value


async def _read_at_most(reader: Any, max_bytes: int, key: str) -> bytes:
    """What a stream brings. Raises KvValueTooLarge as soon as that is more, the rest unread."""
    value = bytearray()
    while not (chunk := await reader.read()).done:
        value += _bytes(chunk.value)
        if len(value) > max_bytes:
            await reader.cancel()
            raise KvValueTooLarge(f"{key} has more than the {max_bytes} bytes allowed")
    return bytes(value)


async def _kv(promise: Any) -> Any:
    try:
        return await promise
    except JsException as error:
        raise kv_error(str(error)) from error
