"""``python -m cli`` as an operator runs it, against the running Worker."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from local.host.control import KvEntry
from local.host.ports import free_port
from local.paths import REPOSITORY
from marketplace.basics.timestamps import format_timestamp
from tests.unit.scanner.repositories import MIT, commit, skill_md
from tests.worker.credentials import token
from tests.worker.marketplace import INTERNAL_KEY, JWT_SECRET, Marketplace
from tests.worker.publishing import eventually, listing, names, submit
from tests.worker.storage import (
    empty,
    everything_listed,
    keys,
    publish_only,
    query,
    rebuild,
    records,
    refusing_postgres,
    rows,
    without_postgres,
)

NAMES: Final = [f"Console {number:02}" for number in range(20)]
SLUGS: Final = {f"console-{number:02}" for number in range(20)}
SECONDS: Final = 60


def run(
    url: str, *arguments: str, key: str | None = INTERNAL_KEY, stdin: str | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run the tool with the key in its environment; nothing it prints may hold a secret."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"MARKETPLACE_URL": url, "COLUMNS": "300"} | variables
    if key is not None:
        environment["MARKETPLACE_KEY"] = key
    result = subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=REPOSITORY,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    output = result.stdout + result.stderr
    for secret in (INTERNAL_KEY, JWT_SECRET, key or INTERNAL_KEY, "eyJ"):
        assert secret not in output
    assert "Traceback" not in output
    return result


def answer(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What ``--json`` printed."""
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.fixture(scope="module")
def published(marketplace: Marketplace) -> Marketplace:
    return publish_only(marketplace, "console", NAMES)


@pytest.fixture
def whole(published: Marketplace, client: httpx.Client) -> Marketplace:
    """A marketplace without drift and without dead letters."""
    query(published, "truncate dead_letter")
    rebuild(client)
    return published


class TestHealth:
    def test_it_shows_the_counts_and_exits_with_0(self, whole: Marketplace) -> None:
        result = run(whole.url, "health")

        assert result.returncode == 0, result.stdout
        assert "Marketplace: ok" in result.stdout
        for source in ("prisma_count", "kv_enumerated_count", "kv_index_count"):
            assert re.search(rf"{source}\W+20\b", result.stdout)
        assert re.search(r"seed_count\W+118\b", result.stdout)
        assert re.search(r"dead letters\W+0\b", result.stdout)
        assert re.search(r"last repair\W+ok yes", result.stdout)

    def test_it_names_drift_and_its_repair_and_exits_with_1(self, whole: Marketplace) -> None:
        query(whole, "delete from skill where name < 'console-05'")

        result = run(whole.url, "health")

        assert result.returncode == 1
        assert "Marketplace: drift" in result.stdout
        assert "postgres has 15 skills, kv has 20: 5 differ." in result.stdout
        assert "POST /api/v1/admin/rebuild-index" in result.stdout
        assert answer(run(whole.url, "health", "--json"))["drift_detected"] is True

    @pytest.mark.parametrize("trouble", [without_postgres, refusing_postgres])
    def test_it_shows_a_source_that_cannot_be_read_and_exits_with_1(
        self, whole: Marketplace, trouble: Callable[[Marketplace], AbstractContextManager[None]]
    ) -> None:
        with trouble(whole):
            result = run(whole.url, "health")

        assert result.returncode == 1
        assert "Marketplace: failing" in result.stdout
        assert re.search(r"postgres\W+unreachable", result.stdout)
        assert re.search(r"prisma_count\)\W+unreadable", result.stdout)
        assert "Hyperdrive" in result.stdout

    def test_it_shows_since_when_a_submission_waits(
        self, whole: Marketplace, client: httpx.Client
    ) -> None:
        submission_id = submit(client, "console-waiting", "Waiting here")["id"]
        scanned_at = format_timestamp(datetime.now(UTC))
        whole.worker.control.kv_put([KvEntry(f"pending:{scanned_at}:{submission_id}", "")])

        result = run(whole.url, "health")

        whole.worker.control.kv_delete(keys(whole, "pending:"))
        assert result.returncode == 0, result.stdout
        waiting = f"id {submission_id}, scanned_at {scanned_at}"
        assert re.search(rf"oldest pending submission\W+{waiting}", result.stdout)


