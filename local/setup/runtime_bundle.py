"""Builds the Python runtime that workerd loads, from npm's pyodide package.

workerd does not contain Python. At start-up it downloads a bundle made from Pyodide, which a closed
network cannot do. With the `python_workers_development` flag it reads `pyodide_dev.capnp.bin` from
a folder instead; this module makes that file. docs/local-runtime.md tells the whole story.

The bundle is one Cap'n Proto message holding Pyodide's JavaScript, its WebAssembly and its standard
library. The JavaScript must not compile code or read clocks by itself inside workerd, so those uses
are rerouted to workerd's own functions. Every replacement states how often it must match: with
another Pyodide, the builder refuses rather than produce a runtime that is subtly wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import capnp  # type: ignore[import-untyped]

from local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Sequence

BUNDLE_FILE_NAME = "pyodide_dev.capnp.bin"
SCHEMA_FILE = Path(__file__).with_name("pyodide_bundle.capnp")

_DEVELOPMENT_RELEASE = re.compile(rb"pythonWorkersDevPyodide\x00+(\d+\.\d+\.\d+[0-9a-z.]*)\x00")
"""In the workerd binary: the name of the development release, then the Pyodide version it wants."""


@dataclass(frozen=True)
class Replacement:
    """A literal text that must occur exactly `count` times, and what takes its place."""

    old: str
    new: str
    count: int

    def apply(self, source: str) -> str:
        """Returns `source` with every occurrence replaced; LocalError if the count differs."""
        found = source.count(self.old)
        if found != self.count:
            raise LocalError(
                f"cannot build the runtime bundle: {self.old!r} occurs {found} times in Pyodide's "
                f"JavaScript instead of {self.count}. The recipe in local/setup/runtime_bundle.py "
                "was written for another Pyodide; restore the locked version or revise the recipe."
            )
        return source.replace(self.old, self.new)


PRELUDE = """\
import {
  addEventListener,
  getRandomValues,
  location,
  monotonicDateNow,
  newWasmModule,
  patchedLoadLibData,
  wasmInstantiate,
} from "pyodide-internal:builtin_wrappers";
function refuseEval() {
  throw new Error("JavaScript source cannot be evaluated in the Workers runtime");
}
"""

REPLACEMENTS: tuple[Replacement, ...] = (
    # Compiling WebAssembly: workerd lets only its own wrappers do it, and checks their callers.
    Replacement("new WebAssembly.Module(", "newWasmModule(", 4),
    Replacement("WebAssembly.instantiate(", "wasmInstantiate(", 2),
    # A clock that always advances: Python's import system tells changed folders by their time.
    Replacement("Date.now", "monotonicDateNow", 22),
    # Entropy: forbidden while a snapshot is taken, so workerd decides when it is real.
    Replacement("=>crypto.getRandomValues(view)", "=>getRandomValues(Module,view)", 1),
    # Evaluating source text is forbidden; say so by name instead of failing obscurely.
    Replacement("=eval(func)", "=refuseEval(func)", 2),
    Replacement("eval(UTF8ToString(ptr))", "refuseEval(UTF8ToString(ptr))", 3),
    Replacement(";eval(data);", ";refuseEval(data);", 1),
    # Dynamic libraries come from the Worker's read-only files.
    Replacement(
        "return loadLibData().then(",
        "return Promise.resolve(patchedLoadLibData(Module,libName,flags.rpath)).then(",
        1,
    ),
    Replacement(
        "loadWebAssemblyModule(loadLibData(),",
        "loadWebAssemblyModule(patchedLoadLibData(Module,libName,flags.rpath),",
        1,
    ),
    # ... and get their memory where workerd's snapshot expects it.
    Replacement(
        "alignMemory(getMemory(metadata",
        "alignMemory(Module.getMemoryPatched(Module,libName,metadata",
        1,
    ),
    # workerd imports the factory by name.
    Replacement(
        "export default _createPyodideModule;",
        "export { _createPyodideModule };\nexport default _createPyodideModule;",
        1,
    ),
)


def adapt_javascript(source: str, replacements: Sequence[Replacement] = REPLACEMENTS) -> str:
    """Pyodide's `pyodide.asm.mjs`, rerouted to what workerd allows."""
    for replacement in replacements:
        source = replacement.apply(source)
    return PRELUDE + source


def expected_pyodide_version(workerd: bytes) -> str:
    """The Pyodide version that this workerd program accepts in a development bundle."""
    found = {match[1].decode() for match in _DEVELOPMENT_RELEASE.finditer(workerd)}
    if len(found) != 1:
        raise LocalError(
            "cannot tell which Pyodide this workerd expects "
            f"(candidates: {', '.join(sorted(found)) or 'none'}). It is another workerd than the "
            "one in package-lock.json, or local/setup/runtime_bundle.py must learn its layout."
        )
    return found.pop()


def check_versions(pyodide_folder: Path, workerd: Path) -> None:
    """Raises LocalError unless the pyodide package is the version that workerd expects."""
    expected = expected_pyodide_version(workerd.read_bytes())
    actual: str = json.loads((pyodide_folder / "package.json").read_text())["version"]
    if actual != expected:
        raise LocalError(
            f"npm's pyodide is {actual}, but this workerd expects {expected}. "
            f'Set "pyodide": "{expected}" in package.json and run `make lock`.'
        )


def encode_bundle(javascript: bytes, wasm: bytes, standard_library: bytes) -> bytes:
    """The three runtime modules as one Cap'n Proto message."""
    schema = capnp.load(str(SCHEMA_FILE))
    bundle = schema.Bundle.new_message()
    parts = [
        ("pyodideRuntime-internal:pyodide.asm", "src", javascript),
        ("pyodideRuntime-internal:pyodide.asm.wasm", "wasm", wasm),
        ("pyodideRuntime-internal:python_stdlib.zip", "data", standard_library),
    ]
    modules = bundle.init("modules", len(parts))
    for module, (name, field, content) in zip(modules, parts, strict=True):
        module.name = name
        module.type = "internal"
        setattr(module, field, content)
    message: bytes = bundle.to_bytes()
    return message


def ensure_bundle(pyodide_folder: Path, workerd: Path, cache: Path) -> Path:
    """The folder holding `pyodide_dev.capnp.bin`, built now if the cache has none.

    The folder's name is a hash of everything the bundle depends on, so another Pyodide, workerd or
    recipe never meets an old bundle. A build cut off half-way leaves only a temporary file.
    """
    folder = cache / _cache_key(pyodide_folder, workerd)
    target = folder / BUNDLE_FILE_NAME
    if target.is_file():
        return folder
    check_versions(pyodide_folder, workerd)
    message = encode_bundle(
        adapt_javascript((pyodide_folder / "pyodide.asm.mjs").read_text("utf-8")).encode(),
        (pyodide_folder / "pyodide.asm.wasm").read_bytes(),
        (pyodide_folder / "python_stdlib.zip").read_bytes(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(message)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    for other in cache.iterdir():  # of earlier versions; workerd reads its bundle only as it starts
        if other != folder:
            shutil.rmtree(other)
    return folder


def _cache_key(pyodide_folder: Path, workerd: Path) -> str:
    """16 hex digits. The large files are told by size and time, not read at each start."""
    digest = hashlib.sha256()
    for source in (Path(__file__), SCHEMA_FILE, pyodide_folder / "package.json"):
        digest.update(source.read_bytes())
    for large in (
        workerd,
        *(pyodide_folder / n for n in ("pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")),
    ):
        facts = large.stat()
        digest.update(f"{large.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
