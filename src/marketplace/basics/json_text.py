"""Decoding JSON of any origin, so that no text ends the isolate.

The runtime's stack holds two to three thousand nested brackets. Beyond that it does not raise
RecursionError, as CPython does: the isolate dies, and every request in it. So brackets are counted
before anything is decoded that came from outside.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, TypeVar, overload

import msgspec

MAX_DEPTH: Final = 500
"""Of brackets within brackets: a fourth of what the runtime survives, measured. KV's metadata has
room for as many, and no record is nearly as deep."""

TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}",]', re.DOTALL)
"""A whole string, a bracket or a comma; a lone quotation mark is a string without end."""

OPENING: Final = (b"[", b"{")
CLOSING: Final = (b"]", b"}")

T = TypeVar("T")

_decode = msgspec.json.Decoder(float_hook=float).decode
"""Reads 1e309 as infinity, so that one number hides no record."""


class InvalidData(ValueError):
    """Raised while decoding and encoding; a read answers with `Unreadable` instead."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What a read answers where there is data that cannot be read."""

    why: str

    def __str__(self) -> str:
        return self.why


@overload
def decode(value: bytes | str) -> Any: ...
@overload
def decode(value: bytes | str, kind: type[T]) -> T: ...
def decode(value: bytes | str, kind: Any = Any) -> Any:
    """Raises InvalidData, however the text is broken, and nothing else."""
    if is_too_deep(value):
        raise InvalidData(f"more than {MAX_DEPTH} levels of brackets")
    try:
        return _decode(value) if kind is Any else msgspec.json.decode(value, type=kind)
    except (ValueError, RecursionError) as error:
        raise InvalidData(str(error)[:200]) from error


def is_too_deep(value: bytes | str, limit: int = MAX_DEPTH) -> bool:
    """Whether more than ``limit`` brackets are open anywhere in a text, JSON or not."""
    text = value.encode(errors="surrogatepass") if isinstance(value, str) else value
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    depth = 0
    for token in TOKEN.finditer(text):
        if token.group() in OPENING:
            depth += 1
            if depth > limit:
                return True
        elif token.group() in CLOSING:
            depth -= 1
    return False
