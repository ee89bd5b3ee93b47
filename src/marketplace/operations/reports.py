"""What operations leave behind for the next one and for health: reports and states, by name.

A report is kept in PostgreSQL or, with that away, in KV; so what is read may be in either or in
both.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from marketplace.basics import json_text
from marketplace.kv import state as kv_state
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, StorageError

LAST_REPAIR: Final = "last-repair"
LAST_CHECK: Final = "last-check"

T = TypeVar("T")


async def save_report(env: Env, name: str, report: Mapping[str, Any]) -> None:
    """Never raises because of a source: a report that cannot be kept is in the log."""
    document = msgspec.json.encode({**report, "finishedAt": env.now()})
    try:
        try:
            await (await get_db(env)).save_state(name, document)
        except DatabaseError as error:
            env.log("state-kept-in-kv", level="warning", reason=error.reason, state=name)
            await kv_state.save_state(env, name, document)
    except StorageError as error:
        env.log("report-not-kept", level="error", reason=error.reason, report=name)


def read_state(env: Env, name: str, document: bytes | None, kind: type[T]) -> T | None:
    """A stored document; None where there is none, or one that cannot be read."""
    if document is None:
        return None
    try:
        return json_text.decode(document, kind)
    except json_text.InvalidData as error:  # of another version of this code, or damage
        env.log("state-malformed", level="error", state=name, reason=str(error))
        return None


async def load_place(env: Env, database: SkillDatabase, name: str, beginning: T) -> T:
    """Where a walk that takes several invocations goes on; else its beginning. Raises
    DatabaseError."""
    return read_state(env, name, await database.load_state(name), type(beginning)) or beginning


async def save_place(database: SkillDatabase, name: str, place: object, *, before: object) -> None:
    """Keep where a walk goes on, if that is not where it went on before. Raises DatabaseError."""
    if place != before:
        await database.save_state(name, msgspec.json.encode(place))


def newest_report(env: Env, name: str, documents: Iterable[bytes | None]) -> Any:
    """Of reports kept in two places the one that was saved last."""
    reports = [read_state(env, name, document, dict[str, Any]) for document in documents]
    kept = [report for report in reports if report is not None]
    return max(kept, key=lambda report: str(report.get("finishedAt")), default=None)
