"""Remembers which set-up steps are done, by the content of what they depend on."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Stamp:
    """One step's mark: up to date while its inputs are unchanged and its result is there.

    A step that is cut off leaves no mark, so that it is done again from the start.
    """

    def __init__(self, file: Path, inputs: list[Path], result: Path) -> None:
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
        """Does the step inside; the mark is taken away before and set only after it succeeded."""
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
