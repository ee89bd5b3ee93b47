"""The order of the house: which wing of ``src/marketplace`` may import which, and no circles.

Every import counts, those within functions and those for types alone too.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).parents[2] / "src"

ORDER: Final = (
    {"basics"},
    {"skills"},
    {"ports"},
    {"kv", "postgres"},
    {"catalog", "operations"},
    {"content"},
    {"publishing", "health"},
    {"installs"},
    {"repair"},
    {"web", "worker"},
    {"entry"},
)
"""A wing imports from wings further up, and never from the one beside it."""

KNOW_PGWIRE: Final = {"pgwire", "postgres", "worker"}
KNOW_POSTGRES: Final = {"postgres", "worker"}

Tree = Mapping[str, Path]
"""The files below a folder by module name; a package's name stands for its ``__init__.py``."""


def violations(source: Path) -> list[str]:
    """What is against the order in the files below ``source``, one sentence each."""
    tree = _modules(source)
    imports = {(name, other) for name, path in tree.items() for other in _imports(tree, name, path)}
    found = [f"{name} is in the root of marketplace" for name in _in_root(source)]
    for name, other in sorted(imports):
        reason = _reason_against(_room(name), _room(other))
        if reason:
            found.append(f"{name} imports {other}: {reason}")
    return [*found, *_circles(imports)]


def _modules(source: Path) -> Tree:
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    return names


