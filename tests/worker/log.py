"""The log of the running Worker."""

import httpx

from tests.worker.marketplace import Marketplace
from tests.worker.publishing import eventually
from tests.worker.storage import rebuild


def log_until_now(marketplace: Marketplace, client: httpx.Client) -> str:
    """The log, whole as far as what has been answered.

    A line may reach the file after the answer that it is about. Lines never
    overtake each other, though: when a line of a dry run of a rebuild is there, so are all that
    were written before it began. Its own lines name what is damaged: not for tests of those.
    """
    job: str = rebuild(client, dryRun=True)["jobId"]
    return eventually(marketplace.log, lambda log: job in log)
