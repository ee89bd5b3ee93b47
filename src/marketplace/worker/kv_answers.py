"""What KV's binding answers, as JSON text, made into the port's types. Pure; ``bindings`` asks.

Anybody's bytes may be in KV, and one key must never hide the others. JSON text can escape half a
surrogate pair, which is no character: msgspec refuses a whole document for one of them. Such a
document is read again by the slower ``json``, which does not, and what is unusable in it is left
out for itself.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from marketplace.basics.logs import Logger
from marketplace.ports.errors import KvError, KvRateLimited, KvValueTooLarge
from marketplace.ports.kv import KvKey, KvListPage

_STATUS: Final = re.compile(r"failed: (\d{3})\b", re.ASCII)


class _ListedKey(msgspec.Struct):
    name: str
    metadata: Any = None


class _ListResult(msgspec.Struct):
    keys: list[_ListedKey]
    list_complete: bool
    cursor: str | None = None


_list_decoder = msgspec.json.Decoder(_ListResult)
_values_decoder = msgspec.json.Decoder(dict[str, str | None])


def read_list_page(text: object, log: Logger) -> KvListPage:
    """The page in the JSON text of a list result. Raises KvError for all that is none.

    Metadata that holds no proper text counts as absent, a name that is none as no key; each is
    logged.
    """
    try:
        page = _list_decoder.decode(_checked_text(text))
    except (ValueError, RecursionError):
        page = _salvage_page(text, log)
    keys = [KvKey(key.name, key.metadata) for key in page.keys]
    return KvListPage(keys, None if page.list_complete else page.cursor)


def read_values(text: object, keys: Sequence[str]) -> Mapping[str, bytes | None]:
    """The values of ``keys`` in the JSON text of an object from key to text or null.

    A value that is no proper text comes as bytes that are no UTF-8: its reader refuses and names
    it. Raises KvError when the object cannot be read at all.
    """
    try:
        values: Mapping[str, Any] = _values_decoder.decode(_checked_text(text))
    except (ValueError, RecursionError):
        values = _salvage(text)
    return {key: _encoded(values.get(key)) for key in keys}


def kv_error(message: str) -> KvError:
    """A failure that the binding reported, as the port's error: by the HTTP status in it."""
    status = _STATUS.search(message)
    if status is not None and status[1] == "429":
        return KvRateLimited(message)
    if status is not None and status[1] == "413":
        return KvValueTooLarge(message)
    return KvError(message)


def _checked_text(text: object) -> str | bytes:
    if not isinstance(text, str | bytes):
        raise KvError(f"KV answered {type(text).__name__}, no JSON", reason="malformed")
    return text


def _salvage(text: object) -> dict[str, Any]:
    try:
        document = json.loads(_checked_text(text))
    except (ValueError, RecursionError) as error:
        raise KvError(f"KV answered no JSON: {str(error)[:100]}", reason="malformed") from error
    if not isinstance(document, dict):
        raise KvError("KV answered no JSON object", reason="malformed")
    return document


def _salvage_page(text: object, log: Logger) -> _ListResult:
    document = _salvage(text)
    listed = document.get("keys")
    keys = [_salvage_key(key, log) for key in listed] if isinstance(listed, list) else []
    try:
        rest = {name: document.get(name) for name in ("list_complete", "cursor")}
        return msgspec.convert({**rest, "keys": [key for key in keys if key]}, _ListResult)
    except ValueError as error:
        raise KvError(f"KV answered no list: {str(error)[:100]}", reason="malformed") from error


def _salvage_key(key: Any, log: Logger) -> _ListedKey | None:
    name = key.get("name") if isinstance(key, dict) else None
    if not isinstance(name, str) or not _is_text(name):
        log("kv-key-unusable", level="warning", key=ascii(name)[:600])
        return None
    metadata = key.get("metadata")
    if not _is_text(metadata):
        log("kv-metadata-unusable", level="warning", key=name)
        return _ListedKey(name)
    return _ListedKey(name, metadata)


def _is_text(value: Any) -> bool:
    """Whether every string in a JSON value is made of whole characters."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _encoded(text: Any) -> bytes | None:
    return text.encode(errors="surrogatepass") if isinstance(text, str) else None
