"""The builder of the runtime bundle refuses what its recipe was not made for."""

import json
from pathlib import Path

import capnp  # type: ignore[import-untyped]
import pytest

from local.errors import LocalError
from local.paths import NODE_MODULES
from local.setup.runtime_bundle import (
    BUNDLE_FILE_NAME,
    REPLACEMENTS,
    SCHEMA_FILE,
    Replacement,
    adapt_javascript,
    check_versions,
    encode_bundle,
    ensure_bundle,
    expected_pyodide_version,
)
from local.setup.workerd import workerd_program

PYODIDE = NODE_MODULES / "pyodide"
WORKERD_314 = b"\0pythonWorkersDevPyodide\x00314.0.6\x00sha256-x\0"


def _package(folder: Path, version: str) -> Path:
    package = folder / "pyodide"
    package.mkdir()
    (package / "package.json").write_text(json.dumps({"version": version}))
    return package


def _workerd(folder: Path, content: bytes = WORKERD_314) -> Path:
    program = folder / "workerd"
    program.write_bytes(content)
    return program


def test_installed_versions_fit() -> None:
    check_versions(PYODIDE, workerd_program())


def test_another_pyodide_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"pyodide is 314\.0\.7.*expects 314\.0\.6"):
        check_versions(_package(tmp_path, "314.0.7"), _workerd(tmp_path))


def test_a_workerd_of_unknown_layout_is_refused() -> None:
    with pytest.raises(LocalError, match="candidates: none"):
        expected_pyodide_version(b"no such name in here")


def test_two_candidates_are_refused() -> None:
    two = WORKERD_314 + WORKERD_314.replace(b"314.0.6", b"315.0.0")
    with pytest.raises(LocalError, match=r"314\.0\.6, 315\.0\.0"):
        expected_pyodide_version(two)


@pytest.mark.parametrize("source", ["", "old old old"])
def test_a_replacement_that_matches_another_number_of_times_is_refused(source: str) -> None:
    with pytest.raises(LocalError, match=f"occurs {source.count('old')} times"):
        adapt_javascript(source, [Replacement("old", "new", 2)])


@pytest.mark.parametrize("replacement", REPLACEMENTS, ids=lambda each: each.old)
def test_every_replacement_is_needed_and_complete(replacement: Replacement) -> None:
    source = (PYODIDE / "pyodide.asm.mjs").read_text("utf-8")
    assert source.count(replacement.old) == replacement.count
    with pytest.raises(LocalError, match="occurs"):
        replacement.apply(source.replace(replacement.old, "", 1))


def test_nothing_that_workerd_forbids_is_left() -> None:
    adapted = adapt_javascript((PYODIDE / "pyodide.asm.mjs").read_text("utf-8"))
    for forbidden in ("new WebAssembly.Module(", "WebAssembly.instantiate(", "Date.now", "=eval("):
        assert forbidden not in adapted


def test_the_message_holds_three_internal_modules() -> None:
    message = encode_bundle(b"js", b"wasm", b"zip")
    schema = capnp.load(str(SCHEMA_FILE))
    with schema.Bundle.from_bytes(message) as bundle:
        read = [(m.name, m.which(), bytes(getattr(m, m.which())), m.type) for m in bundle.modules]
    assert read == [
        ("pyodideRuntime-internal:pyodide.asm", "src", b"js", "internal"),
        ("pyodideRuntime-internal:pyodide.asm.wasm", "wasm", b"wasm", "internal"),
        ("pyodideRuntime-internal:python_stdlib.zip", "data", b"zip", "internal"),
    ]


def test_a_bundle_is_built_once_and_older_ones_are_dropped(tmp_path: Path) -> None:
    workerd = _workerd(tmp_path)
    cache = tmp_path / "cache"
    first = ensure_bundle(PYODIDE, workerd, cache)
    built = (first / BUNDLE_FILE_NAME).stat().st_mtime_ns
    assert ensure_bundle(PYODIDE, workerd, cache) == first
    assert (first / BUNDLE_FILE_NAME).stat().st_mtime_ns == built
    workerd.write_bytes(WORKERD_314 + b"another build")
    second = ensure_bundle(PYODIDE, workerd, cache)
    assert list(cache.iterdir()) == [second]
    assert second != first
