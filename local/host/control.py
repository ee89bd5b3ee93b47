"""Looks into the bindings of a running local Worker: KV, queues, cron.

The host process (local/host/control_server.mjs) answers `POST` on a loopback port of its own with
`Authorization: Bearer {token}`; bodies and answers are JSON objects:

| path | body | answer |
|---|---|---|
| /kv/get | binding, key | value: str or null, metadata |
| /kv/put | binding, entries: [{key, value or base64, metadata?}] | written |
| /kv/delete | binding, keys: [str] | deleted |
| /kv/pace | milliseconds, hangsEvery: calls, 0 for never | the same |
| /kv/list | binding, prefix, cursor: str or null | keys: [{name, metadata?, expiration?}], cursor |
| /queue/send | binding, messages: [any JSON] | sent |
| /scheduled | cron, scheduledTime: milliseconds or null | outcome: "ok", "exception", … |

401 without the token, 404 for another path, 500 `{error}` when the operation failed.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import httpx

from local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TIMEOUT_SECONDS = 120.0
PUT_BATCH = 1_000
_JSON_TYPE = {"content-type": "application/json"}

KV_BINDING = "SUBMISSIONS_KV"
PUBLISH_QUEUE = "PUBLISH_QUEUE"
DEAD_LETTERS = "DEAD_LETTERS"
"""The publish queue's dead-letter queue, which the Worker itself does not send to."""


@dataclass(frozen=True)
class KvEntry:
    """A key with its value and metadata (any JSON value, None for none).

    The value is read as text; bytes are for writing what is not text.
    """

    key: str
    value: str | bytes
    metadata: Any = None

    def as_json(self) -> dict[str, Any]:
        """The entry as /kv/put takes it."""
        if isinstance(self.value, bytes):
            value = {"base64": base64.b64encode(self.value).decode()}
        else:
            value = {"value": self.value}
        return {"key": self.key, "metadata": self.metadata, **value}


class ControlClient:
    """Talks to one host process. Every method raises LocalError when the operation fails."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,  # a proxy of the machine has nothing to do with loopback
        )

    def close(self) -> None:
        self._http.close()

    def kv_get(self, key: str) -> KvEntry | None:
        """None if the key does not exist."""
        answer = self._post("/kv/get", binding=KV_BINDING, key=key)
        if answer["value"] is None:
            return None
        return KvEntry(key, answer["value"], answer["metadata"])

    def kv_put(self, entries: Iterable[KvEntry]) -> int:
        """Writes any number of entries, in bulk; returns how many."""
        written = 0
        left = iter(entries)
        while batch := [entry.as_json() for entry in islice(left, PUT_BATCH)]:
            written += self._post("/kv/put", binding=KV_BINDING, entries=batch)["written"]
        return written

    def kv_delete(self, keys: Sequence[str]) -> None:
        """Deletes the keys; those that do not exist are fine."""
        self._post("/kv/delete", binding=KV_BINDING, keys=list(keys))

    def kv_list(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every (key, metadata) with the prefix, in key order, batch by batch."""
        cursor: str | None = None
        while True:
            batch = self._post("/kv/list", binding=KV_BINDING, prefix=prefix, cursor=cursor)
            for key in batch["keys"]:
                yield key["name"], key.get("metadata")
            cursor = batch["cursor"]
            if cursor is None:
                return

    def slow_down(self, milliseconds: int, *, hangs_every: int = 0) -> None:
        """Let each of the Worker's calls to KV take so long, and each so-manieth never end; of a
        `WorkerStack` with `slow_kv`."""
        self._post("/kv/pace", milliseconds=milliseconds, hangsEvery=hangs_every)

    def kv_expiration(self, key: str, binding: str = KV_BINDING) -> int | None:
        """The second since 1970 at which a key expires; None if it does not, or is not there."""
        page = self._post("/kv/list", binding=binding, prefix=key, cursor=None)
        found = {entry["name"]: entry for entry in page["keys"]}
        expiration: int | None = found.get(key, {}).get("expiration")
        return expiration

    def send(self, *messages: Any, binding: str = PUBLISH_QUEUE) -> None:
        """Sends JSON messages to a queue, as the Worker's own producer would."""
        self._post("/queue/send", binding=binding, messages=messages)

    def fire_scheduled(self, cron: str, scheduled_time_ms: int | None = None) -> str:
        """Runs the scheduled handler to its end; returns its outcome, "ok" when it succeeded."""
        answer = self._post("/scheduled", cron=cron, scheduledTime=scheduled_time_ms)
        outcome: str = answer["outcome"]
        return outcome

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        try:
            # httpx would write Unicode as it is, and fail on the half characters that tests store.
            response = self._http.post(path, content=json.dumps(body), headers=_JSON_TYPE)
        except httpx.TransportError as error:
            raise LocalError(f"the local Worker host does not answer {path}: {error!r}") from error
        answer: dict[str, Any] = response.json()
        if response.status_code != httpx.codes.OK:
            raise LocalError(f"{path} failed: {answer.get('error')}")
        return answer
