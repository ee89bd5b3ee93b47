"""Short progress lines while the set-up works."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterator


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
