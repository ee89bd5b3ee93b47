"""Coroutine tests in virtual time, and the marketplace that they are given."""

from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from marketplace.ports.env import Settings
from marketplace.ports.kv import KV_LIST_LIMIT
from tests.coroutines import run_coroutine_test
from tests.doubles.loop import SimulatedLoop, new_loop, simulate
from tests.doubles.marketplace import Market, new_market


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests in the loop of their fixtures; without such fixtures in a new one."""
    loop = pyfuncitem.funcargs.get("loop")
    assert loop is None or isinstance(loop, SimulatedLoop)

    def run(coroutine: Coroutine[Any, Any, object]) -> None:
        if loop is None:
            simulate(coroutine)
        else:
            loop.run_until_complete(coroutine)
            loop.raise_unhandled()

    return run_coroutine_test(pyfuncitem, run)


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    """Virtual time: that of the test, and of what its fixtures wait for."""
    loop = new_loop()
    yield loop
    loop.close()


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    mark = request.node.get_closest_marker("market")
    return {} if mark is None else dict(mark.kwargs)


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    """What the test's mark says, unless the test has a parameter of this name."""
    settings: Settings = _options(request).get("settings", Settings())
    return settings


@pytest.fixture
def page_limit(request: pytest.FixtureRequest) -> int:
    """Keys in a batch of KV's: what the mark says, or a parameter of this name."""
    limit: int = _options(request).get("page_limit", KV_LIST_LIMIT)
    return limit


@pytest.fixture
def market(
    request: pytest.FixtureRequest, loop: SimulatedLoop, settings: Settings, page_limit: int
) -> Market:
    """An empty marketplace; ``@pytest.mark.market`` gives options of `new_market`."""
    options = _options(request) | {"settings": settings, "page_limit": page_limit}
    return new_market(loop.clock, **options)