class TestRebuild:
    def test_a_dry_run_tells_and_changes_nothing(self, whole: Marketplace) -> None:
        query(whole, "delete from skill where name < 'console-03'")

        result = run(whole.url, "rebuild", "--dry-run")

        assert result.returncode == 0, result.stderr
        assert "dry run: nothing was changed" in result.stdout
        assert re.search(r"written to PostgreSQL\W+3\b", result.stdout)
        assert len(rows(whole)) == 17

    def test_it_repairs_both_ways(self, whole: Marketplace, client: httpx.Client) -> None:
        query(whole, "delete from skill where name < 'console-03'")
        whole.worker.control.kv_delete(["skill:console-10", "skill:console-11"])

        result = run(whole.url, "rebuild", "--wait")

        assert result.returncode == 0, result.stderr
        assert "Rebuild complete" in result.stdout
        assert re.search(r"written to PostgreSQL\W+3\b", result.stdout)
        assert re.search(r"written to KV\W+2\b", result.stdout)
        assert rows(whole) == records(whole) == SLUGS
        assert names(everything_listed(client)) >= SLUGS

    def test_it_can_be_left_and_followed_later(self, whole: Marketplace) -> None:
        begun = run(whole.url, "rebuild", "--no-wait", "--json")
        assert begun.returncode == 0, begun.stderr
        job = answer(begun)["jobId"]
        assert f"rebuild --job {job}" in begun.stderr

        followed = run(whole.url, "rebuild", "--job", job, "--json")

        assert followed.returncode == 0, followed.stderr
        assert (answer(followed)["jobId"], answer(followed)["complete"]) == (job, True)

    def test_a_broken_record_is_named_and_exits_with_1(self, whole: Marketplace) -> None:
        whole.worker.control.kv_put([KvEntry("skill:console-broken", "{")])

        result = run(whole.url, "rebuild")

        whole.worker.control.kv_delete(["skill:console-broken"])
        assert result.returncode == 1
        assert "Rebuild complete, with errors" in result.stdout
        assert "skill:console-broken" in result.stdout

    def test_a_record_put_back_by_hand_gets_its_metadata_again(self, whole: Marketplace) -> None:
        control = whole.worker.control
        entry = control.kv_get("skill:console-07")
        assert entry is not None
        control.kv_put([KvEntry(entry.key, entry.value)])

        result = run(whole.url, "rebuild")

        assert result.returncode == 0, result.stdout
        assert re.search(r"metadata in KV restored\W+1\b", result.stdout)
        restored = control.kv_get("skill:console-07")
        assert restored is not None
        assert restored.metadata == entry.metadata

    def test_without_postgres_it_says_so_and_exits_with_1(self, whole: Marketplace) -> None:
        with without_postgres(whole):
            result = run(whole.url, "rebuild")

        assert result.returncode == 1
        assert "with errors" in result.stdout
        assert "unavailable" in result.stdout

    def test_an_unknown_job_is_a_sentence(self, whole: Marketplace) -> None:
        result = run(whole.url, "rebuild", "--job", "no-such-job")

        assert result.returncode == 1
        assert "There is no rebuild 'no-such-job'." in result.stderr


