"""Rules in the real Worker: what is listed goes, what comes is withheld from the start."""

from typing import Any

import httpx

from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually, listing, names, publish, report, submit
from tests.worker.storage import keys, query

RULES = "/api/v1/admin/rules"


def made(client: httpx.Client, owner: str) -> dict[str, Any]:
    body = {
        "kind": "BLOCK",
        "matches": "owner",
        "value": f"github.com/{owner}",
        "reason": "Steals keys.",
        "threatType": "exfiltration",
        "severity": "HIGH",
    }
    response = client.post(RULES, json=body, headers=OPERATOR)
    assert response.status_code == 201, response.text
    receipt: dict[str, Any] = response.json()
    return receipt


def test_an_owner_is_blocked_now_and_in_future_until_the_rule_is_lifted(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    owner = "ruled-one"
    for name in ("Rule first", "Rule second"):
        publish(client, owner, name)
    late = submit(client, owner, "Rule late")["id"]
    assert len(names(listing(client, author=owner))) == 2

    receipt = made(client, owner)

    rule = receipt["rule"]["id"]
    assert (receipt["applied"], receipt["complete"]) == (2, True)
    assert receipt["stores"] == {"log": True, "postgres": True}
    assert len(keys(marketplace, "rule:")) == 1
    eventually(lambda: names(listing(client, author=owner)), lambda shown: not shown)
    assert client.get("/api/v1/skills/rule-first").status_code == 410
    assert submit(client, owner, "Rule third")["blocked"] is True
    assert report(client, late)["accepted"] == [late]
    rows = "select status from skill where author_lower = $1"
    eventually(lambda: query(marketplace, rows, owner), lambda found: len(found) == 3)
    assert query(marketplace, rows, owner) == [("BLOCKED",)] * 3

    lift = client.post(f"{RULES}/{rule}/lift", json={"reason": "So."}, headers=OPERATOR)

    assert lift.status_code == 200, lift.text
    assert lift.json()["applied"] == 3
    eventually(lambda: names(listing(client, author=owner)), lambda shown: len(shown) == 3)
    assert len(keys(marketplace, "rule:")) == 2
    page = client.get(RULES, headers=OPERATOR).json()
    assert page["rules"][0]["liftReason"] == "So."
