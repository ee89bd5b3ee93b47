"""The index's original shape: one JSON list of summaries or whole records, perhaps damaged.

Its elements are read one at a time. Memory: the value itself and one element. An element may turn
out to be broken inside, which its own decoding tells.

Every write replaces it by a manifest. Once no marketplace has one any more, this file can go, with
the one call in ``manifest`` and the one in ``reading``.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from marketplace.basics import json_text
from marketplace.basics.json_text import CLOSING, MAX_DEPTH, OPENING, TOKEN
from marketplace.kv.index.blocks import Entry, entry_of
from marketplace.skills.skill import PublishedSummary
from marketplace.skills.stored import read_skill

# Of an element with brackets; a larger one is no record, and walking it would take seconds.
MAX_ELEMENT_BYTES: Final = 256 * 1024
_LIST = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")
_NAMED_LIST = re.compile(
    rb'(?:\xef\xbb\xbf)?\s*\{(?:(?!"format").)*?"(?:skills|items)"\s*:\s*\[', re.DOTALL
)
_NAMED_LIST_WITHIN: Final = 4096  # bytes from the start

MAX_UNREADABLE: Final = 10_000  # entries; with more it is no list of skills
ORIGINAL_SHAPE: Final = "original shape"
_ENTRIES_A_TURN: Final = 500


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


def array_start(value: bytes) -> int | None:
    """Where the list begins, in a value of the original shape or of one with a named list."""
    match = _LIST.match(value) or _NAMED_LIST.match(value[:_NAMED_LIST_WITHIN])
    return match.end() - 1 if match else None


async def read_original_shape(
    value: bytes, add: Callable[[Iterable[Entry]], None], note: Callable[[str], None]
) -> None:
    """Hand on the entries of a value that has this shape, and say what is wrong with it."""
    if array_start(value) is None:
        return
    entries = original_entries(value, note)
    while some := list(islice(entries, _ENTRIES_A_TURN)):
        add([entry_of(entry) for entry in some if entry is not None])
        await asyncio.sleep(0)  # long work without I/O: let a deadline pass


def original_entries(
    value: bytes, note: Callable[[str], None]
) -> Iterator[PublishedSummary | None]:
    """The summaries or whole records in a plain list, one at a time; None for an unreadable one,
    so that a list of nothing but those is long work like any other."""
    unreadable = 0
    try:
        for number, element in enumerate(iterate_array(value, array_start(value) or 0)):
            try:
                entry = _original_entry(element)
            except (ValueError, ArithmeticError, RecursionError) as error:
                note(f"entry {number}: {str(error)[:100]}")
                unreadable += 1
                entry = None
            if unreadable > MAX_UNREADABLE:
                note(f"damaged: more than {MAX_UNREADABLE} unreadable entries")
                return
            yield entry
    except BrokenArray as error:
        note(f"damaged: {error}")


def _original_entry(element: bytes) -> PublishedSummary:
    """An entry without its own revision: older than any record of the same version and time."""
    published = read_skill(json_text.decode(element)).published_summary()
    return PublishedSummary(published.summary, published.revision.rpartition("|")[0] + "|")
