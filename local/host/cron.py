"""Fires the Worker's cron triggers, which miniflare never does by itself."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from cronsim import CronSim

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


def cron_expressions(wrangler_config: Path) -> list[str]:
    """The `[triggers] crons` of wrangler.toml."""
    crons: list[str] = tomllib.loads(wrangler_config.read_text())["triggers"]["crons"]
    return crons


class CronClock:
    """Tells which cron expressions have become due. Times are UTC, as on the platform."""

    def __init__(self, expressions: list[str], now: datetime) -> None:
        self._next = {each: next(CronSim(each, now)) for each in expressions}

    def due(self, now: datetime) -> list[tuple[str, datetime]]:
        """(expression, time it was due) of each one that came due since the last call.

        After a sleep, an expression fires once, however often it was missed.
        """
        due = [(each, when) for each, when in self._next.items() if when <= now]
        for expression, _ in due:
            self._next[expression] = next(CronSim(expression, now))
        return due
