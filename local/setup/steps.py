"""The steps of a set-up: shown while they run, run to their end, and remembered when done."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console

from local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class Progress:
    """One line per step with its duration; a spinner meanwhile on a terminal."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"… {title}")
        with self.console.status(title):
            yield
        seconds = time.monotonic() - started
        self.console.print(f"[green]✓[/green] {title} [dim]({seconds:.1f} s)[/dim]")

    def say(self, sentence: str) -> None:
        self.console.print(sentence)


class Stamp:
    """The mark of a step that is done: valid while its inputs are unchanged and its result exists.

    A step that is cut off leaves no mark, so it is done again from the start.
    """

    def __init__(self, file: Path, inputs: Sequence[Path], result: Path) -> None:
        self._file = file
        self._inputs = inputs
        self._result = result

    def up_to_date(self) -> bool:
        return (
            self._result.exists()
            and self._file.is_file()
            and self._file.read_text() == self._fingerprint()
        )

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Does the step inside: the mark is removed before, and set only after it succeeded."""
        self._file.unlink(missing_ok=True)
        fingerprint = self._fingerprint()
        yield
        self._file.parent.mkdir(parents=True, exist_ok=True)
        aside = self._file.with_suffix(".tmp")
        aside.write_text(fingerprint)
        aside.replace(self._file)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self._inputs:
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()


def run_step(
    command: Sequence[str | Path],
    *,
    what: str,
    given: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
) -> None:
    """Runs a program to its end, with `given` as its input; LocalError with its output if it fails.

    It has a process group of its own, which is killed when this process is interrupted, so that an
    interrupted set-up leaves nothing running.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=None if env is None else dict(env),
        cwd=cwd,
        text=True,
        errors="replace",
        start_new_session=True,
        user=user,
        extra_groups=None if user is None else [],
    )
    try:
        output, _ = process.communicate(given)
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode != 0:
        raise LocalError(f"{what} failed (exit code {process.returncode}):\n{output.strip()}")
