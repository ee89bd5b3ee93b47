"""What is read of a repository, and that nothing of it is run."""

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from scanner import folders, tree
from scanner import git as scanner_git
from scanner import skills as scanner_skills
from scanner.git import CommitTree, cloned, find_commit, is_repository
from scanner.skills import Verdict, archive_of, find_skills, misnamed, scan
from scanner.sources import open_source
from scanner.tree import Refused, Unreadable
from tests.unit.scanner.repositories import MIT, commit, git, skill_md, write


def test_a_commit_is_read_and_not_the_work_tree(tmp_path: Path) -> None:
    first = commit(tmp_path, {"a/SKILL.md": skill_md("a"), "LICENSE": MIT})
    second = commit(tmp_path, {"a/SKILL.md": skill_md("a", description="Newer.")})
    write(tmp_path, {"a/SKILL.md": skill_md("a", description="Not committed."), "b/SKILL.md": "x"})
    source = open_source(tmp_path)
    assert (source.commit, source.ref) == (second, "main")
    assert [skill.description for skill in scan(source.tree)] == ["Newer."]
    assert [skill.license for skill in scan(source.tree)] == ["MIT"]
    older = open_source(tmp_path, commit=first)
    assert (older.commit, older.ref) == (first, None)
    assert [skill.description for skill in scan(older.tree)] == ["Does something."]
    assert open_source(tmp_path, commit=first[:12]).commit == first


def test_a_bare_repository_and_a_detached_head_are_read(tmp_path: Path) -> None:
    work, bare = tmp_path / "work", tmp_path / "bare.git"
    head = commit(work, {"a/SKILL.md": skill_md("a")})
    git(tmp_path, "clone", "--quiet", "--bare", str(work), str(bare))
    assert open_source(bare).commit == head
    git(work, "checkout", "--quiet", "--detach")
    assert (open_source(work).commit, open_source(work).ref) == (head, None)


@pytest.mark.parametrize("wanted", ["0" * 40, "main", "HEAD~1", "--output=x", "abc", ""])
def test_a_commit_that_is_none_is_a_sentence(tmp_path: Path, wanted: str) -> None:
    commit(tmp_path, {})
    with pytest.raises(Unreadable, match="commit"):
        find_commit(tmp_path, wanted)


def test_a_repository_without_a_commit_is_a_sentence(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    with pytest.raises(Unreadable, match="no commit yet"):
        open_source(tmp_path)


def test_a_broken_repository_does_not_belong_to_one_further_up(tmp_path: Path) -> None:
    commit(tmp_path, {"a/SKILL.md": skill_md("a")})
    (tmp_path / "inner/.git").mkdir(parents=True)
    with pytest.raises(Unreadable):
        open_source(tmp_path / "inner")


def test_links_and_submodules_of_a_skill_are_refused_and_others_are_not_read(
    tmp_path: Path,
) -> None:
    commit(
        tmp_path, {name: skill_md(name[0]) for name in ("a/SKILL.md", "b/SKILL.md", "c/SKILL.md")}
    )
    (tmp_path / "a/passwd").symlink_to("/etc/passwd")
    (tmp_path / "elsewhere").symlink_to("a")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/SKILL.md").symlink_to("../c/SKILL.md")
    head = commit(tmp_path)
    git(tmp_path, "update-index", "--add", "--cacheinfo", f"160000,{head},b/module")
    git(tmp_path, "commit", "--quiet", "--message", "A submodule")
    skills = {skill.path: skill for skill in scan(open_source(tmp_path).tree)}
    assert list(skills) == ["a", "b", "c"]
    assert [skill.verdict for skill in skills.values()] == [
        Verdict.FAIL,
        Verdict.FAIL,
        Verdict.PASS,
    ]
    assert "is a link" in skills["a"].findings[0].message
    assert "is a submodule" in skills["b"].findings[0].message
    assert skills["a"].files == []
    # The same of a folder as it lies there.
    (tmp_path / "b/pipe").parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "b/pipe")
    lying = {skill.path: skill for skill in scan(open_source(tmp_path, as_it_lies=True).tree)}
    assert list(lying) == ["a", "b", "c"]
    assert "is a link" in lying["a"].findings[0].message
    assert "is a special file" in lying["b"].findings[0].message
    assert lying["c"].content_digest == skills["c"].content_digest


