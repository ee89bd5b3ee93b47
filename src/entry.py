"""The Worker's three handlers. They translate and delegate; nothing else lives here."""

from typing import Any

import asgi
from workers import WorkerEntrypoint

from marketplace.api.app import create_app

app = create_app()


class Default(WorkerEntrypoint):
    """Entry point for HTTP requests, queue batches and cron triggers."""

    async def fetch(self, request: Any) -> Any:
        return await asgi.fetch(app, request, self.env, self.ctx)

    async def queue(self, batch: Any, env: Any, ctx: Any) -> None:  # noqa: ARG002
        print(f"queue {batch.queue}: {len(batch.messages)} messages")  # noqa: T201

    async def scheduled(self, controller: Any, env: Any, ctx: Any) -> None:  # noqa: ARG002
        print(f"scheduled: {controller.cron}")  # noqa: T201
