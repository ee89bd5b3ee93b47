"""Starting and stopping the programs that make up a local marketplace."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GUARDIAN = Path(__file__).with_name("guardian.py")
POLL_SECONDS = 0.03


class GuardedProcess:
    """A server under its guardian (guardian.py): it ends when this object's owner does."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_seconds: float = 10.0,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        output: IO[bytes] | None = None,
    ) -> None:
        """Starts `command`. `output` takes what it prints (this process's own output if None)."""
        self._grace_seconds = grace_seconds
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                GUARDIAN,
                f"--signal={stop_signal.name}",
                f"--grace={grace_seconds}",
                *([f"--user={user}"] if user else []),
                "--",
                *command,
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )

    @property
    def guardian_pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Waits for the end; subprocess.TimeoutExpired after `seconds`."""
        return self._process.wait(seconds)

    def stop(self) -> None:
        """Asks it to end and waits; kills it when its grace is over. May be called again."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(self._grace_seconds + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str, *, pause: float = POLL_SECONDS
) -> None:
    """Polls `condition` until it holds; LocalError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LocalError(f"{what} took longer than {seconds:.0f} seconds")
        time.sleep(pause)


class StopRequested(BaseException):
    """SIGINT, SIGTERM or SIGHUP came. Like KeyboardInterrupt, not an Exception."""


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Inside, the first stop signal raises StopRequested; later ones are ignored.

    Ignoring the later ones lets the clean-up run to its end.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def handle(number: int, _frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise StopRequested(signal.Signals(number).name)

    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
