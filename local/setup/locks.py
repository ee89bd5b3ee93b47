"""`python -m local lock`: compiles the lock files from pyproject.toml and package.json.

They name versions and hashes, never where a package is downloaded from: any index or mirror that
has the same files serves.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from local.errors import LocalError
from local.paths import DEV_LOCK, NODE, NPM_LOCK, REPOSITORY, WORKER_LOCK
from local.setup.packages import WORKER_PYTHON_VERSION, node_environment
from local.setup.steps import run_step

PYPROJECT = REPOSITORY / "pyproject.toml"
SDK = "workers-runtime-sdk"
"""A development dependency by name, but part of what the Worker runs."""


def compile_locks() -> None:
    """Rewrites all three lock files; LocalError when one cannot be resolved or holds an address."""
    uv = [str(Path(sys.prefix) / "bin" / "uv"), "pip", "compile", "--quiet", "--universal"]
    uv += ["--generate-hashes", "--custom-compile-command", "make lock"]
    run_step(
        [*uv, "--group", "dev", "--python-version", "3.11", "-o", DEV_LOCK, PYPROJECT],
        what="locking the development packages",
        cwd=REPOSITORY,
    )
    sdk = REPOSITORY / ".local" / "sdk.in"
    sdk.write_text(f"{_pinned(SDK)}\n")
    run_step(
        [
            *(*uv, "--no-annotate", "--python-version", WORKER_PYTHON_VERSION),
            *("-o", WORKER_LOCK, PYPROJECT, sdk),
        ],
        what="locking the Worker's packages",
        cwd=REPOSITORY,
    )
    run_step(
        [NODE.with_name("npm"), "install", "--package-lock-only"],
        what="locking the npm packages",
        env=node_environment(),
        cwd=REPOSITORY,
    )
    for path in (DEV_LOCK, WORKER_LOCK):
        if "://" in path.read_text():
            raise LocalError(f"{path} names a download address; lock against a plain index")
    if '"resolved"' in NPM_LOCK.read_text():
        raise LocalError(f"{NPM_LOCK} names download addresses; .npmrc should prevent that")


def _pinned(name: str) -> str:
    groups = tomllib.loads(PYPROJECT.read_text())["dependency-groups"]
    found = [each for each in groups["dev"] if each.startswith(f"{name}==")]
    if len(found) != 1:
        raise LocalError(f"pyproject.toml must pin {name} once, in the dev group")
    pinned: str = found[0]
    return pinned
