"""How a skill was checked, and what a scan said of it."""

from enum import StrEnum


class CertTier(StrEnum):
    """How far a skill was checked."""

    SCANNED = "SCANNED"
    VERIFIED = "VERIFIED"
    CERTIFIED = "CERTIFIED"


class CertMethod(StrEnum):
    """By what means a skill was checked."""

    AUTOMATED_SCAN = "AUTOMATED_SCAN"
    HUMAN_REVIEW = "HUMAN_REVIEW"
    VENDOR_AUTO = "VENDOR_AUTO"


class Verdict(StrEnum):
    """What a scanner found."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    WITHDRAWN = "WITHDRAWN"  # by the owner: the folder is gone, or its text says so
    GONE = "GONE"  # the repository is not there any more
