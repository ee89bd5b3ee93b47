"""One JSON line an event, where it is handled: the sentence, the fields, never a secret."""

import sys
from collections.abc import Callable
from typing import Any, Literal

import msgspec

Level = Literal["info", "warning", "error"]
Logger = Callable[..., None]


def log_to_stdout(event: str, *, level: Level = "info", **fields: Any) -> None:
    """Write ``{"level", "event", …fields}`` as one line; values that are no JSON become text."""
    line = msgspec.json.encode({"level": level, "event": event, **fields}, enc_hook=str)
    sys.stdout.write(line.decode() + "\n")
