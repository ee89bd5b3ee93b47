"""One marketplace at a time on one state folder."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local.paths import StateFolder


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
