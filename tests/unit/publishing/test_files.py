"""Lists of files are kept for themselves, and by whom a skill was scanned is noted."""

from marketplace.kv.files import read_files
from marketplace.publishing.submissions import record_scan_results
from marketplace.skills.scan import File, files_digest
from tests.doubles.marketplace import Market, fault
from tests.doubles.network import Fault
from tests.unit.publishing.reports import deliver, report, reported, row, submitted

FILES = tuple(File(path=f"{n:0250}.md", size=n, sha256=f"{n:064x}") for n in range(1000))


async def test_the_files_are_kept_once_and_the_skill_has_their_digest(market: Market) -> None:
    await submitted(market)
    told = report(text="Reads.", files=FILES)

    receipt = await record_scan_results(market.env, [told], by="scan-1")
    await deliver(market)

    assert receipt.accepted == ["first"]
    assert row(market).files_digest == files_digest(FILES)
    assert row(market).scanned_by == "scan-1"
    assert await read_files(market.env, files_digest(FILES)) == FILES


async def test_a_verdict_whose_files_are_not_kept_is_refused(market: Market) -> None:
    await submitted(market)
    market.kv.faults = fault(Fault.FAIL, "put", key="files:")

    receipt = await reported(market, report(text="Reads.", files=FILES))

    (refused,) = receipt.rejected
    assert refused.reason.startswith("storage-")
    assert market.publish.bodies == []
