"""What the cron triggers run."""

from marketplace.env import Env
from marketplace.light_repair import run_light_repair


async def run_scheduled(env: Env, cron: str) -> None:
    """Run a trigger's work and log its report as one line."""
    report = await run_light_repair(env)
    env.log("scheduled run finished", cron=cron, report=report)
