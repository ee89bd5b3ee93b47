"""Fixtures of the console tool's tests."""

import pytest

from tests.unit.cli.double import FakeMarketplace


@pytest.fixture
def marketplace() -> FakeMarketplace:
    return FakeMarketplace()
