"""Cron clock, state lock, database address: the parts of the host that need no server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from local.errors import LocalError
from local.host.cron import CronClock
from local.host.run import require_password
from local.host.state import StateFolder, exclusive


def test_a_cron_expression_fires_once_when_due_and_once_after_a_sleep() -> None:
    start = datetime(2026, 1, 1, 12, 1, tzinfo=UTC)
    clock = CronClock(["*/5 * * * *", "17 3 * * *"], start)
    assert clock.due(start) == []
    five_past = start.replace(minute=5)
    assert clock.due(five_past) == [("*/5 * * * *", five_past)]
    assert clock.due(five_past) == []
    late = start + timedelta(hours=1)
    assert [expression for expression, _ in clock.due(late)] == ["*/5 * * * *"]
    assert clock.due(late) == []


def test_two_marketplaces_cannot_share_their_state(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    with exclusive(state), pytest.raises(LocalError, match="already running"), exclusive(state):
        pass
    with exclusive(state):
        pass


def test_a_database_url_without_a_password_gets_a_sentence() -> None:
    with pytest.raises(LocalError, match="DATABASE_URL has no password"):
        require_password("postgres://user@127.0.0.1:5432/marketplace")

    require_password("postgres://user:any@127.0.0.1:5432/marketplace")
