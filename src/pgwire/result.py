"""What a statement returned."""

from dataclasses import dataclass

from pgwire.errors import ProtocolViolation
from pgwire.exchange import RawResult


@dataclass(frozen=True, slots=True)
class Result:
    """Rows in PostgreSQL's text format, None for NULL.

    ``command_tag`` is PostgreSQL's, for example ``INSERT 0 1``; empty if the SQL held no
    statement.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str | None, ...]]
    command_tag: str

    @classmethod
    def decode(cls, raw: RawResult) -> "Result":
        """Decode the values; raises ProtocolViolation for text that is not UTF-8.

        The session's client_encoding is UTF8, so only an SQL_ASCII database can cause that.
        """
        try:
            rows = [
                tuple([None if value is None else value.decode() for value in row])
                for row in raw.rows
            ]
        except UnicodeDecodeError as error:
            raise ProtocolViolation("the server sent text that is not UTF-8") from error
        return cls(raw.columns, rows, raw.command_tag)

    @property
    def affected(self) -> int:
        """Rows inserted, updated, deleted, selected or moved; 0 for any other command."""
        _, _, count = self.command_tag.rpartition(" ")
        return int(count) if count.isascii() and count.isdigit() else 0

    def scalar(self) -> str | None:
        """The first column of the first row; None if it is NULL or there is none."""
        if not self.rows or not self.rows[0]:
            return None
        return self.rows[0][0]
