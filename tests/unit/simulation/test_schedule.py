"""Schedules: the same seed is the same run, on any machine."""

import os
import subprocess
import sys

from tests.simulation.actors import Marketplace
from tests.simulation.running import trace_of
from tests.simulation.schedule import generate


def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(20):
        schedule = generate(seed)
        assert schedule == generate(seed)
        assert trace_of(Marketplace(), schedule) == trace_of(Marketplace(), schedule)


def test_the_run_of_a_seed_does_not_depend_on_the_hashes_of_a_process() -> None:
    code = (
        "from tests.simulation.actors import *; from tests.simulation.running import *;"
        "from tests.simulation.schedule import *;"
        "print([trace_of(Marketplace(), generate(seed)) for seed in range(10)])"
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
