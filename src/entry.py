"""The Worker's three handlers. They translate and delegate; nothing else lives here."""

from typing import Any

import asgi
from workers import WorkerEntrypoint

from marketplace.api.app import create_app
from marketplace.bindings import env_from_bindings, messages_of
from marketplace.publish_consumer import handle_publish_batch

app = create_app()


class Default(WorkerEntrypoint):
    """Entry point for HTTP requests, queue batches and cron triggers."""

    async def fetch(self, request: Any) -> Any:
        """Answer an HTTP request."""
        return await asgi.fetch(app, request, env_from_bindings(self.env), self.ctx)

    async def queue(self, batch: Any, env: Any, ctx: Any) -> None:  # noqa: ARG002
        """Consume a queue batch."""
        await handle_publish_batch(env_from_bindings(env), messages_of(batch))

    async def scheduled(self, controller: Any, env: Any, ctx: Any) -> None:
        """Run what a cron trigger asks for."""
