"""Two thousand skills, five mirrors. A part of `make test-long`; alone:

python -m local test tests/long/test_mirrors.py -n1
"""

from pathlib import Path
from typing import Final

from cli.errors import EXIT_OK
from tests.worker.marketplace import Marketplace
from tests.worker.mirrors import check_mirrors, following, items, publish_through_everything
from tests.worker.storage import empty, rebuild
from tests.worker.test_command_line import run

SKILLS: Final = 2_000
MIRRORS: Final = 5


def test_five_mirrors_and_a_marketplace_filled_from_one(
    marketplace: Marketplace, tmp_path: Path
) -> None:
    empty(marketplace)
    folders = [tmp_path / str(number) for number in range(MIRRORS)]
    with following(marketplace, folders):
        slugs = publish_through_everything(marketplace, SKILLS)
    check_mirrors(marketplace, folders, slugs)
    held = items(folders[0])

    empty(marketplace)
    result = run(marketplace.url, "restore", str(folders[0]), "--json")
    assert result.returncode == EXIT_OK, result.stdout + result.stderr
    with marketplace.client() as client:
        assert rebuild(client)["ok"]
    check_mirrors(marketplace, folders, slugs)
    assert {name: item["digest"] for name, item in items(folders[1]).items()} == {
        name: item["digest"] for name, item in held.items()
    }
