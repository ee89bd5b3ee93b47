"""A PostgreSQL that a test session has to itself and that is gone afterwards."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.host.postgres import AuthMethod, PostgresServer


@contextmanager
def throwaway_postgres(
    *,
    auth: AuthMethod = "trust",
    password: str = "local",  # noqa: S107 - any text: "trust" does not look at it
) -> Iterator[PostgresServer]:
    """A running server with its own folder and port; parallel test runs do not share one."""
    # Not pytest's own folder, which only its owner may enter: as root, PostgreSQL is another user.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o711)
    server = PostgresServer(
        folder / "server", auth=auth, password=password, settings={"fsync": "off"}
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
