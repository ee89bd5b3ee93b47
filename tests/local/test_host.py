"""Cron clock, state lock, database address: the parts of the host that need no server."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from local.errors import LocalError
from local.host.cron import CronClock
from local.host.postgres_watch import PAUSES, STEADY_SECONDS, PostgresWatch
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


@dataclass(slots=True)
class MortalServer:
    """A PostgreSQL of a test's own time, which ends so many seconds after each start."""

    now: float = 0.0
    lives_for: float = 0.1
    ends_at: float = 0.0
    starts: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.now < self.ends_at

    def start(self) -> None:
        self.starts.append(self.now)
        self.ends_at = self.now + self.lives_for

    def stop(self) -> None:
        self.ends_at = self.now

    def log_tail(self) -> str:
        return "PANIC: no space left"

    def watch_for(self, seconds: float) -> None:
        """Let the watch look twice a second."""
        watch = PostgresWatch(self, self.said.append, clock=lambda: self.now)
        end = self.now + seconds
        while self.now < end:
            watch.look()
            self.now += 0.5


def test_a_postgres_that_ended_is_started_again_and_said_so_once() -> None:
    server = MortalServer(lives_for=10**6, ends_at=5)
    server.watch_for(100)
    assert server.starts == [5.0]
    assert server.said == ["PostgreSQL ended by itself; it is started again"]


def test_a_postgres_that_keeps_ending_is_started_after_growing_pauses_and_not_for_ever() -> None:
    server = MortalServer()
    with pytest.raises(LocalError, match=r"was started 5 times[^\n]*\nPANIC: no space left"):
        server.watch_for(10**4)
    waited = [later - earlier for earlier, later in pairwise([0.0, *server.starts])]
    assert waited == [pytest.approx(pause, abs=0.5) for pause in PAUSES]
    assert len(server.said) == len(PAUSES)
    assert server.said[-1].endswith("in 8 s")


def test_a_postgres_that_ends_now_and_then_is_always_started_again() -> None:
    server = MortalServer(lives_for=STEADY_SECONDS + 1)
    server.watch_for(20 * STEADY_SECONDS)
    assert len(server.starts) > 2 * len(PAUSES)
