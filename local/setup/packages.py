"""Installs what the lock files name, beyond the virtual environment itself (local/bootstrap.py)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from local.errors import LocalError
from local.paths import (
    LOCAL_DIR,
    NODE,
    NODE_MODULES,
    NPM_LOCK,
    PYTHON_MODULES,
    REPOSITORY,
    STAMPS,
    WORKER_LOCK,
)
from local.setup.steps import Stamp, run_step

if TYPE_CHECKING:
    from local.setup.steps import Progress

# The Worker's interpreter: CPython 3.14 compiled to WebAssembly (PEP 783).
WORKER_PYTHON_VERSION = "3.14"
WORKER_ABI = "cp314"
WORKER_PLATFORM = "pyemscripten_2026_0_wasm32"


def ensure_packages(progress: Progress) -> None:
    """Makes node_modules and python_modules match their lock files; instant when they do."""
    node = Stamp(
        STAMPS / "node_modules",
        [REPOSITORY / "package.json", NPM_LOCK, REPOSITORY / ".npmrc"],
        NODE_MODULES,
    )
    if not node.up_to_date():
        with progress.step("Installing the Workers runtime and its tools"), node.renewed():
            _install_node_modules()
    worker = Stamp(STAMPS / "python_modules", [WORKER_LOCK, Path(__file__)], PYTHON_MODULES)
    if not worker.up_to_date():
        with progress.step("Installing the Worker's Python packages"), worker.renewed():
            _install_python_modules()


def node_environment() -> dict[str, str]:
    """This process's environment with the virtual environment's Node first on PATH."""
    return {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def platform_package(scope: str, name: str) -> Path:
    """The folder of a package that npm installs per platform, such as @dbmate/linux-x64."""
    folders = sorted((NODE_MODULES / scope).glob(name))
    if len(folders) != 1:
        raise LocalError(
            f"npm installed {len(folders)} packages {scope}/{name} instead of one. "
            "This platform may not be supported; otherwise run `make clean` and try again."
        )
    return folders[0]


def _install_node_modules() -> None:
    # `npm ci` refuses a lock file that lacks the optional packages of other platforms, which some
    # registries do not carry. `install --no-save` takes the locked versions and hashes just the
    # same and leaves the lock file alone. Starting from nothing keeps it reproducible.
    shutil.rmtree(NODE_MODULES, ignore_errors=True)
    run_step(
        [NODE.with_name("npm"), "install", "--no-save", "--no-progress"],
        what="npm install",
        env=node_environment(),
        cwd=REPOSITORY,
    )


def _install_python_modules() -> None:
    LOCAL_DIR.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=LOCAL_DIR) as folder:
        aside = Path(folder) / "python_modules"
        command = [
            sys.executable,
            *("-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "--no-deps"),
            *("--require-hashes", "-r", str(WORKER_LOCK)),
            *("--target", str(aside), "--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", WORKER_PYTHON_VERSION, "--abi", WORKER_ABI),
            *("--platform", WORKER_PLATFORM),
        ]
        run_step(command, what="pip install (the Worker's packages)")
        shutil.rmtree(aside / "bin", ignore_errors=True)  # command-line tools have no use there
        shutil.rmtree(PYTHON_MODULES, ignore_errors=True)
        aside.rename(PYTHON_MODULES)
