"""A pytest plugin: learns which tests reach which line, and runs only tests that were picked.

In each mode it leaves a JSON file for the process that started pytest.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from coverage import Coverage
from hypothesis import Phase, settings

LEARN: Final = "MUTANTS_LEARN"
"""Names the file to write: which tests reach a line, and how long each test takes."""

PICK: Final = "MUTANTS_PICK"
"""Names the file to read: the tests to run, in this order."""


class Learning:
    """Follows every test through ``src``."""

    def __init__(self, into: Path) -> None:
        self._into = into
        self._milliseconds: Counter[str] = Counter()
        self._coverage = Coverage(data_file=None, source=["src"])
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        result = yield
        self._coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._milliseconds[report.nodeid] += round(report.duration * 1000)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        reached = {
            str(Path(file).relative_to(Path.cwd())): {
                line: [test for test in tests if test]
                for line, tests in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        found = {"reached": reached, "milliseconds": self._milliseconds}
        self._into.write_text(json.dumps(found), encoding="utf-8")


class Picking:
    """Keeps the picked tests, in their order."""

    def __init__(self, picked: list[str]) -> None:
        self._rank = {test: rank for rank, test in enumerate(picked)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [item for item in items if item.nodeid in self._rank]
        items[:] = sorted(kept, key=lambda item: self._rank[item.nodeid])


def pytest_configure(config: pytest.Config) -> None:
    if LEARN in os.environ:
        config.pluginmanager.register(Learning(Path(os.environ[LEARN])))
    if PICK in os.environ:
        picked = json.loads(Path(os.environ[PICK]).read_text(encoding="utf-8"))
        config.pluginmanager.register(Picking(picked))
        # A failure is enough; to make it small takes minutes.
        phases = [phase for phase in Phase if phase is not Phase.shrink]
        settings.register_profile("no shrinking", phases=phases)
        settings.load_profile("no shrinking")
        # As Ctrl-C, so that fixtures stop their servers.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
