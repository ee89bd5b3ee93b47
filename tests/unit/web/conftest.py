"""Who asks the routes."""

from collections.abc import Iterator

import httpx
import pytest

from tests.doubles.loop import SimulatedLoop
from tests.doubles.marketplace import Market
from tests.unit.web.clients import client_of


@pytest.fixture
def client(loop: SimulatedLoop, market: Market) -> Iterator[httpx.AsyncClient]:
    client = client_of(market)
    yield client
    loop.run_until_complete(client.aclose())
