"""Where a command writes: answers to standard output, everything else to standard error."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from cli.errors import CliError
from cli.tables import plain

ShowProgress = Callable[[int, int | None], None]
"""Shows how much is done, and of how much (None: not known)."""


class Output:
    """Writes for people, or, with ``as_json``, one JSON document for machines."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json: Final = as_json
        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False)

    def lines(self, lines: Iterable[Text]) -> None:
        """Write a part of an answer for people line by line, whatever the terminal's width."""
        for line in () if self._as_json else lines:
            self._out.print(line, soft_wrap=True)

    def show(self, answer: object, view: RenderableType) -> None:
        """Write the answer for machines, or its view for people."""
        if self._as_json:
            _write_json(answer)
        else:
            self._out.print(view)

    def say(self, sentence: Text) -> None:
        """Write a sentence on one line, so that commands in it can be copied."""
        self._err.print(sentence, soft_wrap=True)

    def tell(self, error: CliError) -> None:
        """Say what went wrong, beside an answer that was shown."""
        self.say(Text("Error: ", "bold red").append_text(plain(str(error), "not bold")))

    def fail(self, error: CliError) -> None:
        """Say what went wrong, where there is no answer to show."""
        if self._as_json:
            _write_json({"error": str(error), "status": error.status})
        self.tell(error)

    @contextmanager
    def progress(self, title: str) -> Iterator[ShowProgress]:
        """A progress bar while the block runs; none when the output is for machines."""
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._err,
            transient=True,
            disable=self._as_json,
        ) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total, refresh=True)


def _write_json(answer: object) -> None:
    """One document, not wrapped to the terminal's width."""
    text = msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
    sys.stdout.write(text + "\n")
