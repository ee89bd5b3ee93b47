"""300 skills are published while PostgreSQL is killed, frozen, restored from an old dump, emptied
or made read-only, and comes back: no undegraded answer lacks one, and in the end none is lost."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

import httpx
import pytest

from tests.worker.faults import dump, frozen, killed, make_anew, read_only, restore
from tests.worker.marketplace import Marketplace
from tests.worker.observed import Publishing, everything_is_kept, publishing
from tests.worker.publishing import OPERATOR, eventually
from tests.worker.storage import query

COUNT: Final = 300
FAULT_SECONDS: Final = 40.0  # longer than any cache keeps anything where KV is not late
LIGHT_CHECK: Final = "*/5 * * * *"
REBUILD: Final = "/api/v1/admin/rebuild-index"

Note = Callable[[str, object], None]


@pytest.fixture
def running(
    marketplace: Marketplace, record_property: Note, request: pytest.FixtureRequest
) -> Iterator[Publishing]:
    """Skills that are being published and observed, until all are; then judged."""
    kind = request.node.name.removeprefix("test_").split("_")[0]
    with publishing(marketplace, kind, COUNT) as publishing_:
        yield publishing_
        publishing_.reached(COUNT)
        marketplace.worker.control.fire_scheduled(LIGHT_CHECK)
    record_property("figures", publishing_.observer.judgement.figures())
    publishing_.judge()
    everything_is_kept(marketplace, publishing_.skills)


def during(
    running: Publishing, fault: Callable[[Marketplace], AbstractContextManager[None]]
) -> None:
    """Let a fault begin and end twice in the middle of publishing."""
    for begin, end in ((60, 120), (180, 240)):
        running.reached(begin)
        with fault(running.marketplace):
            running.waited_for(end, FAULT_SECONDS)


def test_killed(running: Publishing) -> None:
    during(running, killed)


def test_frozen(running: Publishing) -> None:
    during(running, frozen)


def test_readonly(running: Publishing) -> None:
    during(running, read_only)


def test_restored_from_an_old_dump(running: Publishing) -> None:
    running.reached(60)
    old = dump(running.marketplace)
    for restored in (120, 200):
        running.reached(restored)
        restore(running.marketplace, old)


def test_emptied_of_the_same_instance(running: Publishing) -> None:
    running.reached(100)
    ((instance,),) = query(running.marketplace, "select id from instance")
    make_anew(running.marketplace, instance=instance)


def test_anew_as_another_instance_and_adopted(running: Publishing, client: httpx.Client) -> None:
    running.reached(100)
    make_anew(running.marketplace)
    running.reached(200)
    begun = client.post(REBUILD, params={"adopt": "true"}, headers=OPERATOR)
    assert begun.status_code == 202, begun.text
    report = eventually(
        lambda: client.get(f"{REBUILD}/{begun.json()['jobId']}", headers=OPERATOR).json(),
        lambda found: found["complete"],
    )
    assert report["ok"], report
