"""How to reach the server and how long, and how much, to wait for."""

from dataclasses import dataclass, field
from typing import Literal

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Where to connect, as whom, and the limits of the session.

    There is no TLS here: Hyperdrive terminates it on the way to the database, and tests and
    tools speak to a local server. Do not use the asyncio transport across a network.
    """

    host: str
    """Name or address; for the asyncio transport, a path (``/…``) is a Unix socket's folder."""
    port: int = 5432
    user: str
    password: str = field(default="", repr=False)
    """Empty means none: a server that asks for one is then refused."""
    database: str

    connect_timeout: float = 3.0
    """Seconds for the socket, authentication and start-up together."""
    query_timeout: float = 5.0
    """Seconds for one ``query`` or ``pipeline``, unless the call says otherwise."""
    statement_timeout_ms: int = 5000
    """Milliseconds after which the server cancels a statement; 0 is no limit.

    This, not the client's deadline, is what ends a statement whose request was cancelled.
    """
    idle_in_transaction_timeout_ms: int = 10_000
    """Milliseconds after which the server ends a session idle in an open transaction."""
    application_name: str = "pgwire"
    """What ``pg_stat_activity`` shows."""
    max_message_bytes: int = 16 * _MIB
    """Bytes of the largest message accepted from the server, so also of the largest row."""
    max_result_bytes: int = 64 * _MIB
    """Bytes of all rows together that one ``query`` or ``pipeline`` may bring."""

    session_settings: Literal["startup", "transaction"] = "startup"
    """When the server is told the two timeouts and the time zone.

    - ``startup``: as parameters of the StartupMessage. Costs nothing and holds for the session.
    - ``transaction``: by ``set_config(…, is_local => true)``, pipelined in front of the first
      statement of every transaction. For poolers that refuse such parameters ("unsupported
      startup parameter") or that give each transaction another session. Costs no round trip,
      but statements that cannot run inside a transaction block (``VACUUM``) do not work.
    """

    def startup_parameters(self) -> dict[str, str]:
        """The StartupMessage's parameters, in the order they are sent."""
        parameters = {
            "user": self.user,
            "database": self.database,
            "application_name": self.application_name,
            "client_encoding": "UTF8",
        }
        if self.session_settings == "startup":
            parameters |= self.settings()
        return parameters

    def settings(self) -> dict[str, str]:
        """The server settings that this session depends on, by name."""
        return {
            "statement_timeout": str(self.statement_timeout_ms),
            "idle_in_transaction_session_timeout": str(self.idle_in_transaction_timeout_ms),
            "TimeZone": "UTC",
        }
