"""Where forges give out a file at a commit."""

import pytest

from marketplace.skills.forges import raw_file


@pytest.mark.parametrize(
    ("repo_url", "address"),
    [
        ("https://github.com/o/r", "https://raw.githubusercontent.com/o/r/abc/a%20b/SKILL.md"),
        ("git@github.com:o/r.git", "https://raw.githubusercontent.com/o/r/abc/a%20b/SKILL.md"),
        ("https://gitlab.com/g/s/r", "https://gitlab.com/g/s/r/-/raw/abc/a%20b/SKILL.md"),
        ("https://bitbucket.org/o/r", "https://bitbucket.org/o/r/raw/abc/a%20b/SKILL.md"),
        ("https://codeberg.org/o/r", "https://codeberg.org/o/r/raw/commit/abc/a%20b/SKILL.md"),
        ("https://git.example.org/o/r", None),
    ],
)
def test_a_file_at_a_commit(repo_url: str, address: str | None) -> None:
    assert raw_file(repo_url, "abc", "/a b/SKILL.md") == address
    assert raw_file(repo_url, None, "SKILL.md") is None
