"""A PostgreSQL that a test session has to itself and that is gone afterwards."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from local.host.postgres import AuthMethod, PostgresServer

DEBIAN_VERSION: Final = 15
"""Of Debian 12, and older than what Hyperdrive connects to at most."""
DEBIAN_BINARIES: Final = Path(f"/usr/lib/postgresql/{DEBIAN_VERSION}/bin")


def why_not_debian() -> str | None:
    """Why no test can run on Debian's PostgreSQL; None: one can."""
    if (DEBIAN_BINARIES / "postgres").exists():
        return None
    others = sorted(folder.name for folder in Path("/usr/lib/postgresql").glob("*"))
    return (
        f"PostgreSQL {DEBIAN_VERSION} is missing (there is: {', '.join(others) or 'none'}). On "
        f"Debian 12: apt-get install postgresql-{DEBIAN_VERSION} (as root). Other releases of "
        "Debian have another version; this needs this one."
    )


@contextmanager
def throwaway_postgres(
    *,
    auth: AuthMethod = "trust",
    password: str = "local",  # noqa: S107 - any text: "trust" does not look at it
    binaries: Path | None = None,
) -> Iterator[PostgresServer]:
    """A running server with its own folder and port; parallel test runs do not share one."""
    # Not pytest's own folder, which only its owner may enter: as root, PostgreSQL is another user.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o711)
    server = PostgresServer(
        folder / "server",
        auth=auth,
        password=password,
        settings={"fsync": "off"},
        binaries=binaries,
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
