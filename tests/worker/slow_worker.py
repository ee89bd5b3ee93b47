"""The real Worker with many skills in a KV whose calls take long, and with no PostgreSQL."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from local.host.control import KvEntry
from local.host.ports import LOOPBACK, free_port
from local.host.worker_stack import WorkerStack
from marketplace.kv.keys import INDEX_KEY
from tests.doubles.marketplace import Market, run
from tests.unit.catalog.slow_kv import (
    QUESTIONS,
    Asked,
    Postgres,
    SlowMarket,
    fill,
    judge,
)
from tests.worker.marketplace import INTERNAL_KEY, JWT_SECRET

START_SECONDS = 30.0


@dataclass(slots=True)
class NoDatabase:
    """A port at which nobody listens, or somebody who never says a word."""

    port: int = field(default_factory=free_port)
    _silent: socket.socket | None = None

    def be(self, postgres: Postgres) -> None:
        if self._silent is not None:
            self._silent.close()
            self._silent = None
        if postgres is Postgres.HANGS:
            self._silent = socket.create_server((LOOPBACK, self.port), backlog=512)


@dataclass(slots=True)
class SlowWorker:
    worker: WorkerStack
    database: NoDatabase
    market: SlowMarket

    def lose_index(self) -> None:
        self.worker.control.kv_delete([INDEX_KEY])

    def ask(self, name: str) -> Asked:
        question = QUESTIONS[name]
        began = time.perf_counter()
        response = httpx.request(
            "GET" if question.body is None else "POST",
            f"{self.worker.url}{question.path}",
            json=question.body,
            headers={"X-Internal-Key": INTERNAL_KEY},
            timeout=START_SECONDS,
            trust_env=False,
        )
        return Asked(response, time.perf_counter() - began, 0)

    def ask_everything(self, *, slack: float) -> dict[str, Asked]:
        """The answers, each judged; ``slack`` seconds are for what is no call."""
        answers = {name: self.ask(name) for name in QUESTIONS}
        for name, asked in answers.items():
            judge(name, asked, self.market.whole, slack=slack)
        return answers


@contextmanager
def slow_worker(folder: Path, *, part: int) -> Iterator[SlowWorker]:
    """One of ``part`` of 110,000 skills in KV, with the index."""

    async def filled(market: Market) -> SlowMarket:
        return await fill(market, part=part, index=True)

    market = run(filled)
    kv, database = market.market.kv, NoDatabase()
    with (folder / "worker.log").open("ab") as log, ExitStack() as stack:
        worker = WorkerStack(
            dsn=f"postgres://nobody:none@{LOOPBACK}:{database.port}/none",
            secrets={"INTERNAL_KEY": INTERNAL_KEY, "JWT_SECRET": JWT_SECRET},
            persist_to=folder / "state",
            output=log,
            slow_kv=True,
        )
        stack.callback(database.be, Postgres.REFUSES)
        stack.callback(worker.stop)
        worker.start()
        stored = ((key, kv.peek(key) or b"") for key in kv.keys(prefix=""))
        worker.control.kv_put(
            KvEntry(key, value.decode(), kv.peek_metadata(key)) for key, value in stored
        )
        worker.wait_healthy()
        yield SlowWorker(worker, database, market)
