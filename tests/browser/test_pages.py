"""The pages in a real browser, out of the real Worker."""

import functools
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from local.host.control import KvEntry
from tests.worker.marketplace import Marketplace

BROWSER_SECONDS = 60
PUBLIC: Final = Path(__file__).resolve().parents[2] / "public"


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


class _Pages(SimpleHTTPRequestHandler):
    """The static pages, beside an API that answers everything with one document."""

    def __init__(self, document: dict[str, Any], *args: Any) -> None:
        self._document = document
        super().__init__(*args, directory=str(PUBLIC))

    def do_GET(self) -> None:
        if not self.path.startswith("/api/"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(self._document).encode())

    def log_message(self, *_: object) -> None: ...


@contextmanager
def _pages(**answer: object) -> Iterator[str]:
    document = {"skills": [], "categories": [], "nextCursor": None, "degraded": False, **answer}
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Pages, document))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("total", "is_exact", "shown"),
    [(1, True, "1 skill"), (1000, True, "1000 skills"), (1000, False, "1,000+ skills")],
)
def test_the_front_page_shows_whether_a_total_is_exact(
    total: int, shown: str, *, is_exact: bool
) -> None:
    with _pages(total=total, totalIsExact=is_exact) as url:
        assert f">{shown}<" in rendered(url)
