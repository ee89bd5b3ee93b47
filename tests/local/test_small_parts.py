"""Stamps, local secrets, cron clock: the parts of local/ that need no server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from local.errors import LocalError
from local.host.cron import CronClock
from local.host.processes import run_step
from local.host.run import require_password
from local.host.state_lock import exclusive
from local.paths import DEV_VARS_EXAMPLE, StateFolder
from local.setup.dev_vars import PLACEHOLDER, ensure_dev_vars, read_dev_vars
from local.setup.stamps import Stamp


def _stamp(folder: Path) -> Stamp:
    (folder / "lock").write_text("one")
    (folder / "result").mkdir()
    return Stamp(folder / "stamp", [folder / "lock"], folder / "result")


def test_a_step_is_up_to_date_after_it_succeeded(tmp_path: Path) -> None:
    stamp = _stamp(tmp_path)
    assert not stamp.up_to_date()
    with stamp.renewed():
        pass
    assert stamp.up_to_date()


def test_a_step_that_was_cut_off_is_not_trusted(tmp_path: Path) -> None:
    stamp = _stamp(tmp_path)
    with stamp.renewed():
        pass
    with pytest.raises(KeyboardInterrupt), stamp.renewed():
        raise KeyboardInterrupt
    assert not stamp.up_to_date()


def test_a_changed_lock_file_or_a_lost_result_needs_the_step_again(tmp_path: Path) -> None:
    stamp = _stamp(tmp_path)
    with stamp.renewed():
        pass
    (tmp_path / "lock").write_text("two")
    assert not stamp.up_to_date()
    (tmp_path / "lock").write_text("one")
    assert stamp.up_to_date()
    (tmp_path / "result").rmdir()
    assert not stamp.up_to_date()


def test_local_secrets_are_random_private_and_kept(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    ensure_dev_vars(DEV_VARS_EXAMPLE, first)
    ensure_dev_vars(DEV_VARS_EXAMPLE, second)
    variables = read_dev_vars(first)
    assert set(variables) == {"INTERNAL_KEY", "JWT_SECRET"}
    assert all(len(value) >= 32 and PLACEHOLDER not in value for value in variables.values())
    assert not set(variables.values()) & set(read_dev_vars(second).values())
    assert first.stat().st_mode & 0o077 == 0
    ensure_dev_vars(DEV_VARS_EXAMPLE, first)
    assert read_dev_vars(first) == variables


def test_a_malformed_secrets_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "vars"
    path.write_text('# comment\nA="quoted"\nnonsense\n')
    with pytest.raises(LocalError, match="line 3"):
        read_dev_vars(path)


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


def test_a_failed_step_shows_what_the_program_said() -> None:
    with pytest.raises(LocalError, match=r"(?s)the step failed.*exit code 3.*because"):
        run_step(["sh", "-c", "echo because; exit 3"], what="the step")


def test_a_database_url_without_a_password_gets_a_sentence() -> None:
    with pytest.raises(LocalError, match="DATABASE_URL has no password"):
        require_password("postgres://user@127.0.0.1:5432/marketplace")

    require_password("postgres://user:any@127.0.0.1:5432/marketplace")
