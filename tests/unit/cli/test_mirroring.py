"""Mirroring and restoring against a feed in memory: what is kept, resumed, verified and told."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.mirror_folder import write
from cli.mirroring import MAX_RESTARTS, PATIENCE_SECONDS
from marketplace.skills import mirrored
from marketplace.skills.acts import ActKind
from marketplace.skills.fingerprint import NO_SKILLS, add_items
from marketplace.skills.skill import Skill
from tests.examples import act, skill, with_acts
from tests.unit.cli.double import Answer, FakeMarketplace

CHANGES = "/api/v1/changes"
RESTORE = "/api/v1/admin/restore"
UPLOADS = "/api/v1/webhooks/content/"
ARCHIVE = b"an archive"
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()


def item_of(told: Skill, **options: Any) -> dict[str, Any]:
    return mirrored.item_of(told, told.revision, **options)


@dataclass
class FeedDouble(FakeMarketplace):
    """Tells changes as the marketplace does, a few at a time, after the ``troubles`` in turn."""

    skills: dict[str, tuple[int, Skill, bool]] = field(default_factory=dict)  # by identity
    generation: str = "one"
    head: int = 1000
    part: int = 3
    troubles: list[Answer | None] = field(default_factory=list)
    content: dict[str, httpx.Response] = field(default_factory=dict)
    uploads: list[Answer] = field(default_factory=list)  # what uploads are answered, in turn
    wrong_fingerprint: bool = False

    def publish(self, *skills: Skill, seed: bool = False) -> None:
        for each in skills:
            self.head += 1
            self.skills[each.identity] = (self.head, each, seed)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path
        if path.startswith("/content/"):
            return self.content.get(path.removeprefix("/content/"), httpx.Response(404, json={}))
        if path.startswith(UPLOADS):
            return self._upload(request)
        if path == RESTORE:
            return self._restore(json.loads(request.content)["skills"])
        trouble = self.troubles.pop(0) if self.troubles else None
        if isinstance(trouble, Exception):
            raise trouble
        return trouble or self._feed(request.url.params)

    def _feed(self, params: httpx.QueryParams) -> httpx.Response:
        since, generation = int(params["since"]), params.get("generation", self.generation)
        if since > self.head or generation != self.generation:
            return httpx.Response(410, json={"title": "Gone", "restart": CHANGES})
        rows = sorted(self.skills.values(), key=lambda row: row[0])
        left = [row for row in rows if row[0] > since]
        shown = left[: min(self.part, int(params["limit"]))]
        is_last = len(shown) == len(left)
        digest = add_items(NO_SKILLS.digest, (row[1] for row in rows))
        told = {"count": len(rows), "digest": "0" * 16 if self.wrong_fingerprint else digest}
        return httpx.Response(
            200,
            json={
                "changes": [{"number": n} | item_of(each, seed=seed) for n, each, seed in shown],
                "next": self.head if is_last else shown[-1][0],
                "head": self.head,
                "generation": self.generation,
                "fingerprint": told if is_last else None,
            },
        )

    def _restore(self, items: list[dict[str, Any]]) -> httpx.Response:
        for item in items:
            self.publish(originals[item["identity"]])
        return httpx.Response(200, json={"restored": len(items), "present": 0, "rejected": []})

    def _upload(self, request: httpx.Request) -> httpx.Response:
        answer = self.uploads.pop(0) if self.uploads else httpx.Response(201, json={})
        if isinstance(answer, Exception):
            raise answer
        if answer.is_success:
            digest = request.url.path.removeprefix(UPLOADS)
            self.content[digest] = httpx.Response(200, content=request.content)
        return answer

    def asked(self) -> list[int]:
        """The numbers after which was asked."""
        return [int(r.url.params["since"]) for r in self.requests if r.url.path == CHANGES]


originals: dict[str, Skill] = {}


def some(count: int, **fields: Any) -> list[Skill]:
    made = [skill(f"s-{number}", **fields) for number in range(count)]
    originals.update({each.identity: each for each in made})
    return made


@pytest.fixture
def feed() -> FeedDouble:
    made = FeedDouble()
    made.publish(*some(8))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    files = (folder / "skills").glob("[!_]*")
    return {file.stem: json.loads(file.read_bytes()) for file in files}


def test_a_mirror_has_a_file_for_each_skill_and_ends_with_0(feed: FeedDouble, folder: Path) -> None:
    feed.publish(with_acts(skill("blocked"), act(ActKind.BLOCK)))
    result = feed.run("mirror", str(folder), "--json", key=None)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["equal"], report["count"], report["restarts"]) == (True, 9, 0)
    assert kept(folder).keys() == {*(each.name for each in some(8)), "blocked"}
    assert kept(folder)["blocked"]["status"] == "BLOCKED"
    assert not list(folder.rglob("*.part"))
    assert all("x-internal-key" not in request.headers for request in feed.requests)


def test_a_second_run_asks_for_what_has_changed_alone(feed: FeedDouble, folder: Path) -> None:
    feed.run("mirror", str(folder))
    head = feed.head
    feed.requests.clear()
    feed.publish(skill("s-3", description="Anew."), skill("late"))
    assert feed.run("mirror", str(folder)).exit_code == 0
    assert feed.asked() == [head]
    assert kept(folder)["s-3"]["description"] == "Anew."
    assert "late" in kept(folder)


@pytest.mark.parametrize("taker_comes_first", [False, True])
def test_a_skill_that_moves_to_another_slug_leaves_no_file_behind(
    feed: FeedDouble, folder: Path, taker_comes_first: bool
) -> None:
    feed.run("mirror", str(folder))
    moved = [skill("s-3", name="acme-s-3"), skill("s-3", repository="other/tools")]
    feed.publish(*(reversed(moved) if taker_comes_first else moved))
    assert json.loads(feed.run("mirror", str(folder), "--json").stdout)["restarts"] == 0
    found = kept(folder)
    assert found["s-3"]["repoUrl"] == "https://github.com/other/tools"
    assert found["acme-s-3"]["repoUrl"] == "https://github.com/acme/tools"
    feed.publish(skill("s-3", name="acme-tools-s-3"))
    assert json.loads(feed.run("mirror", str(folder), "--json").stdout)["restarts"] == 0
    assert "acme-s-3" not in kept(folder)


def test_a_first_walk_that_is_cut_off_goes_on_where_it_was(feed: FeedDouble, folder: Path) -> None:
    feed.troubles = [None, None, *[httpx.ConnectError("away")] * 2000]
    result = feed.run("mirror", str(folder))
    assert result.exit_code == 2
    assert not (folder / "skills").exists()
    feed.troubles, feed.requests = [], []
    assert feed.run("mirror", str(folder)).exit_code == 0
    assert feed.asked()[0] == 1006
    assert len(kept(folder)) == 8


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(503, headers={"Retry-After": "10"}, json={"title": "Away"}),
        httpx.Response(429, headers={"Retry-After": "7"}, json={"title": "Too many"}),
        httpx.ConnectError("away"),
    ],
    ids=["503", "429", "unreachable"],
)
def test_a_marketplace_that_is_away_for_a_while_is_waited_for(
    feed: FeedDouble, folder: Path, trouble: Answer
) -> None:
    feed.troubles = [None, *[trouble] * 20]
    assert feed.run("mirror", str(folder)).exit_code == 0
    assert max(feed.slept) <= 15


def test_the_waiting_has_an_end(feed: FeedDouble, folder: Path) -> None:
    feed.troubles = [httpx.Response(503, json={"title": "Away"})] * 5000
    assert feed.run("mirror", str(folder)).exit_code == 2
    assert sum(feed.slept) <= PATIENCE_SECONDS + 60


def test_after_a_restart_what_is_there_stays_until_the_new_walk_is_whole(
    feed: FeedDouble, folder: Path
) -> None:
    feed.run("mirror", str(folder))
    before = kept(folder)
    feed.generation = "two"
    feed.skills.pop(skill("s-5").identity)
    feed.publish(skill("s-2", description="Of the new generation."))
    feed.troubles = [None, None, *[httpx.ConnectError("away")] * 2000]
    assert feed.run("mirror", str(folder)).exit_code == 2
    assert kept(folder) == before

    feed.troubles = []
    assert feed.run("mirror", str(folder)).exit_code == 0
    assert "s-5" not in kept(folder)
    assert kept(folder)["s-2"]["description"] == "Of the new generation."
    assert sorted(each.name for each in folder.iterdir()) == ["skills"]


def test_a_run_that_was_killed_between_two_folders_loses_neither(
    feed: FeedDouble, folder: Path
) -> None:
    feed.run("mirror", str(folder))
    before = kept(folder)
    (folder / "skills").rename(folder / "replaced")
    feed.troubles = [httpx.ConnectError("away")] * 2000
    assert feed.run("mirror", str(folder)).exit_code == 2
    assert kept(folder) == before


def test_a_file_is_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write(file, b"before")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(file, b"after")
    assert file.read_bytes() == b"before"


def test_a_change_that_no_number_told_is_found_by_the_fingerprint(
    feed: FeedDouble, folder: Path
) -> None:
    feed.run("mirror", str(folder))
    number, _, seed = feed.skills[skill("s-1").identity]
    feed.skills[skill("s-1").identity] = (number, skill("s-1", description="Unseen."), seed)
    result = feed.run("mirror", str(folder), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["restarts"] == 1
    assert kept(folder)["s-1"]["description"] == "Unseen."


def test_another_fingerprint_in_the_end_is_exit_code_1(feed: FeedDouble, folder: Path) -> None:
    feed.wrong_fingerprint = True
    result = feed.run("mirror", str(folder), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["restarts"] == MAX_RESTARTS
    assert len(kept(folder)) == 8


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"name": "s-4"}', None])
def test_a_damaged_file_is_noticed_and_made_anew(
    feed: FeedDouble, folder: Path, damage: bytes | None
) -> None:
    feed.run("mirror", str(folder))
    file = folder / "skills" / "s-4.json"
    whole = file.read_bytes()
    changed = whole.replace(b"Does s-4.", b"Does s-5.")
    file.write_bytes(changed if damage is None else damage)
    assert feed.run("mirror", str(folder)).exit_code == 0
    assert file.read_bytes() == whole


def test_an_item_with_another_digest_is_not_mirrored(feed: FeedDouble, folder: Path) -> None:
    feed.run("mirror", str(folder))
    before = kept(folder)
    item = {"number": 1009} | item_of(skill("s-1", description="Told.")) | {"description": "Else."}
    told = {"changes": [item], "next": 1009, "head": 1009, "generation": "one"}
    feed.troubles = [httpx.Response(200, json=told)]
    result = feed.run("mirror", str(folder))
    assert result.exit_code == 2
    assert "digest" in result.output
    assert kept(folder) == before


@pytest.mark.parametrize("name", ["../evil", "a/b", "_state", "", "ä"])
def test_no_file_is_written_elsewhere(feed: FeedDouble, folder: Path, name: str) -> None:
    item = item_of(skill("s-1"))
    item = {**item, "name": name}
    told = {name: value for name, value in item.items() if name not in ("number", "digest")}
    text = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    item["digest"] = hashlib.sha256(text.encode()).hexdigest()
    answer = {"changes": [item], "next": 1001, "head": 1001, "generation": "one"}
    feed.troubles = [httpx.Response(200, json=answer)]
    assert feed.run("mirror", str(folder)).exit_code == 2
    assert {file.name for file in folder.parent.rglob("*")} <= {"mirror", "walk"}


def test_a_folder_with_other_things_is_left_alone(feed: FeedDouble, folder: Path) -> None:
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear")
    result = feed.run("mirror", str(folder))
    assert result.exit_code == 2
    assert [each.name for each in folder.iterdir()] == ["letter.txt"]


def test_content_is_fetched_once_verified_and_what_is_not_served_is_told(
    feed: FeedDouble, folder: Path
) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    feed.publish(
        skill("with", content_digest=DIGEST, skill_md_digest=DIGEST),
        skill("unlicensed", content_digest="1" * 64),
        skill("gone", content_digest="2" * 64),
        skill("purged", content_digest="4" * 64),
        skill("failed", content_digest="5" * 64),
        with_acts(skill("blocked", content_digest="3" * 64), act(ActKind.BLOCK)),
    )
    feed.content = {
        DIGEST: httpx.Response(200, content=ARCHIVE),
        "1" * 64: httpx.Response(451, json={}),
        "4" * 64: httpx.Response(410, json={}),
        "5" * 64: httpx.Response(423, json={}),
        other: httpx.Response(200, content=ARCHIVE),
    }
    result = feed.run("mirror", str(folder), "--content", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["content"], report["missingContent"]) == (1, 4)
    assert report["whyMissing"] == {
        "its licence": 1,
        "not there": 1,
        "withheld or purged": 1,
        "failed its latest scan": 1,
    }
    assert feed.slept == []
    assert (folder / "content" / DIGEST).read_bytes() == ARCHIVE

    feed.requests.clear()
    feed.publish(skill("wrong", content_digest=other))
    result = feed.run("mirror", str(folder), "--content", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["damagedContent"] == 1
    assert [file.name for file in (folder / "content").iterdir()] == [DIGEST]
    assert f"/content/{DIGEST}" not in {request.url.path for request in feed.requests}


@pytest.mark.parametrize("status", [429, 503])
def test_content_that_is_not_served_now_is_waited_for_with_a_bound(
    feed: FeedDouble, folder: Path, status: int
) -> None:
    feed.publish(skill("with", content_digest=DIGEST))
    feed.content = {DIGEST: httpx.Response(status, json={"title": "Later"})}

    def meanwhile() -> None:
        if len(feed.slept) == 12:
            feed.content = {DIGEST: httpx.Response(200, content=ARCHIVE)}

    result = feed.run("mirror", str(folder), "--content")
    assert (result.exit_code, "Later" in result.output) == (2, True)
    assert sum(feed.slept) <= PATIENCE_SECONDS + 60

    feed.slept.clear()
    feed.after_sleep = meanwhile
    assert feed.run("mirror", str(folder), "--content").exit_code == 0
    assert (folder / "content" / DIGEST).read_bytes() == ARCHIVE


def test_a_digest_that_is_none_leads_to_no_file_and_no_address(
    feed: FeedDouble, folder: Path
) -> None:
    item = item_of(skill("s-1")) | {"contentDigest": "../elsewhere"}
    told = {name: value for name, value in item.items() if name not in ("number", "digest")}
    text = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    item["digest"] = hashlib.sha256(text.encode()).hexdigest()
    fingerprint = add_items(NO_SKILLS.digest, [skill("s-1")])
    feed.troubles += 2 * [
        httpx.Response(
            200,
            json={"changes": [item], "next": 1001, "head": 1001, "generation": "one"}
            | {"fingerprint": {"count": 1, "digest": fingerprint}},
        )
    ]
    assert feed.run("mirror", str(folder), "--content").exit_code == 0
    assert {request.url.path for request in feed.requests} == {CHANGES}


def test_following_goes_on_until_it_is_interrupted(feed: FeedDouble, folder: Path) -> None:
    def meanwhile() -> None:
        if len(feed.slept) == 3:
            raise KeyboardInterrupt
        feed.publish(skill(f"later-{len(feed.slept)}"))

    feed.after_sleep = meanwhile
    feed.run("mirror", str(folder), "--follow")
    assert {"later-1", "later-2"} <= kept(folder).keys()


# --- filling a marketplace --------------------------------------------------------------------


def beside_a_mirror(feed: FeedDouble, folder: Path) -> FeedDouble:
    """A marketplace that has the seed alone, beside a mirror of one that has more."""
    seed = skill("seeded")
    feed.publish(seed, seed=True)
    originals[seed.identity] = seed
    feed.run("mirror", str(folder))
    empty = FeedDouble(generation="another", head=1000)
    empty.publish(seed, seed=True)
    return empty


def test_an_empty_marketplace_gets_all_but_the_seed(feed: FeedDouble, folder: Path) -> None:
    empty = beside_a_mirror(feed, folder)
    result = empty.run("restore", str(folder), "--json")
    assert result.exit_code == 0, result.output
    sent = [item["name"] for body in empty.bodies(RESTORE) for item in body["skills"]]
    assert sent == [each.name for each in some(8)]
    assert json.loads(result.stdout)["equal"] is True
    assert "missingContent" not in json.loads(result.stdout)  # the mirror was made without


def test_a_marketplace_that_has_skills_is_not_filled_unless_asked(
    feed: FeedDouble, folder: Path
) -> None:
    there = beside_a_mirror(feed, folder)
    there.publish(skill("own"))
    result = there.run("restore", str(folder))
    assert result.exit_code == 2
    assert "--into-existing" in result.output
    assert there.bodies(RESTORE) == []
    result = there.run("restore", str(folder), "--into-existing", "--json")
    assert len(there.bodies(RESTORE)) == 1
    assert result.exit_code == 1  # it has one more
    assert json.loads(result.stdout)["equal"] is False


def test_a_mirror_that_is_not_whole_fills_nothing(feed: FeedDouble, folder: Path) -> None:
    empty = beside_a_mirror(feed, folder)
    (folder / "skills" / "s-1.json").write_bytes(b"{")
    result = empty.run("restore", str(folder))
    assert result.exit_code == 2
    assert "s-1" in result.output
    assert empty.bodies(RESTORE) == []
    assert empty.run("restore", str(folder / "nothing")).exit_code == 2


def test_large_skills_go_in_smaller_calls(feed: FeedDouble, folder: Path) -> None:
    large = [skill(f"large-{n}", description="x" * 15_000) for n in range(30)]
    originals.update({each.identity: each for each in large})
    feed.publish(*large)
    empty = beside_a_mirror(feed, folder)
    assert empty.run("restore", str(folder)).exit_code == 0
    sizes = [len(r.content) for r in empty.requests if r.url.path == RESTORE]
    assert max(sizes) < 256 * 1024
    assert len(sizes) == 3


def test_a_refused_skill_is_told_and_exit_code_1(feed: FeedDouble, folder: Path) -> None:
    empty = beside_a_mirror(feed, folder)
    told = [{"name": "s-1", "reason": "another skill has its slug"}]
    empty._restore = lambda items: httpx.Response(  # type: ignore[method-assign]  # noqa: ARG005
        200, json={"restored": 7, "present": 0, "rejected": told}
    )
    result = empty.run("restore", str(folder))
    assert result.exit_code == 1
    assert "another skill has its slug" in result.output


SKILL_MD = b"---\nname: with\n---\n"
SKILL_MD_DIGEST = hashlib.sha256(SKILL_MD).hexdigest()


def beside_a_mirror_with_content(feed: FeedDouble, folder: Path) -> FeedDouble:
    """The same, of a marketplace whose content was mirrored."""
    told = [
        skill("with", content_digest=DIGEST, skill_md_digest=SKILL_MD_DIGEST),
        skill("without", content_digest="1" * 64),
    ]
    originals.update({each.identity: each for each in told})
    feed.publish(*told)
    feed.content = {
        DIGEST: httpx.Response(200, content=ARCHIVE),
        SKILL_MD_DIGEST: httpx.Response(200, content=SKILL_MD),
    }
    feed.run("mirror", str(folder), "--content")
    return beside_a_mirror(feed, folder)


def uploaded(feed: FeedDouble) -> list[str]:
    """The digests that were handed over, each once."""
    paths = [request.url.path for request in feed.requests if request.method == "PUT"]
    return sorted({path.removeprefix(UPLOADS) for path in paths})


def test_the_content_of_a_mirror_is_handed_over_after_its_skills(
    feed: FeedDouble, folder: Path
) -> None:
    empty = beside_a_mirror_with_content(feed, folder)
    (folder / "content" / ("9" * 64)).write_bytes(b"of nobody")
    result = empty.run("restore", str(folder), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["uploaded"], report["missingContent"], report["refused"]) == (2, 1, [])
    assert {name: answer.content for name, answer in empty.content.items()} == {
        DIGEST: ARCHIVE,
        SKILL_MD_DIGEST: SKILL_MD,
    }
    requests = [r for r in empty.requests if r.method == "PUT" or r.url.path == RESTORE]
    assert [r.method for r in requests] == ["POST", "PUT", "PUT"]
    assert {r.url.path.removeprefix(UPLOADS): r.headers["Content-Type"] for r in requests[1:]} == {
        DIGEST: "application/zip",
        SKILL_MD_DIGEST: "text/markdown",
    }
    assert all("x-internal-key" in request.headers for request in requests)


def test_content_that_is_another_than_it_is_called_is_told_and_not_handed_over(
    feed: FeedDouble, folder: Path
) -> None:
    empty = beside_a_mirror_with_content(feed, folder)
    (folder / "content" / DIGEST).write_bytes(b"another")
    result = empty.run("restore", str(folder), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["damagedContent"] == [DIGEST]
    assert uploaded(empty) == [SKILL_MD_DIGEST]


@pytest.mark.parametrize("status", [410, 413, 422, 451])
def test_content_that_is_not_taken_is_told_and_the_rest_goes_on(
    feed: FeedDouble, folder: Path, status: int
) -> None:
    empty = beside_a_mirror_with_content(feed, folder)
    empty.uploads = [httpx.Response(status, json={"title": "Not this"})]
    result = empty.run("restore", str(folder), "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["uploaded"], report["equal"]) == (1, True)
    assert report["refused"] == [f"{DIGEST}: Not this ({status})"]


def test_an_upload_that_is_not_taken_now_is_waited_for_with_a_bound(
    feed: FeedDouble, folder: Path
) -> None:
    empty = beside_a_mirror_with_content(feed, folder)
    busy = httpx.Response(429, headers={"Retry-After": "7"}, json={"title": "Busy"})
    away = httpx.Response(503, json={"title": "Away"})
    empty.uploads = [*[busy] * 8, *[away] * 8, httpx.ConnectError("away")]
    assert empty.run("restore", str(folder)).exit_code == 0
    assert uploaded(empty) == sorted([DIGEST, SKILL_MD_DIGEST])

    empty.slept.clear()
    empty.uploads = [busy] * 5000
    result = empty.run("restore", str(folder), "--into-existing")
    assert (result.exit_code, "Busy" in result.output) == (2, True)
    assert sum(empty.slept) <= PATIENCE_SECONDS + 60


def test_content_of_a_skill_that_was_refused_stays(feed: FeedDouble, folder: Path) -> None:
    empty = beside_a_mirror_with_content(feed, folder)
    told = [{"name": "with", "reason": "another skill has its slug"}]
    empty._restore = lambda items: httpx.Response(  # type: ignore[method-assign]  # noqa: ARG005
        200, json={"restored": 9, "present": 0, "rejected": told}
    )
    assert empty.run("restore", str(folder)).exit_code == 1
    assert uploaded(empty) == []
