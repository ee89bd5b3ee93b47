"""The pages in a real browser, out of the real Worker."""

import shutil
import subprocess
import tempfile

import httpx
import pytest

from local.host.control import KvEntry
from tests.worker.marketplace import Marketplace

BROWSER_SECONDS = 60


def rendered(url: str) -> str:
    """The document that headless Chromium ends up with, scripts run."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("chromium is missing: apt-get install chromium, or run .ci/run")
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        result = subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                f"--user-data-dir={profile}",
                "--virtual-time-budget=10000",  # of the page's own time, not of the test's
                "--dump-dom",
                url,
            ],
            capture_output=True,
            text=True,
            timeout=BROWSER_SECONDS,
            check=True,
        )
    return result.stdout


def test_the_front_page_lists_skills_with_links_to_their_pages(marketplace: Marketplace) -> None:
    document = rendered(f"{marketplace.url}/?search=word+documents")

    assert 'href="/skills/docx"' in document
    assert 'id="notice" role="alert" hidden' in document


def test_the_front_page_shows_what_its_address_asks_for(marketplace: Marketplace) -> None:
    document = rendered(f"{marketplace.url}/?category=mobile")

    assert 'href="/skills/expo-router"' in document
    assert 'href="/skills/pdf"' not in document


def test_a_skill_page_is_readable_without_scripts(client: httpx.Client) -> None:
    response = client.get("/skills/pdf")

    assert response.status_code == 200
    assert "<h1>PDF</h1>" in response.text


def test_an_unknown_skill_page_says_so(client: httpx.Client) -> None:
    response = client.get("/skills/no-such-skill")

    assert response.status_code == 404
    assert "No such skill" in response.text


def test_an_old_slug_leads_to_the_present_page_for_good(
    client: httpx.Client, marketplace: Marketplace
) -> None:
    record = '{"name": "present-name", "repoUrl": "https://github.com/pages/tools"}'
    control = marketplace.worker.control
    control.kv_put(
        [
            KvEntry("skill:present-name", record),
            KvEntry("skill:alias:former-name", '{"slug": "present-name"}'),
        ]
    )

    try:
        response = client.get("/skills/former-name")
    finally:
        control.kv_delete(["skill:present-name", "skill:alias:former-name"])

    assert response.status_code == 308
    assert response.headers["location"] == "/skills/present-name"
