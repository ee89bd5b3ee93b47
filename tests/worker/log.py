"""The log of the running Worker."""

from typing import Final

import httpx

from tests.worker.conftest import Marketplace
from tests.worker.publishing import eventually
from tests.worker.storage import rebuild

REBUILT: Final = '"event":"rebuild finished"'


def log_until_now(marketplace: Marketplace, client: httpx.Client) -> str:
    """The log, whole as far as what has been answered.

    A line takes its own way to the file, and the answer it tells about may come first. Lines never
    overtake each other, though: when the last line of a dry run of a rebuild is there, so are all
    that were written before it began.
    """
    job = rebuild(client, dryRun=True)["jobId"]

    def is_whole(log: str) -> bool:
        return any(REBUILT in line and job in line for line in log.splitlines())

    return eventually(lambda: marketplace.log_file.read_text(errors="replace"), is_whole)
