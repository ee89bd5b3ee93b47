"""A real PgBouncer in transaction mode: the nearest thing to Hyperdrive that runs here."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from local.errors import LocalError
from local.host.ports import LOOPBACK, free_port
from local.host.postgres import DATABASE, UNPRIVILEGED_USER, USER, PostgresServer
from local.host.processes import GuardedProcess, wait_until
from pgwire import ConnectionFailed, ConnectOptions, PostgresError, asyncio_stream

# Debian keeps it where only root's PATH leads.
PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

_START_SECONDS: Final = 10.0
# As strict as it gets: no start-up parameter is ignored, and nothing that a session keeps is left
# for the next transaction. One test holds three transactions open at once, hence the pool's size.
_CONFIGURATION: Final = """\
[databases]
* = host={host} port={server_port}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 3
max_client_conn = 400
server_reset_query = DISCARD ALL
server_reset_query_always = 1
"""


@contextmanager
def pooler_before(server: PostgresServer) -> Iterator[int]:
    """A running PgBouncer for all databases of the server; its port."""
    if PROGRAM is None:
        raise LocalError("PgBouncer is missing")
    # As for PostgreSQL: as root it runs as another user, and that user has to reach the folder.
    folder = Path(tempfile.mkdtemp(prefix="pooler-"))
    folder.chmod(0o711)
    port = free_port()
    users = folder / "users.txt"
    users.write_text(f'"{USER}" ""\n')
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        _CONFIGURATION.format(host=LOOPBACK, server_port=server.port, port=port, users=users)
    )
    for file in (users, configuration):
        file.chmod(0o644)
    log_file = folder / "pgbouncer.log"
    try:
        with log_file.open("ab") as log:
            process = GuardedProcess(
                [PROGRAM, configuration],
                user=UNPRIVILEGED_USER if os.geteuid() == 0 else None,
                cwd=folder,
                output=log,
            )
        try:
            wait_until(
                lambda: process.exit_code() is not None or _refuses_settings(port),
                _START_SECONDS,
                "starting PgBouncer",
            )
            if process.exit_code() is not None:
                raise LocalError(f"PgBouncer did not start:\n{log_file.read_text()}")
            yield port
        finally:
            process.stop()
    finally:
        shutil.rmtree(folder)


def _refuses_settings(port: int) -> bool:
    """Whether it runs. It is an error if it takes a session's settings: it would prove nothing."""
    options = ConnectOptions(host=LOOPBACK, port=port, user=USER, database=DATABASE)

    async def connect() -> None:
        (await asyncio_stream.connect(options)).close()

    try:
        asyncio.run(connect())
    except ConnectionFailed:
        return False
    except PostgresError as error:
        if "unsupported startup parameter" in error.message:
            return True
        raise
    raise LocalError("PgBouncer takes the settings of a session, and should refuse them")
