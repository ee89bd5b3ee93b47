"""Schedules: the same seed is the same run, a sound marketplace passes, every flaw is found."""

import os
import subprocess
import sys

import pytest

from tests.simulation.reference import Flaw, ReferenceMarketplace
from tests.simulation.schedule import generate, run, shrink, trace_of

MAX_SCHEDULES = 3000  # within which each flaw must show


def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(20):
        schedule = generate(seed)
        assert schedule == generate(seed)
        assert trace_of(ReferenceMarketplace(), schedule) == trace_of(
            ReferenceMarketplace(), schedule
        )


def test_the_run_of_a_seed_does_not_depend_on_the_hashes_of_a_process() -> None:
    code = (
        "from tests.simulation.reference import *; from tests.simulation.schedule import *;"
        "print([trace_of(ReferenceMarketplace(), generate(seed)) for seed in range(10)])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(runs) == 1


def test_a_sound_marketplace_passes() -> None:
    assert [seed for seed in range(300) if run(ReferenceMarketplace(), generate(seed))] == []


@pytest.mark.parametrize("flaw", Flaw)
def test_every_flaw_is_found(flaw: Flaw) -> None:
    marketplace = ReferenceMarketplace(flaw)
    assert any(run(marketplace, generate(seed)) for seed in range(MAX_SCHEDULES))


def test_a_failure_shrinks_to_what_is_needed_for_it() -> None:
    marketplace = ReferenceMarketplace(Flaw.SILENT_FALLBACK)
    failure = next(f for seed in range(100) if (f := run(marketplace, generate(seed))))
    small = shrink(marketplace, failure)
    assert len(small.schedule.steps) <= 5
    assert run(marketplace, small.schedule) is not None
    assert f"seed {failure.schedule.seed}" in small.report()
