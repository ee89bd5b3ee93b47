"""The folder that holds one marketplace's data, and the lock that keeps it to one process."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local.errors import LocalError
from local.paths import LOCAL_DIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class StateFolder:
    """The folder of one running marketplace; tests make a temporary one each."""

    root: Path

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def bindings(self) -> Path:
        """KV entries, queues and cache, kept by miniflare."""
        return self.root / "bindings"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"


DEFAULT_STATE = StateFolder(LOCAL_DIR / "state")


@contextmanager
def exclusive(state: StateFolder) -> Iterator[None]:
    """Holds the state folder's lock; LocalError at once if another process has it.

    The system releases it when the process ends, however it ends: there are no stale locks.
    """
    state.root.mkdir(parents=True, exist_ok=True)
    with state.lock_file.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(
                f"another marketplace is already running on {state.root}. "
                "Use that one, or stop it first (Ctrl-C in its terminal)."
            ) from None
        yield