def test_a_tree_that_leads_out_is_refused(tmp_path: Path) -> None:
    """Git would not check it out; its objects can be read all the same."""
    commit(tmp_path, {"a/SKILL.md": skill_md("a")})
    blob = git(tmp_path, "rev-parse", "HEAD:a/SKILL.md")
    inner = git(
        tmp_path, "mktree", text=f"100644 blob {blob}\tSKILL.md\n100644 blob {blob}\tx\\y\n"
    )
    outer = git(tmp_path, "mktree", text=f"040000 tree {inner}\t..\n040000 tree {inner}\tb\n")
    made = git(tmp_path, "commit-tree", outer, "-m", "x")
    skills = scan(open_source(tmp_path, commit=made).tree)
    assert [skill.verdict for skill in skills] == [Verdict.FAIL, Verdict.FAIL]
    assert "leads out" in skills[0].findings[0].message
    assert "character" in skills[1].findings[0].message


def test_too_many_and_too_large_files_are_refused(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"a/{number}": b"" for number in range(tree.MAX_FILES)}
    large = bytes(tree.MAX_BYTES)
    commit(
        tmp_path, files | {"a/SKILL.md": skill_md("a"), "b/SKILL.md": skill_md("b"), "b/x": large}
    )
    first, second = scan(open_source(tmp_path).tree)
    assert "1,000 files" in first.findings[0].message
    assert "50 MiB" in second.findings[0].message
    assert not first.files
    assert not second.may_be_kept


def test_no_program_of_the_repository_is_run(tmp_path: Path) -> None:
    """Hooks, monitors, filters, credential helpers, and transfers of what is not there."""
    repository, ran = tmp_path / "repository", tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    commit(repository, {"a/SKILL.md": skill_md("a"), "a/x": "y", ".gitattributes": "* filter=f\n"})
    for name in (
        "core.fsmonitor",
        "core.pager",
        "core.askPass",
        "filter.f.smudge",
        "diff.external",
    ):
        git(repository, "config", name, str(program))
    for name in (
        "post-checkout",
        "fsmonitor-watchman",
        "reference-transaction",
        "post-index-change",
    ):
        (repository / ".git/hooks").mkdir(exist_ok=True)
        (repository / ".git/hooks" / name).symlink_to(program)
    # A partial clone that lacks an object asks its origin for it, by any program.
    blob = git(repository, "rev-parse", "HEAD:a/x")
    git(repository, "config", "core.repositoryFormatVersion", "1")
    git(repository, "config", "extensions.partialClone", "origin")
    git(repository, "config", "remote.origin.url", f"ext::{program}")
    git(repository, "config", "remote.origin.promisor", "true")
    git(repository, "config", "protocol.ext.allow", "always")
    (repository / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with contextlib.suppress(Unreadable):
        scan(open_source(repository).tree)
    assert not ran.exists()


def test_replaced_objects_do_not_count(tmp_path: Path) -> None:
    first = commit(tmp_path, {"a/SKILL.md": skill_md("a", description="True.")})
    second = commit(tmp_path, {"a/SKILL.md": skill_md("a", description="False.")})
    git(tmp_path, "replace", first, second)
    (skill,) = scan(open_source(tmp_path, commit=first).tree)
    assert skill.description == "True."


def test_what_git_writes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path, {f"file-{number}": "" for number in range(100)})
    monkeypatch.setattr(scanner_git, "_MAX_LISTING_BYTES", 1000)
    with pytest.raises(Refused, match="git wrote more"):
        open_source(tmp_path)


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path, {f"file-{number}": "" for number in range(11)})
    monkeypatch.setattr(scanner_git, "MAX_ENTRIES", 10)
    with pytest.raises(Refused, match="more than 10 files"):
        open_source(tmp_path)


