"""The scan command: what it shows, asks for, uploads and reports, and with what it ends."""

import hashlib
import io
import json
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from cli import following, reporting
from cli.following import MAX_FAILURES, Gone, Request, Sources, choose
from cli.scanning import WHAT_IT_IS
from marketplace.web.api.requests import ScanResults, SubmissionRequest
from scanner.skills import ScannedSkill, Verdict
from scanner.tree import Refused, Unreadable
from tests.unit.cli.double import FakeMarketplace
from tests.unit.scanner.repositories import MIT, commit, git, skill_md, write
from tests.unit.scanner.test_archives import make_tar

SUBMIT = "/api/v1/submissions"
RESULTS = "/api/v1/webhooks/scan-results"
REQUESTS = "/api/v1/webhooks/scan-requests"
CONTENT = "/api/v1/webhooks/content/"
URL = "https://github.com/example/skills"
NAMES = [f"skill-{number}" for number in range(20)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Twenty skills."""
    folder = tmp_path / "repository"
    files: dict[str, str | bytes] = {"LICENSE": MIT, "README.md": "Skills"}
    files |= {f"skills/{name}/SKILL.md": skill_md(name) for name in NAMES}
    files |= {f"skills/{name}/run.sh": f"echo {name}\n" for name in NAMES}
    commit(folder, files)
    return folder


class Registry(FakeMarketplace):
    """Takes submissions, content and results as the marketplace does, and hands requests out."""

    def __init__(self, *, content: int = 201) -> None:
        super().__init__()
        self.content = content
        self.uploads: dict[str, tuple[str, bytes]] = {}
        self.results: list[dict[str, Any]] = []
        self.to_hand_out: list[dict[str, Any]] = []
        self.submitted: list[dict[str, Any]] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if (request.method, path) in self.scripts:
            return super().handle(request)
        self.requests.append(request)
        if path == SUBMIT:
            body = json.loads(request.content)
            SubmissionRequest.model_validate(body)
            self.submitted.append(body)
            id_ = f"sub-{len(self.submitted)}"
            return httpx.Response(202, json={"id": id_, "state": "RECEIVED"})
        if path.startswith(CONTENT):
            digest = path.removeprefix(CONTENT)
            self.uploads[digest] = (request.headers["Content-Type"], request.content)
            return httpx.Response(self.content, json={"title": "Content", "status": self.content})
        if path == RESULTS:
            body = json.loads(request.content)
            assert len(request.content) <= 256 * 1024
            ScanResults.model_validate(body)
            self.results += body["results"]
            ids = [result["submissionId"] for result in body["results"]]
            return httpx.Response(202, json={"accepted": ids, "rejected": []})
        assert path == REQUESTS
        limit = int(request.url.params["limit"])
        handed, self.to_hand_out = self.to_hand_out[:limit], self.to_hand_out[limit:]
        return httpx.Response(200, json={"requests": handed})

    def wants(self, name: str, path: str = "", *, reason: str = "new", url: str = URL) -> None:
        number = len(self.to_hand_out)
        self.to_hand_out.append(
            {
                "submissionId": f"wanted-{number}",
                "repoUrl": url,
                "skillName": name,
                "skillPath": path,
                "reason": reason,
                "identity": "x",
                "attempt": 1,
            }
        )


def test_the_first_line_says_what_it_is(repository: Path) -> None:
    registry = Registry()
    result = registry.run("scan", str(repository))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == WHAT_IT_IS
    assert WHAT_IT_IS.startswith("A check of form, not an audit")
    assert "20 skills" in result.stdout
    assert all(f"skills/{name} " in result.stdout for name in NAMES)
    assert result.stdout.count(" MIT ") == result.stdout.count(" PASS ") == 20
    assert registry.requests == []


def test_it_is_one_json_document_for_machines(repository: Path) -> None:
    result = Registry().run("scan", str(repository), "--json", key=None)
    answer = json.loads(result.stdout)
    assert answer["check"] == WHAT_IT_IS
    assert answer["commit"] == git(repository, "rev-parse", "HEAD")
    assert answer["ref"] == "main"
    assert [skill["name"] for skill in answer["skills"]] == sorted(NAMES)
    (skill,) = (skill for skill in answer["skills"] if skill["name"] == "skill-3")
    assert skill["files"] == [
        {
            "path": path,
            "size": len(text),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        for path, text in (("SKILL.md", skill_md("skill-3")), ("run.sh", "echo skill-3\n"))
    ]
    assert skill["skillMdDigest"] == skill["files"][0]["sha256"]


def test_each_finding_has_path_and_line_whole_on_one_line(tmp_path: Path) -> None:
    write(tmp_path, {"a-long-folder-name/SKILL.md": skill_md("b", "license: Mine" + " own" * 9)})
    result = Registry().run("scan", str(tmp_path), env={"COLUMNS": "40"})
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    path = "a-long-folder-name/SKILL.md"
    assert f"{path}:2: error: 'name' must be that of the folder, 'a-long-folder-name'" in lines
    assert any(line.startswith(f"{path}:4: warning: 'license' is no SPDX") for line in lines)


def test_what_controls_a_terminal_is_not_printed(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a/SKILL.md": skill_md("a", 'metadata: {"\\e[31m[red]": x}'), "b\x1b/SKILL.md": ""},
    )
    result = Registry().run("scan", str(tmp_path))
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("files", "exit_code"),
    [
        ({"a/SKILL.md": skill_md("a")}, 0),
        ({"a/SKILL.md": skill_md("a"), "b/SKILL.md": skill_md("c")}, 1),
        ({"a/SKILL.md": skill_md("a", "metadata: {marketplace: withdrawn}")}, 0),
        ({"a/README.md": "x"}, 1),
        ({"a/skill.md": skill_md("a")}, 1),
    ],
)
def test_exit_codes(tmp_path: Path, files: dict[str, str | bytes], exit_code: int) -> None:
    write(tmp_path, files)
    assert Registry().run("scan", str(tmp_path)).exit_code == exit_code


def test_what_cannot_be_read_or_is_refused_is_2(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", make_tar(tmp_path, [("../evil", b"")])):
        result = Registry().run("scan", str(path))
        assert result.exit_code == 2
        assert "Error: " in result.stderr


def test_reporting_asks_uploads_and_tells(repository: Path) -> None:
    registry = Registry()
    result = registry.run("scan", str(repository), "--report", "--repo-url", URL)
    assert result.exit_code == 0, result.output
    assert [(s["skillName"], s["skillPath"], s["rescan"]) for s in registry.submitted] == [
        (name, f"skills/{name}", True) for name in sorted(NAMES)
    ]
    assert {told["submissionId"] for told in registry.results} == {f"sub-{n}" for n in range(1, 21)}
    assert len(registry.uploads) == 40
    for told in registry.results:
        name = told["skill"]["name"]
        assert told["verdict"] == "PASS"
        assert told["score"] == 100
        assert told["path"] == f"skills/{name}"
        assert told["commit"] == git(repository, "rev-parse", "HEAD")
        assert told["ref"] == "main"
        assert told["skill"]["license"] == "MIT"
        kind, text = registry.uploads[told["skillMdDigest"]]
        assert (kind, text) == ("text/markdown", skill_md(name).encode())
        kind, archive = registry.uploads[told["contentDigest"]]
        assert kind == "application/zip"
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            assert opened.namelist() == ["SKILL.md", "run.sh"] == [f["path"] for f in told["files"]]
    assert all(hashlib.sha256(data).hexdigest() == d for d, (_, data) in registry.uploads.items())


def test_content_is_there_before_the_result(repository: Path) -> None:
    registry = Registry()
    registry.run("scan", str(repository), "--report", "--repo-url", URL)
    paths = [request.url.path for request in registry.requests]
    assert max(n for n, p in enumerate(paths) if p.startswith(CONTENT)) < paths.index(RESULTS)


def test_what_does_not_pass_or_has_no_licence_is_not_uploaded(tmp_path: Path) -> None:
    commit(
        tmp_path,
        {
            "a/SKILL.md": skill_md("a"),
            "b/SKILL.md": skill_md("other", "license: MIT"),
            "c/SKILL.md": skill_md("c", "license: MIT", "metadata: {marketplace: withdrawn}"),
            "d/SKILL.md": skill_md("d", "license: MIT"),
            "d/large": bytes(10 * 1024 * 1024),
        },
    )
    registry = Registry()
    result = registry.run("scan", str(tmp_path), "--report", "--repo-url", URL)
    assert result.exit_code == 1
    assert registry.uploads == {}
    told = {told["path"]: told for told in registry.results}
    assert {path: one["verdict"] for path, one in told.items()} == {
        "a": "PASS",
        "b": "FAIL",
        "c": "WITHDRAWN",
        "d": "PASS",
    }
    assert "license" not in told["a"]["skill"]
    assert told["a"]["score"] == 95
    assert "b/SKILL.md:2: 'name' must be that of the folder" in told["b"]["reason"]
    assert "skill" not in told["b"]
    assert "metadata.marketplace" in told["c"]["reason"]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_marketplace_without_content_is_told_once_and_gets_results(
    repository: Path, status: int
) -> None:
    registry = Registry(content=status)
    result = registry.run("scan", str(repository), "--report", "--repo-url", URL)
    assert result.exit_code == 1
    assert f"this marketplace takes no content ({status})" in result.stdout
    assert len(registry.uploads) == 1
    assert len(registry.results) == 20


def test_content_that_is_refused_is_said_and_the_result_is_reported(repository: Path) -> None:
    registry = Registry(content=422)
    result = registry.run("scan", str(repository), "--report", "--repo-url", URL)
    assert result.exit_code == 1
    assert "Content (422)" in result.stdout
    assert len(registry.results) == 20


def test_content_that_cannot_be_kept_now_ends_the_report(repository: Path) -> None:
    """Or the marketplace would list what it cannot hand out, until the next scan."""
    registry = Registry(content=503)
    result = registry.run("scan", str(repository), "--report", "--repo-url", URL)
    assert result.exit_code == 2
    assert "Content (503)" in result.stderr
    assert registry.results == []


def test_what_changes_meanwhile_is_left_and_not_reported(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (Refused("it changed"), Unreadable("git failed")):
        registry = Registry()
        registry.wants("skill-1", "skills/skill-1")

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(reporting, "archive_of", fail)
        result = follow(registry, repository)
        assert result.exit_code == 1
        assert "1 left" in result.stdout
        assert registry.results == []


def test_refusals_and_blocked_skills_are_told(repository: Path) -> None:
    registry = Registry()
    answers: list[dict[str, Any]] = [
        {"id": None, "state": "REJECTED", "blocked": True},
        {"id": None, "state": "PUBLISHED", "alreadyVerified": True},
        {"id": "sub-3", "state": "RECEIVED"},
    ]
    refusal = httpx.Response(409, json={"title": "Other name", "status": 409})
    registry.on("POST", SUBMIT, *answers[:2], refusal, answers[2])
    rejected = {"accepted": [], "rejected": [{"submissionId": "sub-3", "reason": "other-path"}]}
    registry.on("POST", RESULTS, rejected)
    result = registry.run("scan", str(repository), "--report", "--repo-url", URL, "--json")
    assert result.exit_code == 1
    told = {one["name"]: one for one in json.loads(result.stdout)["reported"]}
    first, second, third, *others = sorted(NAMES)
    assert told[first]["outcome"] == "blocked"
    assert told[second]["reason"].startswith("it was read a short time ago")
    assert "Other name" in told[third]["reason"]
    assert all(told[name]["reason"] == "other-path" for name in others)


def test_an_abort_shows_what_was_done_before(repository: Path) -> None:
    registry = Registry()
    registry.on("POST", RESULTS, httpx.Response(503, json={"title": "Away", "status": 503}))
    result = registry.run("scan", str(repository), "--report", "--repo-url", URL, "--json")
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert "Away" in answer["error"]
    assert [one["outcome"] for one in answer["reported"]] == ["left"] * 20


def test_results_are_split_into_calls_that_are_taken(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MAX_CALL_BYTES", 3_000)
    registry = Registry()
    assert registry.run("scan", str(repository), "--report", "--repo-url", URL).exit_code == 0
    calls = [request for request in registry.requests if request.url.path == RESULTS]
    assert len(calls) > 1
    assert all(len(request.content) < 3_100 for request in calls)
    assert len(registry.results) == 20


def test_a_list_of_files_that_no_call_takes_is_left_out(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"a/{'x' * 150}/{n:050}": "" for n in range(900)}
    commit(tmp_path, files | {"a/SKILL.md": skill_md("a", "license: MIT")})
    registry = Registry()
    result = registry.run("scan", str(tmp_path), "--report", "--repo-url", URL)
    assert "its list of files is too long" in result.stdout
    (told,) = registry.results
    assert "files" not in told
    assert told["contentDigest"] in registry.uploads


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--report"], "--repo-url"),
        (["--report", "--repo-url", URL, "--as-it-lies"], "--as-it-lies"),
        (["--follow"], "give a PATH, or --follow"),
    ],
)
def test_options_that_do_not_go_together(
    repository: Path, options: list[str], expected: str
) -> None:
    registry = Registry()
    result = registry.run("scan", str(repository), *options)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert registry.requests == []


def test_a_report_needs_a_credential_and_a_commit(tmp_path: Path, repository: Path) -> None:
    report = ("--report", "--repo-url", URL)
    assert Registry().run("scan", str(repository), *report, key=None).exit_code == 2
    write(tmp_path / "folder", {"a/SKILL.md": skill_md("a")})
    for commit_ in ([], ["--commit", "0123456"]):
        result = Registry().run("scan", str(tmp_path / "folder"), *report, *commit_)
        assert result.exit_code == 2
        assert "--commit" in result.stderr


def test_an_archive_of_a_forge_is_reported_from_its_folder(tmp_path: Path) -> None:
    path = make_tar(tmp_path, [("skills-1/a/SKILL.md", skill_md("a").encode())])
    command = ["scan", str(path), "--report", "--repo-url", URL, "--commit", "0" * 40]
    assert "--root skills-1" in Registry().run(*command).stderr
    registry = Registry()
    assert registry.run(*command, "--root", "skills-1").exit_code == 0
    assert [(told["path"], told["commit"]) for told in registry.results] == [("a", "0" * 40)]


def test_the_forges_ids_are_reported(repository: Path) -> None:
    registry = Registry()
    ids = ["--repository-id", "12", "--owner-id", "3"]
    registry.run("scan", str(repository), "--report", "--repo-url", URL, *ids)
    assert {(t["repositoryId"], t["ownerId"]) for t in registry.results} == {("12", "3")}


def follow(registry: Registry, repository: Path, *more: str) -> Any:
    command = ["scan", "--follow", "--map", f"{URL}={repository}", "--once", *more]
    return registry.run(*command)


def test_following_answers_what_is_wanted(repository: Path) -> None:
    registry = Registry()
    for name in NAMES:
        registry.wants(name, f"skills/{name}")
    result = follow(registry, repository, "--limit", "7")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == WHAT_IT_IS
    assert "20 reported" in result.stdout
    assert [told["submissionId"] for told in registry.results] == [f"wanted-{n}" for n in range(20)]
    assert len(registry.uploads) == 40
    assert registry.submitted == []


def test_what_is_gone_is_withdrawn_where_it_is_listed_and_else_fails(repository: Path) -> None:
    registry = Registry()
    registry.wants("old", "skills/old", reason="due")
    registry.wants("older", "skills/older", reason="rescan")
    registry.wants("never", "skills/never")
    registry.wants("gone", "x", reason="due", url="https://github.com/example/gone")
    result = follow(
        registry, repository, "--map", f"https://github.com/example/gone={repository}-gone"
    )
    assert result.exit_code == 0
    told = {one["submissionId"]: one for one in registry.results}
    assert told["wanted-0"]["verdict"] == told["wanted-1"]["verdict"] == "WITHDRAWN"
    assert told["wanted-0"]["path"] == "skills/old"
    assert told["wanted-2"]["verdict"] == "FAIL"
    assert "path" not in told["wanted-2"]
    assert "skill-0" in told["wanted-2"]["reason"]
    assert told["wanted-3"]["verdict"] == "GONE"
    assert "path" not in told["wanted-3"]


def test_nothing_is_said_of_what_cannot_be_read(repository: Path, tmp_path: Path) -> None:
    """A disk that is away, a broken repository, a mere folder, or one that nobody mapped is not
    gone."""
    (tmp_path / "broken/.git").mkdir(parents=True)
    write(tmp_path / "folder", {"a/SKILL.md": skill_md("a")})
    registry = Registry()
    folders = {
        "away": tmp_path / "disk/away",
        "broken": tmp_path / "broken",
        "folder": tmp_path / "folder",
    }
    for name in (*folders, "unmapped"):
        registry.wants("a", reason="due", url=f"https://github.com/example/{name}")
    maps = [f"--map=https://github.com/example/{name}={path}" for name, path in folders.items()]
    result = follow(registry, repository, *maps)
    assert result.exit_code == 1
    assert "4 left" in result.stdout
    assert registry.results == []


def test_pauses_grow_and_honour_retry_after(repository: Path) -> None:
    registry = Registry()
    away = httpx.Response(503, json={"title": "Away", "status": 503})
    asked = httpx.Response(429, json={"title": "Slow"}, headers={"Retry-After": "90"})
    # Each is tried three times at once, with pauses of at most 10 s.
    registry.on("POST", REQUESTS, *[away] * 9, *[asked] * 3, {"requests": []})
    assert follow(registry, repository).exit_code == 0
    tried = [0.5, 1]
    assert registry.slept == [*tried, 1, *tried, 2, *tried, 4, 10, 10, 90]


def test_an_answer_ends_the_count_of_failures(repository: Path) -> None:
    registry = Registry()
    away = httpx.Response(503, json={"title": "Away", "status": 503})
    registry.on("POST", REQUESTS, *[away] * 6, {"requests": []}, *[away] * 3, {"requests": []})

    def interrupt() -> None:
        if registry.slept.count(60) == 2:
            raise KeyboardInterrupt

    registry.after_sleep = interrupt
    assert registry.run("scan", "--follow", "--map", f"{URL}={repository}").exit_code == 130
    tried = [0.5, 1]
    assert registry.slept == [*tried, 1, *tried, 2, 60, *tried, 1, 60]


def test_failures_without_end_end_it(repository: Path) -> None:
    registry = Registry()
    registry.on("POST", REQUESTS, httpx.ConnectError("refused"))
    result = follow(registry, repository)
    assert result.exit_code == 2
    assert "cannot be reached" in result.stderr
    assert len(registry.requests) == 3 * MAX_FAILURES
    assert max(registry.slept) == 300


def test_no_access_ends_it_at_once(repository: Path) -> None:
    registry = Registry()
    registry.on("POST", REQUESTS, httpx.Response(401, json={"title": "Who?"}))
    assert follow(registry, repository).exit_code == 2
    assert len(registry.requests) == 1


def test_an_empty_list_is_asked_for_again_in_a_minute_until_ctrl_c(repository: Path) -> None:
    registry = Registry()

    def interrupt() -> None:
        if len(registry.slept) == 3:
            raise KeyboardInterrupt
        if len(registry.slept) == 2:
            registry.wants("skill-0")

    registry.after_sleep = interrupt
    result = registry.run("scan", "--follow", "--map", f"{URL}={repository}", "--json")
    assert result.exit_code == 130
    assert registry.slept == [60, 60, 60]
    answer = json.loads(result.stdout)
    assert answer["outcomes"] == {"reported": 1}
    assert answer["results"][0]["name"] == "skill-0"


def test_following_needs_to_know_where_repositories_are() -> None:
    registry = Registry()
    for more in ([], ["--map", "x"], ["--map", "https://github.com/a/b"]):
        assert registry.run("scan", "--follow", *more).exit_code == 2
    assert registry.run("scan", "--follow", "--clone", key=None).exit_code == 2
    assert registry.requests == []


def test_the_results_that_are_kept_are_bounded(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "KEPT_RESULTS", 3)
    registry = Registry()
    for _ in range(5):
        registry.wants("skill-0")
    answer = json.loads(follow(registry, repository, "--json").stdout)
    assert answer["outcomes"] == {"reported": 5}
    assert len(answer["results"]) == 3


def opened(sources: Sources) -> str | None:
    with sources.opened(URL) as source:
        return source.commit


def test_a_repository_is_cloned_where_that_is_allowed(repository: Path) -> None:
    cloned: list[str] = []

    def clone(url: str) -> AbstractContextManager[Path]:
        cloned.append(url)
        return nullcontext(repository)

    with pytest.raises(Unreadable, match="--clone was not given"):
        opened(Sources(open_clone=clone))
    mapped = Sources({URL.casefold(): repository}, clone=True, open_clone=clone)
    assert opened(mapped) is not None
    assert cloned == []
    assert opened(Sources(clone=True, open_clone=clone)) == git(repository, "rev-parse", "HEAD")
    assert cloned == [URL]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404), Gone),
        (httpx.Response(410), Gone),
        (httpx.Response(429), Unreadable),
        (httpx.Response(401), Unreadable),
        (httpx.Response(301), Unreadable),
        (httpx.Response(200), Unreadable),
        (httpx.Response(503), Unreadable),
        (httpx.ConnectError("away"), Unreadable),
    ],
)
def test_only_a_definite_answer_means_gone(
    monkeypatch: pytest.MonkeyPatch, answer: httpx.Response | Exception, error: type[Exception]
) -> None:
    def get(url: str, **options: Any) -> httpx.Response:
        assert (url, options["follow_redirects"]) == (URL, False)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def clone(url: str) -> AbstractContextManager[Path]:
        raise Unreadable("it failed")

    monkeypatch.setattr(httpx, "get", get)
    with pytest.raises(error):
        opened(Sources(clone=True, open_clone=clone))


SKILLS = [
    ScannedSkill(path="a", name="csv", verdict=Verdict.PASS),
    ScannedSkill(path="b/csv", name="csv", verdict=Verdict.PASS),
    ScannedSkill(path="pdf", verdict=Verdict.FAIL),
]


@pytest.mark.parametrize(
    ("name", "path", "reason", "expected"),
    [
        ("csv", "b/csv", "due", "b/csv"),
        ("CSV", "a", "new", "a"),
        ("csv", "gone", "due", None),
        ("csv", "gone", "rescan", "a"),
        ("csv", "", "new", "a"),
        ("pdf", "", "new", "pdf"),
        ("pdf", "pdf", "due", "pdf"),
        ("other", "a", "due", None),
        ("other", "a", "rescan", None),
        ("other", "a", "new", "a"),
        ("other", "", "new", None),
    ],
)
def test_which_skill_a_request_means(
    name: str, path: str, reason: str, expected: str | None
) -> None:
    request = Request(
        submission_id="x", repo_url=URL, skill_name=name, skill_path=path, reason=reason
    )
    found = choose(request, SKILLS)
    assert (found and found.path) == expected


def test_the_only_skill_is_meant_where_none_is_named() -> None:
    request = Request(submission_id="x", repo_url=URL, skill_name="skills", reason="new")
    assert choose(request, SKILLS[:1]) is SKILLS[0]
    assert choose(msgspec.structs.replace(request, reason="rescan"), SKILLS[:1]) is None