class TestDeadLetters:
    @pytest.fixture
    def letters(self, whole: Marketplace) -> dict[str, str]:
        """Three letters; their ids by the submission that they name."""
        whole.worker.control.send(
            *({"submissionId": name} for name in ("gone-1", "gone-2", "gone-3"))
        )
        sql = "select body->>'submissionId', id from dead_letter"
        found = eventually(lambda: query(whole, sql), lambda letters: len(letters) == 3)
        return {str(name): str(id_) for name, id_ in found}

    def test_none(self, whole: Marketplace) -> None:
        result = run(whole.url, "dead-letters")

        assert (result.returncode, result.stdout) == (0, "No dead letters.\n")

    def test_they_are_listed_with_reason_and_detail(
        self, whole: Marketplace, letters: dict[str, str]
    ) -> None:
        result = run(whole.url, "dead-letters")

        assert result.returncode == 0
        for name, id_ in letters.items():
            assert re.search(rf"{id_}\W+{name}\W+not-scanned\W+there is no", result.stdout)
        filtered = run(whole.url, "dead-letters", "--reason", "other-path")
        assert filtered.stdout == "No dead letters.\n"
        page = run(whole.url, "dead-letters", "--limit", "2", "--json")
        assert len(answer(page)["deadLetters"]) == 2
        assert f"--cursor {answer(page)['nextCursor']}" in page.stderr
        rest = run(whole.url, "dead-letters", "--cursor", answer(page)["nextCursor"], "--json")
        assert len(answer(rest)["deadLetters"]) == 1

    def test_one_some_and_all_are_redriven(
        self, whole: Marketplace, letters: dict[str, str]
    ) -> None:
        first, second, _ = letters.values()

        one = run(whole.url, "redrive", first)
        assert one.returncode == 0, one.stdout
        assert re.search(rf"{first}\W+redriven", one.stdout)
        some = run(whole.url, "redrive", second, "nobody", "--json")
        assert some.returncode == 1
        outcomes = {each["id"]: each["outcome"] for each in answer(some)["results"]}
        assert outcomes == {second: "redriven", "nobody": "unknown"}
        everything = run(whole.url, "redrive", "--all")
        assert "Remaining: " in everything.stdout
        none_of_this = run(whole.url, "redrive", "--all", "--reason", "other-path")
        assert (none_of_this.returncode, "Remaining: 0" in none_of_this.stdout) == (0, True)

    def test_what_to_redrive_must_be_said(self, whole: Marketplace) -> None:
        assert run(whole.url, "redrive").returncode == 2


class TestActs:
    def test_a_skill_is_blocked_shown_and_restored(
        self, whole: Marketplace, client: httpx.Client
    ) -> None:
        blocked = run(
            whole.url,
            *("block", "console-01", "--threat-type", "exfiltration", "--severity", "critical"),
            *("--evidence", "https://a.example/report", "--reason", "It steals keys."),
        )

        assert blocked.returncode == 0, blocked.stdout + blocked.stderr
        assert "console-01: BLOCKED" in blocked.stdout
        assert blocked.stdout.count("yes") == 3
        undo = re.search(r"restore console-01 (\w+) --reason", blocked.stdout)
        assert undo is not None
        assert client.get("/api/v1/skills/console-01").status_code == 410
        assert "console-01" not in names(everything_listed(client))
        entries = client.get("/api/v1/blocklist").json()["entries"]
        assert [entry["skillName"] for entry in entries] == ["console-01"]

        shown = run(whole.url, "show", "console-01")
        assert shown.returncode == 0, shown.stdout
        assert "console-01: BLOCKED" in shown.stdout
        assert "The copies agree." in shown.stdout
        assert re.search(rf"{undo[1]}\W+BLOCK\W.*It steals keys\.\W+yes", shown.stdout)
        assert "PUBLISHED" in shown.stdout

        unnamed = run(whole.url, "restore", "console-01")
        assert unnamed.returncode == 2
        assert undo[1] in unnamed.stdout
        restored = run(whole.url, "restore", "console-01", undo[1], "--reason", "It is harmless.")
        assert restored.returncode == 0, restored.stdout + restored.stderr
        assert "console-01: LISTED" in restored.stdout
        assert client.get("/api/v1/skills/console-01").status_code == 200
        again = run(whole.url, "restore", "console-01", undo[1], "--reason", "It is harmless.")
        assert again.returncode == 1
        assert f"already lifted: {undo[1]}" in again.stderr
        audit = answer(run(whole.url, "audit", "--target", "console-01", "--json"))["entries"]
        assert [entry["action"] for entry in audit] == ["restore-skill", "block-skill"]

    def test_a_skill_is_corrected_and_withdrawn(
        self, whole: Marketplace, client: httpx.Client
    ) -> None:
        corrected = run(
            whole.url,
            *("correct", "console-02", "--category", "documents", "--label", "pdf"),
            *("--label", "forms", "--tier", "verified", "--reason", "Somebody has read it."),
        )
        assert corrected.returncode == 0, corrected.stdout + corrected.stderr
        skill = client.get("/api/v1/skills/console-02").json()
        assert (skill["category"], skill["labels"]) == ("documents", ["pdf", "forms"])
        assert skill["certTier"] == "VERIFIED"

        withdrawn = run(whole.url, "withdraw", "console-02", "--reason", "Its author asked.")
        assert withdrawn.returncode == 0, withdrawn.stdout + withdrawn.stderr
        assert "console-02: WITHDRAWN" in withdrawn.stdout
        told = client.get("/api/v1/skills/console-02").json()
        assert (told["status"], told["withheld"]["reason"]) == (410, "Its author asked.")

    def test_the_owner_of_a_repository_is_accepted(self, whole: Marketplace) -> None:
        result = run(
            whole.url, "accept-owner", "console-03", "--owner-id", "7", "--reason", "Wrote to us."
        )
        assert result.returncode == 0, result.stdout + result.stderr
        shown = answer(run(whole.url, "show", "console-03", "--json"))
        (act,) = shown["acts"]
        assert (act["kind"], act["ownerId"], act["liftedBy"]) == ("ACCEPT_OWNER", "7", None)

    def test_without_postgres_the_act_counts_and_a_finding_is_told(
        self, whole: Marketplace, client: httpx.Client
    ) -> None:
        with without_postgres(whole):
            result = run(whole.url, "withdraw", "console-04", "--reason", "Its author asked.")
            assert client.get("/api/v1/skills/console-04").status_code == 410
            shown = run(whole.url, "show", "console-04")
        assert result.returncode == 1
        assert "console-04: WITHDRAWN" in result.stdout
        assert re.search(r"PostgreSQL\W+not yet", result.stdout)
        assert shown.returncode == 1
        assert "Not everything could be read" in shown.stdout

        assert whole.worker.control.fire_scheduled("*/5 * * * *") == "ok"

        assert client.get("/api/v1/skills/console-04").status_code == 410
        assert run(whole.url, "show", "console-04").returncode == 0

    def test_an_unknown_skill_is_a_sentence(self, whole: Marketplace) -> None:
        result = run(whole.url, "withdraw", "nobody", "--reason", "So.")

        assert result.returncode == 1
        assert "There is no skill 'nobody'." in result.stderr


