"""The elements of a large JSON array, one at a time, from bytes that may be damaged.

Memory: the value itself and one element. Nothing is decoded here; an element may turn out to be
broken inside, which its own decoding tells.
"""

from collections.abc import Iterator
from typing import Final

from marketplace.json_text import CLOSING, MAX_DEPTH, OPENING, TOKEN

MAX_ELEMENT_BYTES: Final = 256 * 1024
"""Of an element with brackets; a larger one is no record, and walking it would take seconds."""


class BrokenArray(ValueError):
    """The array ends too early or its brackets do not match; elements before that are good."""


def iterate_array(value: bytes, start: int = 0) -> Iterator[bytes]:
    """Yield the elements of the array that begins at ``value[start]``, as JSON text.

    Raises BrokenArray where the array cannot be followed any further.
    """
    depth = 0
    begin = start + 1
    for token in TOKEN.finditer(value, start):
        text = token.group() if token.end() - token.start() == 1 else b""
        if text in OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                raise BrokenArray(f"more than {MAX_DEPTH} levels at byte {token.start()}")
        elif text == b'"':
            raise BrokenArray(f"a string without end at byte {token.start()}")
        elif text in CLOSING:
            depth -= 1
        elif depth > 1 and token.start() - begin > MAX_ELEMENT_BYTES:
            raise BrokenArray(f"an element of more than {MAX_ELEMENT_BYTES} bytes at byte {begin}")
        if (depth == 1 and text == b",") or depth == 0:
            element = value[begin : token.start()].strip()
            if element:
                yield element
            begin = token.end()
            if depth == 0:
                return
    raise BrokenArray(f"no end of the array within {len(value)} bytes")
