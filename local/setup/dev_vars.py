"""Local secrets: `.dev.vars`, in the form that wrangler reads."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from local.errors import LocalError

if TYPE_CHECKING:
    from pathlib import Path

PLACEHOLDER = "__RANDOM__"


def ensure_dev_vars(example: Path, target: Path) -> None:
    """Makes `target` from `example`, unless it exists: each placeholder becomes a random value."""
    if target.exists():
        return
    text = example.read_text()
    while PLACEHOLDER in text:
        text = text.replace(PLACEHOLDER, secrets.token_urlsafe(32), 1)
    aside = target.with_name(f"{target.name}.tmp")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    aside.replace(target)


def read_dev_vars(path: Path) -> dict[str, str]:
    """The variables of a file of NAME=value lines; quotes around a value are dropped."""
    variables = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, value = stripped.partition("=")
        if not separator:
            raise LocalError(f"{path}, line {number}: expected NAME=value")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        variables[name.strip()] = value
    return variables
