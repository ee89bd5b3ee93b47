"""PostgreSQL read-only, killed, frozen, restored from an old dump while skills are published.

In short; `tests/long` has each for itself, with 300 skills.
"""

from tests.worker.faults import dump, frozen, killed, read_only, restore
from tests.worker.marketplace import Marketplace
from tests.worker.observed import everything_is_kept, publishing

COUNT = 60
FAULT_SECONDS = 8.0


def test_no_undegraded_answer_lacks_a_skill_whatever_happens_to_postgres(
    marketplace: Marketplace,
) -> None:
    with publishing(marketplace, "brief", COUNT) as running:
        running.reached(6)
        old = dump(marketplace)
        running.reached(16)  # rows that are in no outbox
        with read_only(marketplace):
            running.waited_for(24, FAULT_SECONDS)
        with killed(marketplace):
            running.waited_for(32, FAULT_SECONDS)
        with frozen(marketplace):
            running.waited_for(38, FAULT_SECONDS)
        running.reached(46)
        restore(marketplace, old)
    running.judge()
    everything_is_kept(marketplace, running.skills)