def _imports(tree: Tree, name: str, path: Path) -> Iterator[str]:
    """The modules of the tree that a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*(start if node.level else []), *filter(None, [node.module])])
            wanted = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in wanted:
            known = _longest_known(tree, module)
            if known not in (None, name):
                yield str(known)


def _longest_known(tree: Tree, name: str) -> str | None:
    """The module of a dotted name, whose last parts may name what is in it."""
    while name and name not in tree:
        name = name.rpartition(".")[0]
    return name or None


def _in_root(source: Path) -> list[str]:
    root = source / "marketplace"
    return sorted(p.name for p in root.iterdir() if p.is_file() and p.name != "__init__.py")


def _room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "marketplace" and len(parts) > 1 else parts[0]


def _reason_against(room: str, other: str) -> str | None:
    """Why a room must not import another; None where it may."""
    if room == other:
        return None
    if other == "pgwire":
        return None if room in KNOW_PGWIRE else "only postgres and worker know pgwire"
    if room == "pgwire":
        return "pgwire knows no skills"
    levels = {name: level for level, names in enumerate(ORDER) for name in names}
    unknown = [name for name in (room, other) if name not in levels]
    if unknown:
        return f"{unknown[0]} has no place in the order"
    if levels[other] >= levels[room]:
        return "against the order"
    if other == "postgres" and room not in KNOW_POSTGRES:
        return "only worker imports postgres"
    return None


def _circles(imports: set[tuple[str, str]]) -> Iterator[str]:
    """A circle among what lies in one folder, folders taken as a whole.

    Without one in any folder there is none among files or packages either.
    """
    folders: dict[str, dict[str, set[str]]] = {}
    for name, other in imports:
        ours, theirs = [*name.split("."), "__init__"], [*other.split("."), "__init__"]
        same = 0
        while ours[same] == theirs[same]:
            same += 1
        graph = folders.setdefault(".".join(ours[:same]), {})
        graph.setdefault(ours[same], set()).add(theirs[same])
    for folder, graph in sorted(folders.items()):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            yield f"a circle in {folder or 'src'}: {' → '.join(reversed(error.args[1]))}"


def test_the_house_is_in_order() -> None:
    assert violations(SOURCE) == []


def test_every_wing_is_looked_at() -> None:
    wings = {path.parent.name for path in (SOURCE / "marketplace").glob("*/__init__.py")}
    assert wings | {"entry"} == set().union(*ORDER)


CLEAN: Final = {
    "entry.py": "from marketplace.web.app import app\nfrom marketplace.worker import bindings",
    "pgwire/__init__.py": "from pgwire.connection import Connection",
    "pgwire/connection.py": "",
    "marketplace/__init__.py": "",
    "marketplace/basics/__init__.py": "",
    "marketplace/basics/logs.py": "import json",
    "marketplace/skills/__init__.py": "",
    "marketplace/skills/skill.py": "from marketplace.basics import logs",
    "marketplace/kv/__init__.py": "",
    "marketplace/kv/keys.py": "from marketplace.skills.skill import Skill",
    "marketplace/kv/index/__init__.py": "from marketplace.kv.index.reading import read_index",
    "marketplace/kv/index/reading.py": "from marketplace.kv.keys import INDEX_KEY",
    "marketplace/postgres/__init__.py": "",
    "marketplace/postgres/db.py": "import pgwire",
    "marketplace/catalog/__init__.py": "",
    "marketplace/catalog/lookup.py": "from marketplace.kv.index import read_index",
    "marketplace/web/__init__.py": "",
    "marketplace/web/app.py": "from marketplace.web.api import skills",
    "marketplace/web/answers.py": "",
    "marketplace/web/api/__init__.py": "",
    "marketplace/web/api/skills.py": "from marketplace.web.answers import private",
    "marketplace/worker/__init__.py": "",
    "marketplace/worker/bindings.py": "import pgwire\nfrom marketplace.postgres import db",
}


def _violations_of(folder: Path, **changed: str) -> list[str]:
    """The violations of the clean tree with some files added or replaced (``__`` for a slash)."""
    files = CLEAN | {f"{name.replace('__', '/')}.py": text for name, text in changed.items()}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return violations(folder)


def test_a_house_in_order_has_no_violation(tmp_path: Path) -> None:
    assert _violations_of(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from marketplace.kv.keys import INDEX_KEY",
        "from marketplace.kv import keys",
        "import marketplace.kv.keys",
        "from ..kv.keys import INDEX_KEY",
        "def late():\n    from marketplace.kv import keys",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from marketplace.kv import keys",
    ],
)
def test_an_import_against_the_order_is_found(statement: str, tmp_path: Path) -> None:
    found = _violations_of(tmp_path, marketplace__skills__slugs=statement)
    assert "marketplace.skills.slugs imports marketplace.kv.keys: against the order" in found


@pytest.mark.parametrize(
    ("name", "statement", "reason"),
    [
        ("marketplace__kv__records", "from marketplace.postgres import db", "against the order"),
        ("marketplace__web__auth", "from marketplace.worker import bindings", "against the order"),
        ("marketplace__catalog__db", "import pgwire", "only postgres and worker know pgwire"),
        ("marketplace__web__db", "import marketplace.postgres.db", "only worker imports postgres"),
        ("pgwire__skills", "from marketplace.basics import logs", "pgwire knows no skills"),
        ("marketplace__shed__tools", "from marketplace.basics import logs", "shed has no place"),
        ("marketplace__basics__start", "import entry", "against the order"),
    ],
)
def test_an_import_that_a_wing_may_not_make_is_found(
    name: str, statement: str, reason: str, tmp_path: Path
) -> None:
    found = _violations_of(tmp_path, **{name: statement})[0]
    assert found.startswith(f"{name.replace('__', '.')} imports "), found
    assert reason in found


def test_a_circle_of_two_files_is_found(tmp_path: Path) -> None:
    (found,) = _violations_of(
        tmp_path,
        marketplace__kv__one="from marketplace.kv import two",
        marketplace__kv__two="def late():\n    from marketplace.kv import one",
    )
    assert found.startswith("a circle in marketplace.kv: ")
    assert {"one", "two"} <= set(found.split())


def test_a_circle_through_a_package_is_found(tmp_path: Path) -> None:
    """No two of the files import each other, but the folder and the file do."""
    (found,) = _violations_of(
        tmp_path,
        marketplace__kv__outbox="from marketplace.kv.index import reading",
        marketplace__kv__index__writing="from marketplace.kv import outbox",
    )
    assert found.startswith("a circle in marketplace.kv: ")
    assert {"index", "outbox"} <= set(found.split())


def test_a_circle_with_a_package_s_face_is_found(tmp_path: Path) -> None:
    (found,) = _violations_of(
        tmp_path, marketplace__kv__index__reading="from marketplace.kv.index import read_index"
    )
    assert found.startswith("a circle in marketplace.kv.index: ")


def test_a_file_in_the_root_is_found(tmp_path: Path) -> None:
    found = _violations_of(tmp_path, marketplace__helpers="")
    assert found == ["helpers.py is in the root of marketplace"]
