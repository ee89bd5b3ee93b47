"""The exit codes, and the errors that end a command with one."""

from typing import Final

EXIT_OK: Final = 0
EXIT_FINDING: Final = 1  # the answer came, and it is not a good one
EXIT_NO_ANSWER: Final = 2  # not reached, not authorised, or called wrongly; also typer's usage code
EXIT_INTERRUPTED: Final = 130


class CliError(Exception):
    """A sentence for the operator. Never holds a secret."""

    exit_code = EXIT_NO_ANSWER

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float = 0.0
    ) -> None:
        """``retry_after``: seconds that the marketplace asks to wait."""
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class UsageProblem(CliError):
    """Called with options that do not go together, or an input that cannot be read."""


class NoAnswer(CliError):
    """Not reached, too slow, failing (5xx), or not a marketplace at all."""


class AccessRefused(CliError):
    """The credential is wrong (401) or has too little power (403)."""


class RequestRefused(CliError):
    """The marketplace answered that this request is not acceptable (other 4xx)."""

    exit_code = EXIT_FINDING


class FeedRestarted(RequestRefused):
    """The feed of changes begins anew: what was followed is of another generation."""
