"""What a call has changed, as the database keeps it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from marketplace.ports.principal import Role


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``id`` begins with the moment, so that its order is that of time. ``before`` and ``after``
    are anything that JSON can hold."""

    id: str
    at: str
    principal: str
    role: Role
    action: str
    target: str
    before: Any = None
    after: Any = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """What an entry must have; None: anything. ``since``: the moment or a later one."""

    principal: str | None = None
    action: str | None = None
    target: str | None = None
    since: str | None = None