class TestPublish:
    def test_skills_of_a_file_are_submitted_and_with_scan_pass_listed(
        self, whole: Marketplace, client: httpx.Client, tmp_path: Path
    ) -> None:
        file = tmp_path / "skills.json"
        submissions = [
            {"repoUrl": "https://github.com/console-file/tools", "skillName": f"From file {n}"}
            for n in range(3)
        ]
        file.write_text(json.dumps(submissions))

        first = run(whole.url, "publish", str(file), key=None)
        assert first.returncode == 0, first.stderr
        assert first.stdout.count("submitted") == 3
        second = run(whole.url, "publish", str(file), "--scan-pass", "--score", "77")
        assert second.returncode == 0, second.stderr
        assert second.stdout.count("passed") == 3

        found = eventually(
            lambda: listing(client, author="console-file"), lambda page: page["total"] == 3
        )
        assert {skill["certScore"] for skill in found["skills"]} == {77}
        again = run(whole.url, "publish", str(file), "--scan-pass")
        assert again.returncode == 0
        assert again.stdout.count("already-verified") == 3

    def test_a_bad_line_is_named_and_the_others_are_taken(self, whole: Marketplace) -> None:
        lines = (
            '{"repoUrl": "https://github.com/console-lines/tools", "skillName": "Good"}\n'
            '{"repoUrl": "https://github.com/console-lines/tools", "skillName": "???"}\n'
            "no json\n"
        )

        result = run(whole.url, "publish", "-", stdin=lines)

        assert result.returncode == 1
        assert re.search(r"1\W+Good\W+submitted", result.stdout)
        assert "skillName" in result.stdout
        assert "not JSON" in result.stdout


