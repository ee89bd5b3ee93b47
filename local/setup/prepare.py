"""The whole set-up: what running and testing both need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local.setup.packages import ensure_packages
from local.setup.workerd import ensure_workerd_wrapper

if TYPE_CHECKING:
    from local.setup.steps import Progress


def prepare(progress: Progress) -> None:
    """Installs the packages and builds the runtime bundle from them; instant if both are there."""
    ensure_packages(progress)
    ensure_workerd_wrapper()
