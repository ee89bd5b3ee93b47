"""The Worker's three handlers. They translate and delegate; nothing else lives here."""

from contextlib import closing
from typing import Any

from workers import WorkerEntrypoint

from marketplace.ports.isolate import FallbackCache
from marketplace.repair.cron import run_scheduled
from marketplace.web.app import create_app
from marketplace.web.problems import misconfigured
from marketplace.worker import asgi_bridge
from marketplace.worker.bindings import MissingBinding, env_from_bindings, messages_of
from marketplace.worker.consumers import consume

app = create_app()
fallback_cache = FallbackCache()


class Default(WorkerEntrypoint):
    """Entry point for HTTP requests, queue batches and cron triggers."""

    async def fetch(self, request: Any) -> Any:
        """Answer an HTTP request."""
        try:
            env = env_from_bindings(self.env, fallback_cache)
        except MissingBinding:  # logged where it was raised
            return await asgi_bridge.serve(misconfigured(), request, None)
        with closing(env):
            return await asgi_bridge.serve(app, request, env)

    # The runtime hands these two their own `env` and `ctx` as None; the instance has the real ones.

    async def queue(self, batch: Any, _env: Any, _ctx: Any) -> None:
        """Consume a queue batch."""
        with closing(env_from_bindings(self.env, fallback_cache)) as env:
            await consume(env, batch.queue, messages_of(batch))

    async def scheduled(self, controller: Any, _env: Any, _ctx: Any) -> None:
        """Run what a cron trigger asks for."""
        with closing(env_from_bindings(self.env, fallback_cache)) as env:
            await run_scheduled(env, str(controller.cron))
