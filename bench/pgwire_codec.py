"""How fast the codec is, without a server: ``python bench/pgwire_codec.py``.

Prints the median of several runs of: decoding rows (bytes to ``Result``), and encoding a query.
"""

import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "src")]

from pgwire import Result, Statement  # noqa: E402 - after the path
from pgwire.backend import MessageParser  # noqa: E402
from pgwire.exchange import PipelineExchange, encode_pipeline  # noqa: E402

_ROWS = 10_000
_QUERIES = 1_000
_RUNS = 15
_CHUNK_BYTES = 64 * 1024

_COLUMNS = (b"id", b"name", b"note", b"tags")
_ROW = (b"12345", b"some-skill-name", None, b'{"a","b"}')


def _message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack(">i", len(body) + 4) + body


def _value(value: bytes | None) -> bytes:
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


_TEXT_COLUMN = struct.pack(">ihihih", 0, 0, 25, -1, -1, 0)
_COUNT = struct.pack(">h", len(_COLUMNS))
_STREAM = (
    _message(b"1")  # ParseComplete
    + _message(b"2")  # BindComplete
    + _message(b"T", _COUNT + b"".join(name + b"\0" + _TEXT_COLUMN for name in _COLUMNS))
    + _message(b"D", _COUNT + b"".join(map(_value, _ROW))) * _ROWS
    + _message(b"C", b"SELECT %d\0" % _ROWS)
    + _message(b"Z", b"I")  # ReadyForQuery
)


def _decode_rows() -> None:
    parser = MessageParser(1 << 20)
    exchange = PipelineExchange(1, max_result_bytes=1 << 30)
    for start in range(0, len(_STREAM), _CHUNK_BYTES):
        parser.receive_data(_STREAM[start : start + _CHUNK_BYTES])
        while (message := parser.next_message()) is not None:
            exchange.handle(message)
    (raw,) = exchange.results()
    Result.decode(raw)


def _encode_queries() -> None:
    statement = Statement("SELECT $1::text, $2::int, $3::text[]", ["name", 1, ["a", "b"]])
    for _ in range(_QUERIES):
        encode_pipeline([statement])


def _median_seconds(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    for label, work, count in (
        ("decode a row of 4 columns", _decode_rows, _ROWS),
        ("encode a query of 3 parameters", _encode_queries, _QUERIES),
    ):
        print(f"{label}: {_median_seconds(work) / count * 1e6:.2f} us")


if __name__ == "__main__":
    main()
