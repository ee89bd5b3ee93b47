"""`python -m local run`: the whole marketplace until it is told to stop."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from local.errors import LocalError
from local.host.cron import CronClock, cron_expressions
from local.host.ports import LOOPBACK, is_free
from local.host.postgres import PostgresServer, state_home
from local.host.postgres_watch import PostgresWatch
from local.host.state import exclusive
from local.host.worker_stack import WorkerStack
from local.paths import DEV_VARS, DEV_VARS_EXAMPLE, WRANGLER_CONFIG
from local.setup.dev_vars import ensure_dev_vars, read_dev_vars
from local.setup.migrations import apply_migrations
from local.setup.prepare import prepare

if TYPE_CHECKING:
    from local.host.state import StateFolder
    from local.setup.steps import Progress

DEFAULT_PORT = 8787
TICK_SECONDS = 0.5
MISSED = timedelta(minutes=5)
"""What came due so shortly before a start is run then: the check, which asks again for verdicts
whose messages the last run has lost with its queues."""


def run_marketplace(progress: Progress, state: StateFolder, port: int) -> None:
    """Sets up and serves until a stop signal (StopRequested passes through).

    LocalError when something needs the user, or when a part ends by itself.
    """
    with ExitStack() as stack:
        stack.enter_context(exclusive(state))
        _require_free(port)
        prepare(progress)
        ensure_dev_vars(DEV_VARS_EXAMPLE, DEV_VARS)

        dsn = os.environ.get("DATABASE_URL")
        watch = None
        if dsn is None:
            server = PostgresServer(state_home(state))
            with progress.step("Starting PostgreSQL"):
                stack.callback(server.stop)
                server.start()
            watch = PostgresWatch(server, progress.say)
            dsn = server.dsn
            progress.say(f"Database: {dsn}")  # a given one is not shown: it has a password
        else:
            require_password(dsn)
        with progress.step("Applying migrations"):
            apply_migrations(dsn)

        worker = WorkerStack(
            dsn=dsn, secrets=read_dev_vars(DEV_VARS), persist_to=state.bindings, port=port
        )
        with progress.step("Starting the Worker"):
            stack.callback(worker.stop)
            worker.start()
            worker.wait_healthy()
        progress.say(f"Ready: {worker.url}  (Ctrl-C stops; the Worker's log follows)")
        _serve(worker, watch)


def require_password(dsn: str) -> None:
    """The local Hyperdrive refuses an address without a password, and does not say why."""
    if not urlsplit(dsn).password:
        raise LocalError(
            "DATABASE_URL has no password. Write postgres://user:password@host:port/database; "
            "any password does where the server asks for none."
        )


def _require_free(port: int) -> None:
    if not is_free(port):
        raise LocalError(
            f"port {port} on {LOOPBACK} is taken. Stop what listens there, "
            f"or choose another one: PORT={port + 1} make run"
        )


def _serve(worker: WorkerStack, watch: PostgresWatch | None) -> None:
    clock = CronClock(cron_expressions(WRANGLER_CONFIG), datetime.now(UTC) - MISSED)
    while (code := worker.exit_code()) is None:
        if watch is not None:
            watch.look()
        for expression, when in clock.due(datetime.now(UTC)):
            # In a thread: a long repair must not delay noticing that the Worker has ended.
            threading.Thread(target=_fire, args=(worker, expression, when), daemon=True).start()
        time.sleep(TICK_SECONDS)
    raise LocalError(f"the Workers runtime ended by itself (exit code {code}); see its log above")


def _fire(worker: WorkerStack, expression: str, when: datetime) -> None:
    try:
        outcome = worker.control.fire_scheduled(expression, int(when.timestamp() * 1000))
    except LocalError as error:
        print(f"cron {expression}: {error}")
    else:
        if outcome != "ok":
            print(f"cron {expression}: {outcome}")
