"""Fields are added by the model and a migration alone, beside skills that were there before."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from tests.contract.one_marketplace import Seen, Task, carry_out
from tests.contract.postgres import PostgresServer

ROOT: Final = Path(__file__).resolve().parents[2]

LAST_OF_SUMMARY: Final = (
    "    installs: Annotated[int, Mark.KEPT] = 0  # as installers report them, in all\n"
)
ADDED_TO_SUMMARY: Final = """\
    homepage: Annotated[str, AtMost(20)] = ""
    topics: Annotated[tuple[str, ...], AtMost(2, each=3)] = ()
    rating: Annotated[float, Mark.KEPT] = 0.0
    reviewed_at: Annotated[str | None, Mark.MOMENT] = None
"""
LAST_OF_SKILL: Final = "    acts: Annotated[Acts, Mark.DERIVED, Mark.INTERNAL] = ()\n"
ADDED_TO_SKILL: Final = "    reviews: Annotated[int, AtMost(1000)] = 0\n"
MIGRATION: Final = """
alter table skill
    add column homepage text not null default '',
    add column topics text[] not null default '{}',
    add column rating double precision not null default 0,
    add column reviewed_at moment,
    add column reviews integer not null default 0;
"""
GIVEN: Final = {
    "homepage": "https://a.example/\0" + "x" * 99,
    "topics": ["abcd", "e", "f"],
    "rating": 4.5,
    "reviewed_at": "2026-02-01T01:00:00+01:00",
    "reviews": 5000,
}
NEWER: Final = {
    "homepage": "https://a.example/\N{REPLACEMENT CHARACTER}x",
    "topics": ["abc", "e"],
    "rating": 4.5,
    "reviewedAt": "2026-02-01T00:00:00.000Z",
}
OLDER: Final = {"homepage": "", "topics": [], "rating": 0.0, "reviewedAt": None}


async def test_fields_need_the_model_and_a_migration_alone(
    postgres_server: PostgresServer, database: str, tmp_path: Path
) -> None:
    options = postgres_server.options(database)
    before = await carry_out(Task(options=options, record=_record("older")))

    code = _code_with_more_fields(tmp_path)
    postgres_server.run_script(database, MIGRATION)
    record = _record("newer") | GIVEN
    after = _carried_out_by(code, Task(options=options, record=record, kv=before.kv))

    was = before.listed["older"]
    for listed in (after.listed, after.listed_from_kv):
        assert listed["older"] == was | OLDER
        assert listed["newer"] == {field: listed["newer"][field] for field in was} | NEWER
    assert after.pages["older"] == before.pages["older"] | OLDER | {"reviews": 0}
    assert after.pages["newer"] == after.pages["newer"] | NEWER | {"reviews": 1000}
    kept, summary = (json.loads(text) for text in after.kv["skill:newer"])
    assert kept == kept | NEWER | {"reviews": 1000}
    assert summary[-4:] == list(NEWER.values())
    schemas = after.openapi["components"]["schemas"]
    assert schemas["SummaryDocument"]["required"] == list(after.listed["newer"])
    assert set(schemas["SkillDocument"]["properties"]) == set(after.pages["newer"])

    # What was there before is as it was, and no state of it counts as another one.
    assert after.kv["skill:older"] == before.kv["skill:older"]
    assert after.revisions_of_rows == after.revisions_of_records == after.revisions_of_summaries
    assert after.revisions_of_rows["older"] == before.revisions_of_rows["older"]
    assert after.differences == 0


def _record(name: str) -> dict[str, object]:
    return {"name": name, "repoUrl": f"https://github.com/acme/{name}"}


def _code_with_more_fields(folder: Path) -> Path:
    code = folder / "src"
    shutil.copytree(ROOT / "src", code, ignore=shutil.ignore_patterns("__pycache__"))
    model = code / "marketplace" / "skills" / "skill.py"
    text = model.read_text()
    for last, added in ((LAST_OF_SUMMARY, ADDED_TO_SUMMARY), (LAST_OF_SKILL, ADDED_TO_SKILL)):
        assert text.count(last) == 1
        text = text.replace(last, last + added)
    model.write_text(text)
    return code


def _carried_out_by(code: Path, task: Task) -> Seen:
    """What this code sees, in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.contract.one_marketplace"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{code}{os.pathsep}{ROOT}"},
        input=msgspec.json.encode(task),
        stdout=subprocess.PIPE,
        check=True,
    )
    seen = msgspec.json.decode(process.stdout, type=Seen)
    assert Path(seen.code).is_relative_to(code)
    return seen
