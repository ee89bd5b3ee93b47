"""What operations leave behind for the next one and for health: reports and states, by name.

Kept in PostgreSQL or, with that away, in KV; so what is read may be in either or in both.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from marketplace.basics import json_text
from marketplace.kv import state as kv_state
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError, StorageError

LAST_REPAIR: Final = "last-repair"
LAST_CHECK: Final = "last-check"

T = TypeVar("T")


async def save_report(env: Env, name: str, report: Mapping[str, Any]) -> None:
    """Keep a report where health reads it: PostgreSQL or, with that away, KV. Never raises
    because of a source: a report that cannot be kept is in the log."""
    document = msgspec.json.encode({**report, "finishedAt": env.now()})
    try:
        await save_state(env, name, document)
    except StorageError as error:
        env.log("report-not-kept", level="error", reason=error.reason, report=name)


async def save_state(env: Env, name: str, document: bytes) -> None:
    """Keep a document in PostgreSQL or, with that away, in KV. Raises KvError."""
    try:
        database = await get_db(env)
        await database.save_state(name, document)
    except DatabaseError as error:
        env.log("state-kept-in-kv", level="warning", reason=error.reason, state=name)
        await kv_state.save_state(env, name, document)


async def load_states(env: Env, name: str, kind: type[T]) -> list[T]:
    """What PostgreSQL and KV keep under a name; what cannot be read of it is logged and left out.

    Raises KvError when neither can be asked.
    """
    states = []
    for document in await _load_documents(env, name):
        try:
            states.append(json_text.decode(document, kind))
        except json_text.InvalidData as error:  # of another version of this code, or damage
            env.log("state-malformed", level="error", state=name, reason=str(error))
    return states


async def _load_documents(env: Env, name: str) -> list[bytes]:
    documents = []
    away: DatabaseError | None = None
    try:
        database = await get_db(env)
        documents.append(await database.load_state(name))
    except DatabaseError as error:
        away = error
        env.log("state-read-from-kv", level="warning", reason=error.reason, state=name)
    try:
        documents.append(await kv_state.load_state(env, name))
    except KvError as error:
        if away is not None:
            raise
        env.log("state-read-from-postgres", level="warning", reason=error.reason, state=name)
    return [document for document in documents if document]


def newest_report(*documents: bytes | None) -> Any:
    """Of reports kept in two places the one that was saved last; unreadable ones are left out."""
    reports = []
    for document in documents:
        try:
            report = json_text.decode(document) if document else None
        except json_text.InvalidData:
            continue  # a damaged report must not hide the other
        if isinstance(report, dict):
            reports.append(report)
    return max(reports, key=lambda report: str(report.get("finishedAt")), default=None)
