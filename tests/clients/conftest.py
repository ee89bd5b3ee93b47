"""Somebody who uses the installers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.programs import Person
from tests.worker.marketplace import Marketplace


@pytest.fixture
def person(marketplace: Marketplace, tmp_path: Path) -> Iterator[Person]:
    """With an empty home and project; fails if a program wanted to leave this machine."""
    person = Person(tmp_path, marketplace.url)
    yield person
    assert person.blocked() == []
