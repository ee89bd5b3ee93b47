"""The Worker of wrangler.toml running in workerd on this machine, with all of its bindings."""

from __future__ import annotations

import json
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import httpx

from local.errors import LocalError
from local.host.control import ControlClient
from local.host.processes import GuardedProcess, wait_until
from local.paths import NODE, PYTHON_MODULES, REPOSITORY, WRANGLER_CONFIG
from local.setup.packages import node_environment
from local.setup.workerd import ensure_workerd_wrapper

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST_SCRIPT = Path(__file__).with_name("miniflare.mjs")
READY_SECONDS = 60.0
HEALTH_PATH = "/api/v1/health"


@dataclass
class WorkerStack:
    """miniflare with the Worker, under a guardian.

    `secrets` are bound as the Worker's secrets. `persist_to` keeps KV and queues over restarts.
    `port` 0 takes a free one. `output` takes the Worker's log (this process's output if None).
    `config` is the wrangler.toml; its paths are relative to its folder. With `slow_kv` the calls to
    KV take as long as `ControlClient.slow_down` says.
    """

    dsn: str
    secrets: Mapping[str, str]
    persist_to: Path
    port: int = 0
    output: IO[bytes] | None = None
    config: Path = WRANGLER_CONFIG
    slow_kv: bool = False
    url: str = field(default="", init=False)
    """`http://127.0.0.1:{port}` once started."""

    _process: GuardedProcess | None = field(default=None, init=False)
    _control: ControlClient | None = field(default=None, init=False)

    @property
    def control(self) -> ControlClient:
        """The way into the bindings; LocalError before start."""
        if self._control is None:
            raise LocalError("the Worker is not running")
        return self._control

    def exit_code(self) -> int | None:
        """None while it runs or before it was started."""
        return None if self._process is None else self._process.exit_code()

    @property
    def guardian_pid(self) -> int:
        if self._process is None:
            raise LocalError("the Worker is not running")
        return self._process.guardian_pid

    def start(self) -> None:
        """Starts it and waits until it accepts requests; LocalError when it does not within 60 s.

        The first request still waits for Python to start (a second or two).
        """
        self.persist_to.mkdir(parents=True, exist_ok=True)
        _show_to_wrangler(self.persist_to)
        wrapper = ensure_workerd_wrapper()
        token = secrets.token_urlsafe(32)
        with tempfile.TemporaryDirectory() as folder:
            ready_file = Path(folder) / "ready.json"
            # Read in local/host/miniflare.mjs.
            host_config = {
                "wranglerConfig": str(self.config),
                "pythonModules": str(PYTHON_MODULES),
                "persistTo": str(self.persist_to),
                "port": self.port,
                "secrets": dict(self.secrets),
                "controlToken": token,
                "readyFile": str(ready_file),
                "slowKv": self.slow_kv,
            }
            env = {
                **node_environment(),
                "LOCAL_WORKER_HOST": json.dumps(host_config),
                "MINIFLARE_WORKERD_PATH": str(wrapper),
                "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_HYPERDRIVE": self.dsn,
                "WRANGLER_LOG": "warn",
                "WRANGLER_SEND_METRICS": "false",
            }
            process = GuardedProcess(
                [NODE, HOST_SCRIPT], env=env, cwd=REPOSITORY, output=self.output
            )
            self._process = process
            try:
                wait_until(
                    lambda: ready_file.exists() or process.exit_code() is not None,
                    READY_SECONDS,
                    "starting the Workers runtime",
                )
                ready = _read_ready(ready_file)
            except BaseException:
                self.stop()
                raise
        self.url = ready["url"]
        self._control = ControlClient(ready["control"], token)

    def wait_healthy(self, seconds: float = 60.0) -> None:
        """Waits until the Worker's Python answers; LocalError with its answer if it does not."""
        answer = "nothing"

        def healthy() -> bool:
            nonlocal answer
            if self.exit_code() is not None:
                raise LocalError("the Workers runtime ended while it started; see its log above")
            try:
                response = httpx.get(f"{self.url}{HEALTH_PATH}", timeout=seconds, trust_env=False)
            except httpx.TransportError as error:
                answer = repr(error)
                return False
            answer = f"{response.status_code} {response.text[:500]}"
            return response.is_success

        try:
            wait_until(healthy, seconds, "waiting for the Worker")
        except LocalError as error:
            raise LocalError(f"{error} (its last answer: {answer})") from error

    def stop(self) -> None:
        """Stops the runtime and waits for its end. May be called again."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.stop()
            self._process = None


def _show_to_wrangler(persist_to: Path) -> None:
    """`wrangler kv … --local --persist-to FOLDER` looks below FOLDER/v3: let it find the same."""
    link = persist_to / "v3"
    if not link.exists():
        link.symlink_to(".", target_is_directory=True)


def _read_ready(file: Path) -> dict[str, str]:
    if not file.exists():
        raise LocalError("the Workers runtime ended while it started; see its log above")
    ready: dict[str, str] = json.loads(file.read_text())
    return ready
