"""The marketplace keeps its promises in every schedule, and only with all of its protections."""

from itertools import chain

import pytest

from tests.simulation.actors import Marketplace
from tests.simulation.mutations import MUTATIONS, PROFILE_OF, mutated
from tests.simulation.running import run, shrink
from tests.simulation.schedule import PROFILES, generate

SCHEDULES = 300  # of each profile
AT_ONCE = 150  # schedules of one test, so that the tests share the processors
MAX_SCHEDULES = 2000  # of its profile, within which every missing protection must show
BY_HAND = {
    "begins-the-outbox-anew",
    "finds-no-difference",
    "forgets-what-waits",
    "leaves-notes-unasked",
    "lists-without-reading-the-log",
    "never-looks-again",
    "takes-load-for-an-outage",
    "trusts-a-stale-list",
    "writes-older-rows-over-newer-records",
}
"""What chance does not find: tests/unit/publishing/test_publish.py, tests/unit/publishing/
test_verdicts.py and tests/unit/repair/test_rebuild.py have the schedules. Few skills wait here, and
all of them can be placed: tests/unit/publishing/test_without_truth.py has some that cannot. What
health finds, nobody reads here: tests/unit/health/test_findings.py does. The database never has too
much to do here: tests/unit/catalog/test_overload.py has that. A list of withheld skills that is
read late just when it is written: tests/unit/publishing/test_withheld.py."""

FOUND_AT = {
    "forgets-the-acts-of-one-side": 214,
    "gives-old-slugs-away": 153,
    "ignores-records-of-others": 196,
    "keeps-verdicts-before-their-marks": 120,
    "leaves-no-aliases": 441,
    "lists-rows-alone": 145,
    "lists-what-kv-alone-lists": 106,
    "lists-what-waits-beside-its-row": 115,
    "notes-a-redrive-when-it-was-sent": 171,
    "reads-no-acknowledged-number": 103,
    "repairs-kv-only": 1110,
    "takes-a-lost-row-for-a-new-skill": 1263,
    "tells-kv-of-no-change": 147,
}
"""The seed that last showed it, tried first; the others only where it shows nothing any more."""


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
@pytest.mark.parametrize("profile", PROFILES)
def test_no_schedule_breaks_a_promise(profile: str, first: int) -> None:
    marketplace = Marketplace()
    for seed in range(first, first + AT_ONCE):
        failure = run(marketplace, generate(seed, profile))
        if failure is not None:
            pytest.fail(shrink(marketplace, failure).report(), pytrace=False)


@pytest.mark.parametrize("name", sorted(MUTATIONS.keys() - BY_HAND))
def test_every_missing_protection_is_found(name: str) -> None:
    seeds = chain([FOUND_AT.get(name, 0)], range(MAX_SCHEDULES))
    schedules = (generate(seed, PROFILE_OF[name]) for seed in seeds)
    with mutated(name):
        assert any(run(Marketplace(), schedule) for schedule in schedules)


def test_a_failure_shrinks_to_what_is_needed_for_it() -> None:
    marketplace = Marketplace()
    with mutated("falls-back-in-silence"):
        failure = next(f for seed in range(100) if (f := run(marketplace, generate(seed))))
        small = shrink(marketplace, failure)
        assert len(small.schedule.steps) <= 8
        assert run(marketplace, small.schedule) is not None
    assert f"--seed {failure.schedule.seed}" in small.report()
