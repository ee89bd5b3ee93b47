"""`python -m local demo`: generated skills through the real path, from submission to listing."""

from __future__ import annotations

import random
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import httpx
from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from cli.access import check_access
from cli.client import MarketplaceClient, Surroundings
from cli.errors import CliError
from cli.submission_file import Entry
from cli.submitting import Outcome, Submitter
from local.errors import LocalError
from local.host.processes import wait_until
from local.paths import DEV_VARS
from local.setup.dev_vars import read_dev_vars

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 25  # scans reported at once; larger batches follow each other too fast for the KV index
SCORE = 87
LISTED_SECONDS = 120.0
TOPICS = ("changelog", "invoice", "sql", "pdf", "test", "api", "release", "diagram", "form", "log")
DEEDS = ("writer", "reviewer", "reader", "planner", "checker", "formatter", "summary", "migrator")
CATEGORIES = ("development", "data", "documents", "testing", "productivity")


def publish_demo_skills(url: str, count: int) -> None:
    """Submits `count` skills, reports a passing scan for each, and waits until all are listed.

    LocalError when the marketplace does not answer, refuses one, or lists them too late. Each call
    publishes new skills: their repository owners carry a random mark.
    """
    keys = read_dev_vars(DEV_VARS).get("INTERNAL_KEY", "") if DEV_VARS.exists() else ""
    key = keys.split(",")[0].rpartition(":")[2].strip()  # the first is an operator's
    if not key:
        raise LocalError("there is no INTERNAL_KEY in .dev.vars; start `make run` first")
    access = check_access(url, key=key, token=None, insecure=False)
    try:
        with closing(MarketplaceClient(access, Surroundings())) as client:
            _publish(client, url, count)
    except (CliError, httpx.TransportError) as error:
        raise LocalError(f"{error}; `make run` must be running on {url}") from error


def _publish(client: MarketplaceClient, url: str, count: int) -> None:
    before = _listed(url)
    columns = (*ProgressBar.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with ProgressBar(*columns) as bar:
        submitted = bar.add_task("Submitting", total=count)
        listed = bar.add_task("Listed", total=count)
        submitter = Submitter(client, scan_score=SCORE)
        entries = _entries(count)
        while batch := list(islice(entries, BATCH)):
            submitter.submit(batch, lambda: bar.advance(submitted))
        for result in submitter.results:
            if result.outcome is not Outcome.PASSED:
                raise LocalError(f"{result.name} was not published: {result.reason}")

        def all_listed() -> bool:
            seen = _listed(url) - before
            bar.update(listed, completed=seen)
            return seen >= count

        wait_until(all_listed, LISTED_SECONDS, "listing them (see the Worker's log)", pause=0.2)


def _entries(count: int) -> Iterator[Entry]:
    mark = f"{random.SystemRandom().getrandbits(24):06x}"
    for number in range(count):
        pick = random.Random(number)  # noqa: S311 - demo data
        name = f"{pick.choice(TOPICS)}-{pick.choice(DEEDS)}-{number}"
        submission = {
            "repoUrl": f"https://github.com/demo-{mark}-{number % 40}/skills",
            "skillName": name,
            "skillPath": f"skills/{name}",
            "description": f"Demo skill {number}: works on {name.split('-')[0]} files.",
            "category": pick.choice(CATEGORIES),
        }
        yield Entry(number, submission)


def _listed(url: str) -> int:
    response = httpx.get(f"{url}/api/v1/skills", params={"limit": 1}, timeout=30, trust_env=False)
    if not response.is_success:
        raise LocalError(f"the listing answers {response.status_code}: {response.text[:300]}")
    total: int = response.json()["total"]
    return total
