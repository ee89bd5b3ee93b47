"""Mirrors that follow the running marketplace, in threads, and what is done to it meanwhile."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from cli.access import check_access
from cli.client import MarketplaceClient, Surroundings
from cli.commands import perform
from cli.errors import EXIT_OK
from cli.mirroring import mirror
from cli.output import Output
from tests.worker.faults import dump, restore
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import (
    OPERATOR,
    eventually,
    listing,
    report,
    status,
    submit_many,
)
from tests.worker.storage import rebuild, rows, without_postgres
from tests.worker.test_command_line import run
from tests.worker.test_other_database import in_another_isolate, trusted

AT_ONCE = 50  # skills that are published together
OWNER = "followed"  # and the number of the batch: of one owner only so many are taken a minute


def catch_up(marketplace: Marketplace, folder: Path) -> int:
    """One run of a mirror in this process, with short pauses; its exit code."""
    access = check_access(marketplace.url, key=None, token=None, insecure=False)
    surroundings = Surroundings(sleep=lambda seconds: time.sleep(min(seconds, 0.3)))
    command = partial(mirror, folder=folder, content=False, follow=False)
    return perform(command, lambda: MarketplaceClient(access, surroundings), Output(as_json=True))


@contextmanager
def following(marketplace: Marketplace, folders: Sequence[Path]) -> Iterator[dict[Path, list[int]]]:
    """Mirrors that catch up over and over while the block runs; their exit codes."""
    over = threading.Event()
    codes: dict[Path, list[int]] = {folder: [] for folder in folders}

    def follow(folder: Path) -> None:
        while not over.wait(0.2):
            codes[folder].append(catch_up(marketplace, folder))

    threads = [threading.Thread(target=follow, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    try:
        yield codes
    finally:
        over.set()
        for thread in threads:
            thread.join()


def items(folder: Path) -> dict[str, dict[str, Any]]:
    """What a whole mirror holds, by slug."""
    files = sorted((folder / "skills").glob("[!_]*.json"))
    found = [json.loads(file.read_bytes()) for file in files]
    assert [f"{item['name']}.json" for item in found] == [file.name for file in files]
    return {item["name"]: item for item in found}


def act_on_some(marketplace: Marketplace, slugs: Sequence[str]) -> None:
    """Block one, withdraw one, correct one."""
    bodies = {
        "block": {"threatType": "malware", "severity": "HIGH", "reason": "It steals."},
        "withdraw": {"reason": "Its author asked."},
        "correct": {"reason": "It is.", "category": "data"},
    }
    with marketplace.client() as client:
        for slug, (act, body) in zip(slugs, bodies.items(), strict=False):
            path = f"/api/v1/admin/skills/{slug}/{act}"
            assert client.post(path, json=body, headers=OPERATOR).status_code == 200


def owner_of(slug: str) -> str:
    return f"{OWNER}-{int(slug.rpartition('-')[2]) // AT_ONCE}"


def publish(client: httpx.Client, slugs: Sequence[str]) -> None:
    """Submit, pass, and wait."""
    ids = submit_many(client, owner_of(slugs[0]), slugs)
    report(client, *ids)
    wait_for(client, ids)


def wait_for(client: httpx.Client, ids: Sequence[str]) -> None:
    """Wait until all are published; a marketplace that is too busy to say so is asked again."""
    for submission_id in ids:
        eventually(
            lambda submission_id=submission_id: status(client, submission_id),  # type: ignore[misc]
            lambda answer: answer.get("state") == "PUBLISHED",
        )


def publish_through_everything(marketplace: Marketplace, count: int) -> list[str]:
    """Publish through an outage, a restart and a restored dump; the slugs of what was published."""
    slugs = [f"followed-{number:04d}" for number in range(count)]
    with marketplace.client() as client:
        batches = [slugs[start : start + AT_ONCE] for start in range(0, count, AT_ONCE)]
        outage, restart, old = (len(batches) * part // 4 for part in (1, 2, 3))
        for number, batch in enumerate(batches):
            if number == outage:
                with without_postgres(marketplace):
                    ids = submit_many(client, owner_of(batch[0]), batch[: AT_ONCE // 5])
                    report(client, *ids)
                wait_for(client, ids)
                publish(client, batch[AT_ONCE // 5 :])
            elif number == old:
                kept = dump(marketplace)
                publish(client, batch)
                act_on_some(marketplace, batch)
                trusted(client, owner_of(batch[0]))
                restore(marketplace, kept)
                assert listing(client)["degraded"] is True
                eventually(lambda: listing(client), lambda found: not found["degraded"])
            else:
                publish(client, batch)
                act_on_some(marketplace, batch[5:])
            if number == restart:
                in_another_isolate(marketplace)
        marketplace.worker.control.fire_scheduled("*/5 * * * *")
        rebuild(client)
        eventually(lambda: rows(marketplace), lambda found: len(found) >= count)
    return slugs


def check_mirrors(marketplace: Marketplace, folders: Sequence[Path], slugs: Sequence[str]) -> None:
    """That each ends with the marketplace's fingerprint, by the tool as it is called, and has all
    that was published, as the others have it."""
    held = []
    for folder in folders:
        result = run(marketplace.url, "mirror", str(folder), "--json", key=None)
        assert result.returncode == EXIT_OK, result.stdout + result.stderr
        held.append(items(folder))
    with marketplace.client() as client:
        head = client.get("/api/v1/changes", params={"limit": 1}).json()["head"]
        feed = client.get("/api/v1/changes", params={"since": head}).json()
    assert feed["fingerprint"]["count"] == len(held[0])
    assert json.loads(result.stdout)["digest"] == feed["fingerprint"]["digest"]
    identities = {f"https://github.com/{owner_of(slug)}/tools#{slug}" for slug in slugs}
    for each in held:
        assert identities <= {item["identity"] for item in each.values()}
        assert {name: i["digest"] for name, i in each.items()} == {
            name: i["digest"] for name, i in held[0].items()
        }
