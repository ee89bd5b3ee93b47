"""An asynchronous PostgreSQL client small enough for a Python Worker.

Layers, each knowing only those before it:

1. ``backend``, ``frontend``, ``parameters``, ``scram``: bytes to messages and back
2. ``startup``, ``exchange``: what follows what, as state machines
3. ``connection``: the machines joined to a transport, with deadlines
4. ``asyncio_stream``, ``hyperdrive``: the transports, each with its own ``connect``

The first two do no I/O. Nothing is imported from outside the standard library, but for ``js``
and ``pyodide`` in ``hyperdrive``, which is imported only inside workerd.
"""

from pgwire.connection import Connection, Transport
from pgwire.errors import ConnectionFailed, PostgresError, ProtocolViolation, QueryTimeout
from pgwire.exchange import Statement
from pgwire.options import ConnectOptions
from pgwire.parameters import Parameter
from pgwire.result import Result

__all__ = [
    "ConnectOptions",
    "Connection",
    "ConnectionFailed",
    "Parameter",
    "PostgresError",
    "ProtocolViolation",
    "QueryTimeout",
    "Result",
    "Statement",
    "Transport",
]
