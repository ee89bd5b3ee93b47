"""The storage ports made from the bindings of the Workers runtime. Importable only in Pyodide.

KV answers cross into Python as one JSON text or one byte buffer, never as proxies key by key:
that is several times faster and leaves nothing for JavaScript's collector to wait for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyodide_js
from js import JSON, Object
from pyodide.ffi import JsException, to_js

import pgwire.hyperdrive
from marketplace.auth import split_secrets
from marketplace.db import postgres_connector
from marketplace.env import Env, Settings
from marketplace.logs import log_to_stdout
from marketplace.seed import load_seed
from marketplace.storage import (
    KV_LIST_LIMIT,
    KV_VALUE_LIMIT,
    DatabaseConnector,
    KvError,
    KvKey,
    KvListPage,
    KvRateLimited,
    KvValueTooLarge,
    QueueError,
    StorageError,
)


class MissingBinding(StorageError):
    """The configuration lacks a binding that this Worker cannot do without."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the binding {name} is missing from the configuration", reason="missing")


def env_from_bindings(bindings: Any) -> Env:
    """The Env of one invocation. Raises MissingBinding, logged: not every runtime tells of it.

    ``bindings`` is the runtime's env object, wrapped by the SDK or not.
    """
    raw = _unwrapped(bindings)
    return Env(
        submissions_kv=WorkersKv(_binding(raw, "SUBMISSIONS_KV")),
        connect_database=_database(_binding(raw, "HYPERDRIVE")),
        publish_queue=WorkersQueue(_binding(raw, "PUBLISH_QUEUE")),
        maintenance_queue=WorkersQueue(_binding(raw, "MAINTENANCE_QUEUE")),
        settings=_settings(raw),
        seed=load_seed(),
        heap_bytes=_heap_bytes,
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
        log_to_stdout(str(missing), level="error", binding=name)
        raise missing
    return value


def _settings(raw: Any) -> Settings:
    def text(name: str) -> str:
        return str(getattr(raw, name, None) or "")

    return Settings(
        internal_keys=split_secrets(text("INTERNAL_KEY")),
        jwt_secrets=split_secrets(text("JWT_SECRET")),
        jwt_issuer=text("JWT_ISSUER") or None,
        jwt_audience=text("JWT_AUDIENCE") or None,
    )


def _database(hyperdrive: Any) -> DatabaseConnector:
    return postgres_connector(lambda: pgwire.hyperdrive.connect(hyperdrive))


class _ListedKey(msgspec.Struct):
    name: str
    metadata: Any = None


class _ListResult(msgspec.Struct):
    keys: list[_ListedKey]
    list_complete: bool
    cursor: str | None = None


_list_decoder = msgspec.json.Decoder(_ListResult)
_values_decoder = msgspec.json.Decoder(dict[str, str | None])


class WorkersKv:
    """``storage.KvNamespace`` over a KV binding."""

    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace

    async def get(self, key: str, *, max_bytes: int = KV_VALUE_LIMIT) -> bytes | None:
        """See ``KvNamespace``."""
        buffer = await _kv(self._namespace.get(key, "arrayBuffer"))
        if not _is_value(buffer):
            return None
        if buffer.byteLength > max_bytes:
            raise KvValueTooLarge(f"{key} has {buffer.byteLength} bytes, {max_bytes} allowed")
        value: bytes = buffer.to_bytes()
        return value

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        """See ``KvNamespace``."""
        found = await _kv(self._namespace.get(to_js(list(keys)), "text"))
        values = _values_decoder.decode(JSON.stringify(Object.fromEntries(found)))
        return {key: _encoded(values.get(key)) for key in keys}

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        metadata: str | None = None,
        expiration_ttl: int | None = None,
    ) -> None:
        """See ``KvNamespace``."""
        options: dict[str, Any] = {}
        if metadata is not None:
            options["metadata"] = metadata
        if expiration_ttl is not None:
            options["expirationTtl"] = expiration_ttl
        await _kv(self._namespace.put(key, to_js(value), _js_object(options)))

    async def delete(self, key: str) -> None:
        """See ``KvNamespace``."""
        await _kv(self._namespace.delete(key))

    async def list(
        self, *, prefix: str, cursor: str | None = None, limit: int = KV_LIST_LIMIT
    ) -> KvListPage:
        """See ``KvNamespace``."""
        options: dict[str, Any] = {"prefix": prefix, "limit": limit}
        if cursor is not None:
            options["cursor"] = cursor
        result = await _kv(self._namespace.list(_js_object(options)))
        page = _list_decoder.decode(JSON.stringify(result))
        keys = [KvKey(key.name, key.metadata) for key in page.keys]
        return KvListPage(keys, None if page.list_complete else page.cursor)


class WorkersQueue:
    """``storage.MessageQueue`` over a queue's producer binding."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def send(self, body: Mapping[str, Any], *, delay_seconds: int = 0) -> None:
        """See ``MessageQueue``."""
        options = {"contentType": "json", "delaySeconds": delay_seconds}
        await _queued(self._queue.send(_js_object(body), _js_object(options)))

    async def send_batch(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        """See ``MessageQueue``."""
        messages = [{"body": body, "contentType": "json"} for body in bodies]
        await _queued(self._queue.sendBatch(_js_object(messages)))


class WorkersMessage:
    """``messages.QueueMessage`` over a message of a batch."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self.id: str = message.id
        self.attempts = int(message.attempts)
        self.body = _decoded(message.body)

    def ack(self) -> None:
        """See ``QueueMessage``."""
        self._message.ack()

    def retry(self, *, delay_seconds: int) -> None:
        """See ``QueueMessage``."""
        self._message.retry(_js_object({"delaySeconds": delay_seconds}))


def messages_of(batch: Any) -> Sequence[WorkersMessage]:
    """The messages of a queue batch, wrapped by the SDK or not."""
    return [WorkersMessage(message) for message in _unwrapped(batch).messages]


def _decoded(body: Any) -> Any:
    """A message body as Python data; a body that is no JSON becomes its text."""
    text = JSON.stringify(body)
    return msgspec.json.decode(text) if isinstance(text, str) else str(body)


def _js_object(value: Any) -> Any:
    return to_js(value, dict_converter=Object.fromEntries)


def _is_value(value: Any) -> bool:
    """JavaScript's null and undefined both mean that there is no value."""
    return value is not None and hasattr(value, "byteLength")


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


async def _kv(promise: Any) -> Any:
    try:
        return await promise
    except JsException as error:
        message = str(error)
        if "429" in message:
            raise KvRateLimited(message) from error
        if "413" in message:
            raise KvValueTooLarge(message) from error
        raise KvError(message) from error


async def _queued(promise: Any) -> None:
    try:
        await promise
    except JsException as error:
        raise QueueError(str(error)) from error
