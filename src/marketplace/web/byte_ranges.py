"""The parts of content that a request asks for: ``Range`` and ``If-Range`` (RFC 9110)."""

import re
from typing import Final

from marketplace.ports.content import Span

_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)


class Unsatisfiable(Exception):
    """No byte of the content is in the range (416)."""


def wanted_span(range_: str | None, if_range: str | None, etag: str, size: int) -> Span | None:
    """The span that a request asks for; None for the whole. Raises Unsatisfiable.

    Several ranges, other units, and what is no range are ignored, as the RFC allows; so is a range
    of a state that is not this one.
    """
    asked = None if range_ is None else _RANGE.fullmatch(range_.strip())
    if asked is None or asked.groups() == ("", "") or if_range not in (None, etag):
        return None
    first, last = asked.groups()
    if not first:
        length = min(int(last), size)
        begin, end = size - length, size
    else:
        begin, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < begin:
            return None
    if begin >= end:
        raise Unsatisfiable
    return Span(begin, end - begin)
