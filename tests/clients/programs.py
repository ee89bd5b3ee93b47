"""Runs the installers as npm has them, in a home and a project of their own."""

import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from local.paths import NODE, NODE_MODULES

NETWORK: Final = Path(__file__).with_name("only_here.mjs")
SECONDS: Final = 60
_COLORS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Done:
    """What a program printed, and how it ended."""

    code: int
    text: str


@dataclass(frozen=True)
class Person:
    """Somebody with a home and a project, whose programs ask the marketplace at ``url``."""

    folder: Path
    url: str
    forge: str = "http://127.0.0.1:9"

    @property
    def project(self) -> Path:
        """Where the programs run."""
        return self._made("project")

    def skills(self, *arguments: str) -> Done:
        """Run `skills`."""
        return self._run("skills", "cli.mjs", *arguments)

    def clawhub(self, *arguments: str) -> Done:
        """Run `clawhub`."""
        return self._run("clawhub", "clawdhub.js", *arguments)

    def blocked(self) -> list[str]:
        """The hosts beyond this machine that programs wanted to reach."""
        file = self.folder / "blocked"
        return file.read_text().split() if file.exists() else []

    def _run(self, package: str, program: str, *arguments: str) -> Done:
        path = NODE_MODULES / package / "bin" / program
        assert path.is_file(), (
            f"npm has not installed {package}: run `make setup`, then `make test`"
        )
        done = subprocess.run(
            [NODE, path, *arguments],
            cwd=self.project,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Done(done.returncode, _COLORS.sub("", done.stdout))

    def _environment(self) -> Mapping[str, str]:
        home = self._made("home")
        return {
            "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "TMPDIR": str(self._made("tmp")),
            "NO_COLOR": "1",
            "NODE_OPTIONS": f"--import {NETWORK.as_uri()}",
            "BLOCKED": str(self.folder / "blocked"),
            "FORGE": self.forge,
            "DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "SKILLS_API_URL": self.url,
            "CLAWHUB_REGISTRY": f"{self.url}/clawhub",
            "CLAWHUB_DISABLE_TELEMETRY": "1",
            "CLAWHUB_GITHUB_CODELOAD_BASE_URL": self.forge,
        }

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path


@contextmanager
def forge_with(files: Mapping[str, bytes]) -> Iterator[str]:
    """A server that has these files by path, in place of a forge; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
