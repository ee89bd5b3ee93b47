"""Which routes a scanner's key opens: those for scanners, and what anybody may ask."""

import re
from typing import Final

import pytest

from marketplace.web.app import create_app
from tests.doubles.marketplace import Market
from tests.unit.web.clients import KEYS, OPERATOR, SCANNER, client_of

ROUTES: Final = sorted(
    (method.upper(), path)
    for path, operations in create_app().openapi()["paths"].items()
    for method in operations
    if path.startswith(("/api/v1/admin/", "/api/v1/webhooks/"))
)


@pytest.mark.market(settings=KEYS)
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_scanners_key_opens_the_webhooks_alone(
    market: Market, method: str, path: str
) -> None:
    async with client_of(market) as client:
        address = re.sub(r"{\w+}", "some", path)
        answer = await client.request(method, address, headers=SCANNER)
        operators = await client.request(method, address, headers=OPERATOR)
    assert operators.status_code not in (401, 403)
    if path.startswith("/api/v1/webhooks/"):
        assert answer.status_code == operators.status_code
    else:
        assert answer.status_code == 403
        assert answer.json()["detail"] == (
            "a scanner's key opens /api/v1/webhooks/ alone; this needs an operator's"
        )


def test_there_are_routes_of_both_kinds() -> None:
    assert ("POST", "/api/v1/webhooks/scan-results") in ROUTES
    assert ("POST", "/api/v1/webhooks/scan-requests") in ROUTES
    assert ("POST", "/api/v1/admin/rebuild-index") in ROUTES
