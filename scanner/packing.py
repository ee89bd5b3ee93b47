"""The archive of a skill: the same bytes for the same files, on every machine and Python.

A zip in which nothing is packed, written here byte by byte: what a library writes may change with
its version. Files are in the order of their paths' bytes, of one mode (0644) and one time.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping
from typing import Final

MAX_UPLOAD_BYTES: Final = 10 * 1024 * 1024  # that the marketplace keeps, and installers take

_VERSION: Final = 20  # of the format, that readers need: folders in paths
_MADE_BY: Final = 3 << 8 | _VERSION  # Unix, so that the mode counts
_UTF_8: Final = 1 << 11
_STORED: Final = 0
_TIME, _DATE = 0, 1 << 5 | 1  # midnight of 1 January 1980, the first that the format knows
_MODE: Final = 0o100644 << 16
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")


def sha256(content: bytes) -> str:
    """The digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def pack(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of files by path. They are within the scanner's limits, so that no size or
    number needs the format's 64-bit fields."""
    output = bytearray()
    directory = bytearray()
    for path in sorted(files, key=str.encode):
        content, name = files[path], path.encode()
        common = (
            *(_VERSION, _UTF_8, _STORED, _TIME, _DATE),
            *(zlib.crc32(content), len(content), len(content), len(name), 0),
        )
        directory += _CENTRAL.pack(b"PK\x01\x02", _MADE_BY, *common, 0, 0, 0, _MODE, len(output))
        directory += name
        output += _LOCAL.pack(b"PK\x03\x04", *common)
        output += name
        output += content
    end = _END.pack(b"PK\x05\x06", 0, 0, len(files), len(files), len(directory), len(output), 0)
    return bytes(output + directory + end)
