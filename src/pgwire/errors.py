"""What can go wrong, as the caller sees it.

Two families, because the caller acts differently on each:

- ``PostgresError``: the server understood and refused. It has a SQLSTATE; unless it is
  fatal, the connection goes on.
- ``ConnectionFailed``: there is no usable session any more (or there never was one).

A misuse by the caller (a NUL in SQL text, two queries at once) is a ``ValueError``, a
``TypeError`` or a ``RuntimeError``, raised before a byte is sent.
"""

from collections.abc import Mapping

# Severities after which the server ends the session without ReadyForQuery.
_ENDING_SEVERITIES = frozenset({"FATAL", "PANIC"})


class PostgresError(Exception):
    """An ErrorResponse of the server.

    Attributes follow PostgreSQL's docs, "Error and Notice Message Fields":

    - ``sqlstate``: five characters, for example ``23505`` (unique_violation)
    - ``severity``: ``ERROR``, ``FATAL`` or ``PANIC``, never localized
    - ``message``, ``detail``: for people; ``detail`` may quote values of the row, so it is
      kept out of ``str(error)``, which ends up in logs
    - ``constraint``: the name of the violated constraint, or None
    """

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str,
        severity: str = "ERROR",
        detail: str | None = None,
        constraint: str | None = None,
    ) -> None:
        super().__init__(f"{message} (SQLSTATE {sqlstate})")
        self.message = message
        self.sqlstate = sqlstate
        self.severity = severity
        self.detail = detail
        self.constraint = constraint

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> "PostgresError":
        """Build the error from an ErrorResponse's fields, keyed by their one-letter codes."""
        return cls(
            fields.get("M", "the server gave no message"),
            sqlstate=fields.get("C", "XX000"),
            # V (since PostgreSQL 9.6) is S without localization.
            severity=fields.get("V", fields.get("S", "ERROR")),
            detail=fields.get("D"),
            constraint=fields.get("n"),
        )

    @property
    def is_fatal(self) -> bool:
        """Whether the server ended the session with this error."""
        return self.severity in _ENDING_SEVERITIES


class ConnectionFailed(Exception):
    """No session: it could not be opened, or it broke and must not be used again."""


class QueryTimeout(ConnectionFailed):
    """The client's deadline passed before the answer was complete.

    The connection is closed. The server may go on with the statement until its
    ``statement_timeout``.
    """


class ProtocolViolation(ConnectionFailed):
    """The server sent what the protocol does not allow here, or more than the limits allow."""
