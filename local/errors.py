"""The one error that the local tools show as a sentence instead of a traceback."""


class LocalError(Exception):
    """Something the user can act on: the message says what is wrong and what to do about it."""
