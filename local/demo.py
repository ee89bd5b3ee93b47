"""`python -m local demo`: generated skills through the real path, from submission to listing."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import httpx
from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from local.errors import LocalError
from local.paths import DEV_VARS
from local.setup.dev_vars import read_dev_vars

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = 25
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
    key = keys.split(",")[0].strip()  # while keys are being rotated there are two
    if not key:
        raise LocalError("there is no INTERNAL_KEY in .dev.vars; start `make run` first")
    mark = f"{random.SystemRandom().getrandbits(24):06x}"
    try:
        with (
            httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
            ProgressBar(
                *ProgressBar.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
            ) as bar,
        ):
            before = _listed(client)
            submitted = bar.add_task("Submitting", total=count)
            scanned = bar.add_task("Scan results", total=count)
            listed = bar.add_task("Listed", total=count)
            for start in range(0, count, BATCH):
                numbers = range(start, min(start + BATCH, count))
                identifiers = []
                for number in numbers:
                    identifiers.append(_submit(client, mark, number))
                    bar.advance(submitted)
                _report_scans(client, key, identifiers)
                bar.advance(scanned, len(identifiers))
                bar.update(listed, completed=_listed(client) - before)
            deadline = time.monotonic() + LISTED_SECONDS
            while (seen := _listed(client) - before) < count:
                bar.update(listed, completed=seen)
                if time.monotonic() > deadline:
                    raise LocalError(
                        f"only {seen} of {count} skills are listed; see the Worker's log"
                    )
                time.sleep(0.2)
            bar.update(listed, completed=count)
    except httpx.TransportError as error:
        raise LocalError(
            f"no marketplace answers at {url} ({error}); start `make run` first"
        ) from error


def _submit(client: httpx.Client, mark: str, number: int) -> str:
    pick = random.Random(number)  # noqa: S311 - demo data
    name = f"{pick.choice(TOPICS)}-{pick.choice(DEEDS)}-{number}"
    answer = _expect_accepted(
        client.post(
            "/api/v1/submissions",
            json={
                "repoUrl": f"https://github.com/demo-{mark}-{number % 40}/skills",
                "skillName": name,
                "skillPath": f"skills/{name}",
                "description": f"Demo skill {number}: works on {name.split('-')[0]} files.",
                "category": pick.choice(CATEGORIES),
            },
        )
    )
    identifier: str = answer["id"]
    return identifier


def _report_scans(client: httpx.Client, key: str, identifiers: Sequence[str]) -> None:
    results = [
        {"submissionId": each, "verdict": "PASS", "score": 70 + index % 31}
        for index, each in enumerate(identifiers)
    ]
    answer = _expect_accepted(
        client.post(
            "/api/v1/webhooks/scan-results",
            json={"results": results},
            headers={"X-Internal-Key": key},
        )
    )
    if answer["rejected"]:
        raise LocalError(f"scan results were rejected: {answer['rejected'][0]}")


def _listed(client: httpx.Client) -> int:
    response = client.get("/api/v1/skills", params={"limit": 1})
    if not response.is_success:
        raise LocalError(f"the listing answers {response.status_code}: {response.text[:300]}")
    total: int = response.json()["total"]
    return total


def _expect_accepted(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != httpx.codes.ACCEPTED:
        raise LocalError(
            f"{response.request.url.path} answers {response.status_code}: {response.text[:300]}"
        )
    answer: dict[str, Any] = response.json()
    return answer