class TestGettingAnAnswerAtAll:
    def test_an_address_where_nobody_listens(self) -> None:
        port = free_port()

        result = run(f"http://127.0.0.1:{port}", "health")

        assert (result.returncode, result.stdout) == (2, "")
        assert f"http://127.0.0.1:{port} cannot be reached" in result.stderr

    def test_an_address_of_something_else(self, marketplace: Marketplace) -> None:
        result = run(f"{marketplace.url}/elsewhere", "health")

        assert result.returncode == 2
        assert "is this a marketplace?" in result.stderr

    @pytest.mark.parametrize("arguments", [["health"], ["rebuild"], ["redrive", "--all"]])
    def test_a_wrong_key(self, marketplace: Marketplace, arguments: list[str]) -> None:
        result = run(marketplace.url, *arguments, key="a-wrong-key-that-nobody-may-see-either")

        assert result.returncode == 2
        assert "Unauthorized (401)" in result.stderr

    def test_no_key(self, marketplace: Marketplace) -> None:
        result = run(marketplace.url, "health", key=None)

        assert result.returncode == 2
        assert "MARKETPLACE_KEY" in result.stderr

    def test_a_key_as_option_is_not_printed(self, marketplace: Marketplace) -> None:
        assert run(marketplace.url, "--key", INTERNAL_KEY, "health", key=None).returncode in (0, 1)
        broken = run(f"{marketplace.url}/x", "--key", INTERNAL_KEY, "health", "--no-such", key=None)
        assert broken.returncode == 2

    def test_tokens(self, marketplace: Marketplace) -> None:
        right = token().removeprefix("Bearer ")
        lesser = token(role="VIEWER").removeprefix("Bearer ")

        accepted = run(marketplace.url, "dead-letters", key=None, MARKETPLACE_TOKEN=right)
        refused = run(marketplace.url, "dead-letters", key=None, MARKETPLACE_TOKEN=lesser)

        assert accepted.returncode == 0, accepted.stderr
        assert refused.returncode == 2
        assert "SUPER_ADMIN" in refused.stderr


class TestScan:
    def test_a_local_repository_is_scanned_and_published(
        self, marketplace: Marketplace, tmp_path: Path
    ) -> None:
        empty(marketplace)
        scanned = [f"scanned-{number:02}" for number in range(20)]
        files: dict[str, str | bytes] = {"LICENSE": MIT}
        files |= {f"skills/{name}/SKILL.md": skill_md(name) for name in scanned}
        head = commit(tmp_path, files)

        report = ["--report", "--repo-url", "https://github.com/scanned/skills"]
        told = answer(run(marketplace.url, "scan", str(tmp_path), *report, "--json"))

        assert told["error"] is None
        kept = [(one["outcome"], one.get("content")) for one in told["reported"]]
        assert kept == [("reported", None)] * 20
        with marketplace.client() as client:
            shown = eventually(
                lambda: listing(client, author="scanned"), lambda a: a["total"] == 20
            )
            skill = client.get("/api/v1/skills/scanned-07").json()
            text = client.get("/skills/scanned-07/SKILL.md", follow_redirects=True)
            for name in scanned:
                archive = client.get(f"/api/v1/skills/{name}/content", follow_redirects=True)
                with zipfile.ZipFile(io.BytesIO(archive.content)) as unpacked:
                    assert unpacked.read("SKILL.md").decode() == skill_md(name)
        assert text.text == skill_md("scanned-07")
        assert names(shown) == set(scanned)
        assert skill["commit"] == head
        assert skill["skillPath"] == "skills/scanned-07"
        (read,) = (one for one in told["skills"] if one["name"] == "scanned-07")
        assert skill["contentDigest"] == read["contentDigest"]
        assert skill["license"] == "MIT"

    def test_what_is_wanted_is_worked_off(self, marketplace: Marketplace, tmp_path: Path) -> None:
        empty(marketplace)
        commit(tmp_path, {"wanted/SKILL.md": skill_md("wanted", "license: MIT")})
        url = "https://github.com/scanned/wanted"
        with marketplace.client() as client:
            client.post("/api/v1/submissions", json={"repoUrl": url, "skillName": "wanted"})
            followed = run(
                marketplace.url,
                "scan",
                "--follow",
                "--once",
                "--map",
                f"{url}={tmp_path}",
                "--json",
            )
            assert answer(followed)["outcomes"] == {"reported": 1}, followed.stderr
            eventually(
                lambda: client.get("/api/v1/skills/wanted").status_code, lambda code: code == 200
            )
            text = client.get("/skills/wanted/SKILL.md", follow_redirects=True)
            archive = client.get("/api/v1/skills/wanted/content", follow_redirects=True)
        assert text.text == skill_md("wanted", "license: MIT")
        assert zipfile.ZipFile(io.BytesIO(archive.content)).namelist() == ["SKILL.md"]
