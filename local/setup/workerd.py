"""The program that is started as workerd: the real one, told where our runtime bundle is."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path

from local.paths import BUNDLE_CACHE, NODE_MODULES
from local.setup.packages import platform_package
from local.setup.runtime_bundle import ensure_bundle


def workerd_program() -> Path:
    """workerd as npm installed it."""
    return platform_package("@cloudflare", "workerd-*") / "bin" / "workerd"


def ensure_workerd_wrapper() -> Path:
    """A script for MINIFLARE_WORKERD_PATH, made beside the runtime bundle if it is not there."""
    workerd = workerd_program()
    bundle = ensure_bundle(NODE_MODULES / "pyodide", workerd, BUNDLE_CACHE)
    wrapper = bundle / "workerd"
    option = f"--pyodide-bundle-disk-cache-dir={bundle}"
    text = f'#!/bin/sh\nexec {shlex.quote(str(workerd))} "$@" {shlex.quote(option)}\n'
    if not wrapper.exists() or wrapper.read_text() != text:
        descriptor, name = tempfile.mkstemp(dir=bundle)
        with os.fdopen(descriptor, "w") as file:  # closed before it runs: no program may be busy
            file.write(text)
        aside = Path(name)
        aside.chmod(0o755)
        aside.replace(wrapper)
    return wrapper
