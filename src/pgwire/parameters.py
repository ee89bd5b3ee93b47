"""Python values as PostgreSQL's text format.

The server infers the type of ``$1`` from where it stands, so the same ``int`` may fill an
``integer``, a ``bigint`` or a ``text``. Where the place does not say (``select $1``, overloaded
functions), cast in SQL: ``$1::bigint``.

=================  ======================================================================
Python             text sent
=================  ======================================================================
``None``           NULL
``bool``           ``true``, ``false``
``int``            decimal
``float``          shortest that reads back the same; also ``inf``, ``-inf``, ``nan``
``str``            as it is, UTF-8; PostgreSQL's text cannot hold NUL (SQLSTATE 22021)
``bytes``          for ``bytea``: ``\\x`` and hexadecimal digits
aware datetime     ISO 8601 with offset; a naive one names no instant and is refused
list, tuple        one-dimensional array literal of the above; ``None`` inside is NULL
=================  ======================================================================

JSON is a ``str``: the caller encodes it and the place (or ``$1::jsonb``) gives the type.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | bytes | datetime | None
Parameter: TypeAlias = Scalar | Sequence[Scalar]


def encode_parameter(value: Parameter) -> bytes | None:
    """The text format of one parameter; None is NULL.

    Raises TypeError for a type that the table above does not have, ValueError for a value that
    cannot be sent (naive datetime, lone surrogates).
    """
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return _array_literal(value).encode()
    # A Sequence that is neither is a mistake more often than an array (a range, a string-like
    # class), and _scalar_text refuses it.
    return _scalar_text(value).encode()


def _array_literal(items: Sequence[object]) -> str:
    """PostgreSQL's docs, "Array Value Input". Quoting every element needs no special cases."""
    return "{" + ",".join(map(_array_element, items)) + "}"


def _array_element(item: object) -> str:
    if item is None:
        return "NULL"
    escaped = _scalar_text(item).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _scalar_text(value: object) -> str:
    match value:
        case str():
            return value
        case bool():  # before int, which it is a subclass of
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return repr(float(value))
        case bytes():
            return "\\x" + value.hex()
        case datetime():
            return _instant_text(value)
        case _:
            raise TypeError(f"no PostgreSQL text format for {type(value).__name__}")


def _instant_text(value: datetime) -> str:
    if value.utcoffset() is None:
        raise ValueError("a datetime parameter needs a time zone")
    return value.isoformat()
