"""Bootstrap, steps, local secrets: what sets up, as far as it installs nothing."""

import ast
from pathlib import Path

import pytest

from local import bootstrap
from local.errors import LocalError
from local.host.state import DEFAULT_STATE
from local.paths import DEV_VARS_EXAMPLE, REPOSITORY
from local.setup.dev_vars import PLACEHOLDER, ensure_dev_vars, read_dev_vars
from local.setup.steps import Stamp, run_step
from marketplace.ports.env import Settings, split_secrets
from marketplace.web.auth import describe_unusable_secrets


def test_an_interpreter_that_is_too_old_can_read_the_bootstrap() -> None:
    ast.parse(Path(bootstrap.__file__).read_text(), feature_version=(3, 6))


def test_clean_removes_what_git_ignores() -> None:
    lines = (REPOSITORY / ".gitignore").read_text().splitlines()
    ignored = {line.rstrip("/") for line in lines if not line.startswith("#")}
    assert ignored == {*bootstrap.MADE_BY_US, "__pycache__"}


def test_clean_asks_for_the_lock_that_a_run_holds() -> None:
    assert DEFAULT_STATE.lock_file == Path(bootstrap.RUN_LOCK)


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
    settings = Settings(
        internal_keys=split_secrets(variables["INTERNAL_KEY"]),
        jwt_secrets=(variables["JWT_SECRET"],),
    )
    assert describe_unusable_secrets(settings) == []
    assert not set(variables.values()) & set(read_dev_vars(second).values())
    assert first.stat().st_mode & 0o077 == 0
    ensure_dev_vars(DEV_VARS_EXAMPLE, first)
    assert read_dev_vars(first) == variables


def test_a_malformed_secrets_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "vars"
    path.write_text('# comment\nA="quoted"\nnonsense\n')
    with pytest.raises(LocalError, match="line 3"):
        read_dev_vars(path)


def test_a_failed_step_shows_what_the_program_said() -> None:
    with pytest.raises(LocalError, match=r"(?s)the step failed.*exit code 3.*because"):
        run_step(["sh", "-c", "echo because; exit 3"], what="the step")


def test_a_step_is_given_its_input() -> None:
    run_step(["sh", "-c", 'test "$(cat)" = sent'], what="the step", given="sent")
