"""Who changed what: one log line for each call, and an entry that operators can search.

PostgreSQL keeps the entries. With it away the log line is the record.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from marketplace.ports.audit import AuditEntry, AuditFilter
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError
from marketplace.ports.principal import Principal


def new_id(moment: str) -> str:
    """An id whose order is that of moments."""
    return f"{moment}-{secrets.token_hex(4)}"


async def record(
    env: Env,
    principal: Principal,
    action: str,
    target: str,
    *,
    before: Any = None,
    after: Any = None,
    reason: str | None = None,
) -> None:
    """Record what a call has changed. Never raises because of PostgreSQL: the call has succeeded.

    ``before`` and ``after`` are small documents, of anything that JSON can hold.
    """
    now = env.now()
    entry = AuditEntry(
        id=new_id(now),
        at=now,
        principal=principal.name,
        role=principal.role,
        action=action,
        target=target,
        before=before,
        after=after,
        reason=reason,
    )
    env.log(
        "audit",
        id=entry.id,
        principal=principal.name,
        role=principal.role,
        action=action,
        target=target,
        before=before,
        after=after,
        reason=reason,
    )
    try:
        await (await get_db(env)).add_audit_entry(entry)
    except DatabaseError as error:
        env.log("audit-not-kept", level=error.level, id=entry.id, reason=error.reason)


async def list_entries(
    env: Env, wanted: AuditFilter, *, before: str | None, limit: int
) -> Sequence[AuditEntry]:
    """Up to ``limit`` entries, the newest first, older than the one of the id ``before``.

    Raises DatabaseError.
    """
    return await (await get_db(env)).list_audit_entries(wanted, before=before, limit=limit)