def test_git_is_told_to_run_and_ask_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what no command of today does by itself, but one of another version may."""
    said = tmp_path / "said"
    write(tmp_path, {"bin/git": f'#!/bin/sh\necho "$@" >> {said}\nenv >> {said}\nexit 1\n'})
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("GIT_SSH_COMMAND", "evil")
    options = {f"-c core.hooksPath={os.devnull}", "-c core.fsmonitor=false"}
    settings = {
        *("GIT_CONFIG_NOSYSTEM=1", f"GIT_CONFIG_GLOBAL={os.devnull}", f"HOME={os.devnull}"),
        *("GIT_TERMINAL_PROMPT=0", "GIT_NO_REPLACE_OBJECTS=1"),
    }
    with pytest.raises(Unreadable), cloned("https://127.0.0.1:1/owner/repository"):
        pass
    cloning = said.read_text()
    said.unlink()
    with pytest.raises(Unreadable):
        find_commit(tmp_path)
    for text, protocols in ((cloning, "https"), (said.read_text(), "")):
        assert all(option in text for option in options)
        assert settings | {f"GIT_ALLOW_PROTOCOL={protocols}"} <= set(text.splitlines())
        assert "/elsewhere" not in text
        assert "evil" not in text
    assert {"--bare", "--depth=1", "--no-tags", "--template="} <= set(cloning.split())


def test_git_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path, {})
    slow = tmp_path / "bin/git"
    write(tmp_path, {"bin/git": "#!/bin/sh\nexec sleep 30\n"})
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(scanner_git, "READ_SECONDS", 0.1)
    with pytest.raises(Unreadable, match="took more than"):
        find_commit(tmp_path)


@pytest.mark.parametrize("url", ["ext::touch ran", "file:///", "ssh://x/y", "-u", "/srv"])
def test_only_https_is_cloned(url: str) -> None:
    with pytest.raises(Unreadable, match="https"), cloned(url):
        pass


def test_a_clone_that_fails_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(Unreadable), cloned("https://127.0.0.1:1/owner/repository"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_repository_is(tmp_path: Path) -> None:
    assert not is_repository(tmp_path)
    commit(tmp_path, {})
    assert is_repository(tmp_path)
    assert isinstance(open_source(tmp_path).tree, CommitTree)
    with pytest.raises(Unreadable, match="there is no"):
        open_source(tmp_path / "nothing")


def test_which_folders_are_skills(tmp_path: Path) -> None:
    names = ["SKILL.md", "a/SKILL.md", "a/assets/SKILL.md", "b/c/SKILL.md", "b/skill.md"]
    write(tmp_path, {name: skill_md("x") for name in names})
    source = open_source(tmp_path)
    assert find_skills(source.tree) == ["", "a", "b/c"]
    assert [finding.path for finding in misnamed(source.tree)] == ["b/skill.md"]
    root, inner, _ = scan(source.tree)
    assert [file.path for file in root.files] == sorted(names)
    assert [file.path for file in inner.files] == ["SKILL.md", "assets/SKILL.md"]


def test_a_name_that_is_no_text_is_shown_and_refused(tmp_path: Path) -> None:
    write(tmp_path / os.fsdecode(b"\xff"), {"SKILL.md": skill_md("x")})
    (skill,) = scan(open_source(tmp_path).tree)
    assert (skill.verdict, skill.path) == (Verdict.FAIL, "\\udcff")


def test_what_changes_between_reading_and_reporting_is_not_uploaded(tmp_path: Path) -> None:
    write(tmp_path, {"a/SKILL.md": skill_md("a"), "a/x": "1"})
    source = open_source(tmp_path)
    (skill,) = scan(source.tree)
    assert archive_of(source.tree, skill)[1] == skill_md("a").encode()
    write(tmp_path, {"a/x": "2"})
    with pytest.raises(Refused, match="changed"):
        archive_of(source.tree, skill)


def test_a_file_that_grows_is_not_cut(tmp_path: Path) -> None:
    write(tmp_path, {"a/SKILL.md": skill_md("a"), "a/x": "1"})
    source = open_source(tmp_path)
    write(tmp_path, {"a/x": "1" * 100})
    (skill,) = scan(source.tree)
    assert skill.verdict is Verdict.FAIL
    assert "changed while it was read" in skill.findings[0].message


def test_the_number_of_skills_and_entries_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {f"{name}/SKILL.md": skill_md(name) for name in "abc"})
    monkeypatch.setattr(scanner_skills, "MAX_SKILLS", 2)
    with pytest.raises(Refused, match="2 skills"):
        scan(open_source(tmp_path).tree)
    monkeypatch.setattr(folders, "MAX_ENTRIES", 5)
    with pytest.raises(Refused, match="5 entries"):
        open_source(tmp_path)


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"a/SKILL.md": skill_md("a"), "a/x": "1"})
    source = open_source(tmp_path)
    (tmp_path / "a/x").unlink()
    (tmp_path / "a/x").symlink_to("/etc/hostname")
    (skill,) = scan(source.tree)
    assert skill.verdict is Verdict.FAIL
    assert "cannot be read" in skill.findings[0].message
